"""Baselines of a score: held-out real images (the floor) and noise (the ceiling)."""

import dataclasses
import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.sampling.parts import Columns
from orchestrator.scoring import pipeline
from orchestrator.scoring.cache import cache_path, get_or_make
from orchestrator.scoring.extractors import describe_extractor
from orchestrator.scoring.features import FEATURES_FOLDER, collect
from orchestrator.scoring.frechet import FeatureStatistics
from orchestrator.scoring.held_out import held_out_mask, held_out_order
from orchestrator.scoring.metrics import Collected, Target
from orchestrator.scoring.pipeline import Work
from orchestrator.scoring.real_images import RealImages, dataset_images, noise_images
from orchestrator.scoring.reference import (
    Reference,
    about,
    kept,
    make_reference,
    read_reference,
    write_reference,
)

MOST_HELD_OUT = 50_000
"""As many images as FID is usually computed of."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Baselines:
    """Statistics of four fifths of the training dataset, of the other fifth, and of noise."""

    real: Reference
    held_out: Reference
    noise: Reference


def load_baselines(config: ExperimentConfig, dataset: LatentDataset, console: Console) -> Baselines:
    """The baselines' statistics from the cache, or made now, whatever number of images is to be scored.

    Held-out and noise images are as many as will be scored, but no more than there are held-out ones.
    """
    images, described = dataset_images(dataset, config), asdict(describe_extractor(config.evaluation))
    facts = about(images, config) | {"extractor": described}
    base = cache_path(config, facts, f"{described['name']}-controls")
    files = {name: f"{base}-{name}.npz" for name in ("real", "held_out")}

    def make() -> None:
        logger.info("Extracting %s features of %d real images.", described["name"], images.count)
        work = Work(config, images, images.ranges, base)
        pipeline.run(work, "reference", console)
        write_reference(files["real"], _real(work, images), facts | {"part": "four fifths, at random"})
        write_reference(files["held_out"], _held_out(work, images), facts | {"part": "held out"})
        storage.delete_folder(storage.join(base, FEATURES_FOLDER))

    real, held_out = get_or_make(base, list(files.values()), make, read_reference)
    held_out = _first(held_out, config.evaluation.images)
    channels = dataset.info.diffusion_shape[0] if dataset.info.kind == "pixels" else 3
    noise = noise_images(held_out.about["images"], images, channels)
    return Baselines(real, held_out, make_reference(noise, config, described, console))


def _real(work: Work, images: RealImages) -> Collected:
    held_out, is_kept = held_out_mask(images.count), kept(images.count)

    def counted(columns: Columns) -> npt.NDArray[Any]:
        return ~held_out[columns["index"]]

    return collect(
        work.parts, list(images.ranges), counted, lambda columns: is_kept(columns) & counted(columns)
    )


def _held_out(work: Work, images: RealImages) -> Collected:
    """The held-out images' features in their random order, so that any number of them is a fair sample."""
    order = held_out_order(images.count)[:MOST_HELD_OUT]
    place = np.full(images.count, -1)
    place[order] = np.arange(len(order))
    places, features = [], []
    for columns in work.parts.read(list(images.ranges)):
        found = place[columns["index"]]
        places.append(found[found >= 0])
        features.append(columns["features"][found >= 0])
    # An image that could not be decoded is in no part.
    ordered = np.concatenate(features)[np.argsort(np.concatenate(places))]
    return Collected(ordered, FeatureStatistics.of(ordered))


def _first(reference: Reference, count: int) -> Reference:
    """The reference of the first ``count`` of the images whose features a reference keeps, or of all."""
    features = reference.target.features
    assert features is not None
    features = features[:count]
    target = Target(FeatureStatistics.of(features).gaussian(), None, features)
    return dataclasses.replace(reference, target=target, about=reference.about | {"images": len(features)})
