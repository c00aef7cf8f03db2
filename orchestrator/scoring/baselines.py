"""Baselines of a score: held-out real images (the floor), noise (the ceiling), and a classifier."""

import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from rich.console import Console

from dimr_model import randomness
from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.sampling.parts import Columns
from orchestrator.scoring import pipeline
from orchestrator.scoring.cache import cache_path, get_or_make
from orchestrator.scoring.classifier import SmallClassifier, class_agreement, train_classifier
from orchestrator.scoring.extractors import describe_extractor
from orchestrator.scoring.features import FEATURES_FOLDER, Choose, collect
from orchestrator.scoring.pipeline import Work
from orchestrator.scoring.real_images import ImageReader, RealImages, dataset_images, noise_images
from orchestrator.scoring.reference import (
    Reference,
    about,
    kept,
    make_reference,
    read_reference,
    write_reference,
)

HELD_OUT_FRACTION = 0.2
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Baselines:
    """Statistics of four fifths of the training dataset, of the other fifth, and of noise."""

    real: Reference
    held_out: Reference
    noise: Reference


@dataclass(frozen=True)
class TrainedClassifier:
    """A small classifier and how often it is right on images it has not seen."""

    network: SmallClassifier
    held_out_accuracy: float
    trained_on: int
    held_out: int


def held_out_mask(num_images: int) -> npt.NDArray[Any]:
    """A mask of source positions: the fixed random fifth that references and classifiers do not see."""
    mask = np.zeros(num_images, bool)
    mask[held_out_order(num_images)] = True
    return mask


def held_out_order(num_images: int) -> npt.NDArray[Any]:
    """The source positions of the held-out images, in a fixed random order."""
    count = int(num_images * HELD_OUT_FRACTION)
    return randomness.generator(0, "held-out").permutation(num_images)[:count]


def load_baselines(config: ExperimentConfig, dataset: LatentDataset, console: Console) -> Baselines:
    """The baselines' statistics from the cache, or made now.

    Held-out and noise images are as many as will be scored, but no more than there are held-out ones.
    """
    images, described = dataset_images(dataset, config), asdict(describe_extractor(config.evaluation))
    count = min(config.evaluation.images, len(held_out_order(dataset.info.num_images)))
    key = [dataset.fingerprint, described, count, config.sampling.vae]
    base = cache_path(config, key, f"{described['name']}-controls")
    files = {name: f"{base}-{name}.npz" for name in ("real", "held_out")}

    def make() -> None:
        logger.info("Extracting %s features of %d real images.", described["name"], images.count)
        _make(Work(config, images, images.ranges, base), images, count, files, described, console)

    real, held_out = get_or_make(base, list(files.values()), make, read_reference)
    channels = dataset.info.diffusion_shape[0] if dataset.info.kind == "pixels" else 3
    noise = make_reference(noise_images(count, images, channels), config, described, console)
    return Baselines(real, held_out, noise)


def _make(
    work: Work, images: RealImages, count: int, files: dict[str, str], described: dict[str, object],
    console: Console,
) -> None:  # fmt: skip
    pipeline.run(work, "reference", console)
    held_out, order = held_out_mask(images.count), held_out_order(images.count)
    chosen = np.zeros(images.count, bool)
    chosen[order[:count]] = True
    is_kept = kept(images.count)

    def among(mask: npt.NDArray[Any]) -> Choose:
        return lambda columns: mask[columns["index"]]

    def kept_real(columns: Columns) -> npt.NDArray[Any]:
        return is_kept(columns) & ~held_out[columns["index"]]

    ranges, facts = list(images.ranges), about(images, described)
    real = collect(work.parts, ranges, among(~held_out), kept_real)
    write_reference(files["real"], real, facts | {"part": "four fifths, at random"})
    write_reference(
        files["held_out"], collect(work.parts, ranges, among(chosen)), facts | {"part": "held out"}
    )
    storage.delete_folder(storage.join(work.folder, FEATURES_FOLDER))


def load_classifier(config: ExperimentConfig, dataset: LatentDataset) -> TrainedClassifier:
    """The dataset's classifier from the cache, or trained now on the images that are not held out."""
    torch.set_num_threads(1)
    base = cache_path(config, [dataset.fingerprint], "classifier")
    file = f"{base}.safetensors"
    num_classes = len(dataset.info.class_names)
    return get_or_make(
        base,
        [file],
        lambda: _train_classifier(config, dataset, file),
        lambda path: _read_classifier(path, num_classes),
    )[0]


def _train_classifier(config: ExperimentConfig, dataset: LatentDataset, file: str) -> None:
    images = dataset_images(dataset, config)
    reader = ImageReader(images, config)
    columns = [reader.read(piece) for piece in images.ranges]
    pixels, labels, indices = (
        np.concatenate([c[name] for c in columns]) for name in ("image", "label", "index")
    )
    held_out = held_out_mask(dataset.info.num_images)[indices]
    logger.info("Training a classifier on %d images.", int((~held_out).sum()))
    network = train_classifier(
        torch.from_numpy(pixels[~held_out]), torch.from_numpy(labels[~held_out]),
        len(dataset.info.class_names), seed=0,
    )  # fmt: skip
    right = class_agreement(network, torch.from_numpy(pixels[held_out]), torch.from_numpy(labels[held_out]))
    facts = {
        "right": right,
        "held_out": int(held_out.sum()),
        "trained_on": int((~held_out).sum()),
        "channels": pixels.shape[1],
    }
    tensors = network.state_dict() | {k: torch.tensor(v) for k, v in facts.items()}
    storage.write_bytes(file, safetensors.torch.save(tensors))


def _read_classifier(file: str, num_classes: int) -> TrainedClassifier:
    stored = safetensors.torch.load(storage.read_bytes(file))
    right, count, trained_on, channels = (
        int(stored.pop(name)) for name in ("right", "held_out", "trained_on", "channels")
    )
    network = SmallClassifier(channels, num_classes)
    network.load_state_dict(stored)
    return TrainedClassifier(network.eval(), right / count, trained_on, count)
