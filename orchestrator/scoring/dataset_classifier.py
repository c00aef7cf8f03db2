"""The classifier of a dataset: a small network, trained once on its images in bounded memory, and kept."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.sampling.parts import Columns
from orchestrator.scoring import pipeline
from orchestrator.scoring.cache import cache_path, get_or_make
from orchestrator.scoring.classifier import (
    TrainedClassifier,
    class_agreement,
    classifier_content,
    read_classifier,
    shrink,
    train_classifier,
)
from orchestrator.scoring.features import FEATURES_FOLDER, SMALL
from orchestrator.scoring.held_out import held_out_mask
from orchestrator.scoring.pipeline import Work
from orchestrator.scoring.real_images import ImageReader, RealImages, dataset_images
from orchestrator.scoring.reference import about

logger = logging.getLogger(__name__)


def load_classifier(config: ExperimentConfig, dataset: LatentDataset) -> TrainedClassifier:
    """The dataset's classifier; see :func:`classifier_file`."""
    return read_classifier(classifier_file(config, dataset))


def classifier_path(config: ExperimentConfig, dataset: LatentDataset) -> str:
    """Where a dataset's classifier is kept."""
    return f"{_base(config, dataset_images(dataset, config))}.safetensors"


def _base(config: ExperimentConfig, images: RealImages) -> str:
    return cache_path(config, about(images, config), "classifier")


def classifier_file(config: ExperimentConfig, dataset: LatentDataset) -> str:
    """The file of a dataset's classifier in the cache, or trained now on the images that are not held out.

    Where a VAE must decode the images, the actors of the evaluation do it.
    """
    torch.set_num_threads(1)
    images = dataset_images(dataset, config)
    base = _base(config, images)
    file = f"{base}.safetensors"

    def make(missing: Sequence[str]) -> None:
        work = Work(config, images, images.ranges, base, keep_small=True)
        is_decoded = dataset.info.kind == "moments"
        if is_decoded:
            pipeline.run(work, "classifier", Console(quiet=True))
        _train(work.parts.read(list(images.ranges)) if is_decoded else _read(work), dataset, file)
        if is_decoded:
            storage.delete_folder(storage.join(base, FEATURES_FOLDER))

    return get_or_make(base, [file], make, lambda path: path)[0]


def _read(work: Work) -> Iterator[Columns]:
    assert isinstance(work.images, RealImages)
    reader = ImageReader(work.images, work.config)
    for piece in work.ranges:
        columns = reader.read(piece)
        yield {**columns, SMALL: shrink(torch.from_numpy(columns["image"])).numpy()}


def _train(pieces: Iterator[Columns], dataset: LatentDataset, file: str) -> None:
    """Train on all images but the held-out ones, and write the network with its accuracy on those.

    The shrunken images lie in a file meanwhile: a million of them take 12 GB.
    """
    with tempfile.TemporaryDirectory(prefix="dimr-classifier-") as folder:
        path, labels, indices = Path(folder) / "images", [], []
        with path.open("wb") as stream:
            for columns in pieces:
                small = columns[SMALL]
                stream.write(small.tobytes())
                labels.append(columns["label"])
                indices.append(columns["index"])
        classes = torch.from_numpy(np.concatenate(labels))
        pixels = np.memmap(path, np.uint8, "r", shape=(len(classes), *small.shape[1:]))
        is_held_out = held_out_mask(dataset.info.num_images)[np.concatenate(indices)]
        seen, held_out = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
        logger.info("Training a classifier on %d images.", len(seen))
        network = train_classifier(pixels, classes, seen, len(dataset.info.class_names), seed=0)
        right = class_agreement(network, pixels, classes, held_out)
        trained_on, channels = len(seen), pixels.shape[1]
        content = classifier_content(
            network, right=right, held_out=len(held_out), trained_on=trained_on, channels=channels
        )
    storage.write_bytes(file, content)
