"""Baselines of a score: held-out real images (the floor) and noise (the ceiling)."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from orchestrator import storage
from orchestrator.config.evaluation import ExtractorKind
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.sampling.parts import Columns
from orchestrator.scoring import pipeline
from orchestrator.scoring.cache import cache_path, get_or_make
from orchestrator.scoring.extractors import describe_extractors
from orchestrator.scoring.features import FEATURES_FOLDER, collect
from orchestrator.scoring.frechet import FeatureStatistics
from orchestrator.scoring.held_out import held_out_mask, held_out_order
from orchestrator.scoring.metrics import Collected, Target
from orchestrator.scoring.pipeline import Work
from orchestrator.scoring.real_images import RealImages, dataset_images, noise_images
from orchestrator.scoring.reference import (
    Reference,
    base_of,
    facts_of,
    kept,
    make_references,
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


def load_baselines(config: ExperimentConfig, dataset: LatentDataset, console: Console) -> list[Baselines]:
    """Each extractor's baselines from the cache, or made now, whatever number of images is to be scored.

    One pass over the images makes what is missing for all of them. Held-out and noise images are as many as
    will be scored, but no more than there are held-out ones.
    """
    images, described = dataset_images(dataset, config), describe_extractors(config.evaluation)
    facts = {one.name: facts_of(images, config, one) for one in described}
    bases = {kind: cache_path(config, about, f"{kind}-controls") for kind, about in facts.items()}
    files = {f"{base}-{part}.npz": kind for kind, base in bases.items() for part in ("real", "held_out")}

    def make(missing: Sequence[str]) -> None:
        kinds = tuple(dict.fromkeys(files[file] for file in missing))
        logger.info("Extracting %s features of %d real images.", " and ".join(kinds), images.count)
        work = Work(
            config, images, images.ranges, base_of(images, config, described, kinds), extractors=kinds
        )
        pipeline.run(work, "reference", console)
        real, held_out = _real(work, images), _held_out(work, images)
        for kind in kinds:
            parts = {"part": "four fifths, at random"}, {"part": "held out"}
            write_reference(f"{bases[kind]}-real.npz", real[kind], facts[kind] | parts[0])
            write_reference(f"{bases[kind]}-held_out.npz", held_out[kind], facts[kind] | parts[1])
        storage.delete_folder(storage.join(work.folder, FEATURES_FOLDER))

    made = get_or_make(base_of(images, config, described, tuple(facts)), list(files), make, read_reference)
    held_out = [_first(reference, config.evaluation.images) for reference in made[1::2]]
    channels = dataset.info.diffusion_shape[0] if dataset.info.kind == "pixels" else 3
    noise = noise_images(held_out[0].about["images"], images, channels)
    of_noise = make_references(noise, config, described, console)
    return [Baselines(*three) for three in zip(made[::2], held_out, of_noise, strict=True)]


def _real(work: Work, images: RealImages) -> dict[ExtractorKind, Collected]:
    held_out, is_kept = held_out_mask(images.count), kept(images.count)

    def counted(columns: Columns) -> npt.NDArray[Any]:
        return ~held_out[columns["index"]]

    def both(columns: Columns) -> npt.NDArray[Any]:
        return is_kept(columns) & counted(columns)

    return collect(work.parts, list(images.ranges), work.extractors, counted, both)


def _held_out(work: Work, images: RealImages) -> dict[ExtractorKind, Collected]:
    """The held-out images' features in their random order, so that any number of them is a fair sample."""
    order = held_out_order(images.count)[:MOST_HELD_OUT]
    place = np.full(images.count, -1)
    place[order] = np.arange(len(order))
    places: list[npt.NDArray[Any]] = []

    def chosen(columns: Columns) -> npt.NDArray[Any]:
        found = place[columns["index"]]
        places.append(found[found >= 0])
        return found >= 0

    found = collect(work.parts, list(images.ranges), work.extractors, chosen)
    # An image that could not be decoded is in no part.
    ordered = np.argsort(np.concatenate(places))
    return {kind: Collected(one.features[ordered], parts=one.parts) for kind, one in found.items()}


def _first(reference: Reference, count: int) -> Reference:
    """The reference of the first ``count`` of the images whose features a reference keeps, or of all."""
    features = reference.target.features
    assert features is not None
    features = features[:count]
    target = Target(FeatureStatistics.of(features).gaussian(), None, features)
    return dataclasses.replace(reference, target=target, about=reference.about | {"images": len(features)})
