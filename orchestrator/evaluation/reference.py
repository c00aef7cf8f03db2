"""What samples are compared with: statistics of real images, controls, and a classifier; cached beside the dataset."""

import dataclasses
import hashlib
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor

from dimr_model import randomness
from orchestrator import storage
from orchestrator.config import ExperimentConfig
from orchestrator.evaluation.classifier import SmallClassifier, class_agreement, train_classifier
from orchestrator.evaluation.extractors import ExtractorDescription, load_extractor, to_rgb
from orchestrator.evaluation.images import Decoder
from orchestrator.evaluation.statistics import FeatureStatistics
from orchestrator.latents.format import LatentDataset, read_rows, to_arrays

HELD_OUT_FRACTION = 0.2
BATCH_SIZE = 100
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """Feature statistics of real images, of others held out from them, and of noise."""

    extractor: ExtractorDescription
    real: FeatureStatistics
    held_out: FeatureStatistics
    noise: FeatureStatistics
    sha256: str
    """Of the file that holds the statistics."""


@dataclass(frozen=True)
class TrainedClassifier:
    """A small classifier and how often it is right on images it has not seen."""

    network: SmallClassifier
    held_out_accuracy: float
    trained_on: int
    held_out: int


def held_out_indices(dataset: LatentDataset) -> set[int]:
    """Source positions of the images that references and classifiers do not see: a fixed random fifth."""
    count = int(dataset.info.num_images * HELD_OUT_FRACTION)
    permuted = randomness.generator(0, "held-out").permutation(dataset.info.num_images)
    return set(permuted[:count].tolist())


def load_reference(config: ExperimentConfig, dataset: LatentDataset) -> Reference:
    """Statistics from the cache, or made now.

    Held-out and noise images are as many as will be scored, at most a fifth of the dataset.
    """
    torch.set_num_threads(1)
    extractor, description = load_extractor(config.evaluation)
    count = min(config.evaluation.images, int(dataset.info.num_images * HELD_OUT_FRACTION))
    key = hashlib.sha256(
        json.dumps(
            [dataset.fingerprint, dataclasses.asdict(description), count, config.sampling.vae]
        ).encode()
    ).hexdigest()[:16]
    cache = storage.join(_cache_folder(config, dataset), f"{description.name}-{key}.npz")
    if not storage.is_file(cache):
        logger.info("Extracting %s features of %d real images.", description.name, dataset.info.num_images)
        statistics = _extract(config, dataset, extractor, count)
        content = io.BytesIO()
        np.savez(content, **{f"{k}_{f.name}": getattr(s, f.name) for k, s in statistics.items()
                             for f in dataclasses.fields(s)})  # fmt: skip
        storage.write_bytes(cache, content.getvalue())
    stored_bytes = storage.read_bytes(cache)
    sha256 = hashlib.sha256(stored_bytes).hexdigest()
    with np.load(io.BytesIO(stored_bytes), allow_pickle=False) as stored:
        parts = {
            k: FeatureStatistics(int(stored[f"{k}_count"]), stored[f"{k}_total"], stored[f"{k}_outer"])
            for k in ("real", "held_out", "noise")
        }
    return Reference(description, **parts, sha256=sha256)


def load_classifier(config: ExperimentConfig, dataset: LatentDataset) -> TrainedClassifier:
    """The dataset's classifier from the cache, or trained now on the images that are not held out."""
    torch.set_num_threads(1)
    cache = storage.join(_cache_folder(config, dataset), f"classifier-{dataset.fingerprint}.safetensors")
    channels, num_classes = dataset.info.diffusion_shape[0], len(dataset.info.class_names)
    if not storage.is_file(cache):
        held_out = held_out_indices(dataset)
        images, labels, indices = (
            torch.cat(column) for column in zip(*_real_images(config, dataset), strict=True)
        )
        is_held_out = torch.tensor([int(index) in held_out for index in indices])
        logger.info("Training a classifier on %d images.", int((~is_held_out).sum()))
        network = train_classifier(images[~is_held_out], labels[~is_held_out], num_classes, seed=0)
        right = class_agreement(network, images[is_held_out], labels[is_held_out])
        facts = {"right": right, "held_out": int(is_held_out.sum()), "trained_on": int((~is_held_out).sum())}
        tensors = network.state_dict() | {k: torch.tensor(v) for k, v in facts.items()}
        storage.write_bytes(cache, safetensors.torch.save(tensors))
    stored = safetensors.torch.load(storage.read_bytes(cache))
    right, count, trained_on = (int(stored.pop(name)) for name in ("right", "held_out", "trained_on"))
    network = SmallClassifier(channels, num_classes)
    network.load_state_dict(stored)
    return TrainedClassifier(network.eval(), right / count, trained_on, count)


def _extract(
    config: ExperimentConfig, dataset: LatentDataset, extractor: Any, count: int
) -> dict[str, FeatureStatistics]:
    held_out = held_out_indices(dataset)
    features: dict[str, list[npt.NDArray[Any]]] = {"real": [], "held_out": [], "noise": []}
    shape = (1, 1, 1)
    for images, _, indices in _real_images(config, dataset):
        (batch,) = extractor(to_rgb(images))
        mask = np.array([int(index) in held_out for index in indices])
        features["real"].append(batch.numpy()[~mask])
        features["held_out"].append(batch.numpy()[mask])
        shape = (images.shape[1], images.shape[2], images.shape[3])
    decoder = Decoder(None, None, torch.device("cpu"))
    for start in range(0, count, BATCH_SIZE):
        noise = randomness.normal(0, "noise-images", range(start, min(start + BATCH_SIZE, count)), shape)
        features["noise"].append(extractor(to_rgb(decoder.decode(torch.from_numpy(noise))))[0].numpy())
    rows = {name: np.concatenate(parts) for name, parts in features.items()}
    rows["held_out"] = rows["held_out"][:count]
    return {name: FeatureStatistics.of(part) for name, part in rows.items()}


def _real_images(config: ExperimentConfig, dataset: LatentDataset) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(uint8 images, labels, source positions) in batches; flipped rows are left out, latents are decoded."""
    info = dataset.info
    decoder = Decoder(config.sampling.vae, info.scaling_factor, torch.device("cpu"))
    for table in read_rows(dataset, BATCH_SIZE):
        keep = ~table["flipped"].to_numpy()
        stored = torch.from_numpy(np.array(to_arrays(info, table))[keep])
        if info.kind == "moments":
            assert info.scaling_factor is not None
            stored = decoder.decode(stored.float().chunk(2, dim=1)[0] * info.scaling_factor)
        labels, indices = (
            torch.from_numpy(table[name].to_numpy()[keep].astype(np.int64)) for name in ("label", "index")
        )
        yield stored, labels, indices


def _cache_folder(config: ExperimentConfig, dataset: LatentDataset) -> str:
    """``statistics/`` beside a local dataset's files; with the runs where the dataset is not on a local disk."""
    return storage.join(dataset.path if storage.is_local(dataset.path) else config.run.root, "statistics")
