"""The score of a VAE on real images: the floor of what training in its latents can reach."""

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.compatibility import describe_vae
from orchestrator.errors import UserError
from orchestrator.run.folder import METRICS_FILE, VAE_FOLDER, write_text
from orchestrator.scoring import pipeline
from orchestrator.scoring.extractors import ExtractorDescription, describe_extractors
from orchestrator.scoring.features import collect
from orchestrator.scoring.metrics import Metric, all_metrics
from orchestrator.scoring.protocol import VERSION, Measurement, distance_name
from orchestrator.scoring.real_images import RealImages
from orchestrator.scoring.reconstruction import METHOD, WINDOW, Reconstructions
from orchestrator.scoring.reference import about, make_references


def score_vae(config: ExperimentConfig, images: RealImages, console: Console) -> tuple[str, dict[str, Any]]:
    """Compare images with what the VAE makes of them; returns the folder of the numbers, and the numbers.

    They are as in ``metrics.json``. What is finished is not done again.

    Raises:
        UserError: there is no VAE, or no images to give to it.
    """
    _require_images(config, images)
    described, extractors = describe_extractors(config.evaluation), config.evaluation.extractors
    references = make_references(images, config, described, console)
    facts: dict[str, Any] = {
        "version": VERSION,
        "vae": describe_vae(config),
        "reconstruction": METHOD,
        "reconstructed": images.count,
    }
    folder = _folder(config, images, facts, described)
    work = pipeline.Work(config, Reconstructions(images), images.ranges, folder, extractors=extractors)
    pipeline.run(work, "reconstruct", console)
    found = collect(work.parts, list(images.ranges), extractors, tenths_of=images.count)
    measurements = []
    for one, reference in zip(described, references, strict=True):
        against = {
            "extractor": dataclasses.asdict(one),
            "reference": {**reference.about, "sha256": reference.sha256},
        }
        metrics = all_metrics(found[one.name], reference.target, one.name)
        distance = next(metric for metric in metrics if metric.name == distance_name(one.name))
        measurements.append(_of_distance(distance, images.count, one.name, facts | against))
    measurements += _of_pairs(work, facts | {"images": about(images, config)})
    numbers = {one.name: one.plain() for one in measurements}
    write_text(folder, METRICS_FILE, json.dumps({"metrics": numbers}, indent=1))
    return folder, numbers


def _folder(
    config: ExperimentConfig, images: RealImages, facts: dict[str, Any], described: list[ExtractorDescription]
) -> str:
    """Where the parts and numbers of one protocol lie."""
    looked_at = {name: fact for name, fact in about(images, config).items() if name != "source"}
    judges = [dataclasses.asdict(one) for one in described]
    key = json.dumps([facts, looked_at, judges], sort_keys=True)
    name = f"{facts['vae']['name'].replace('/', '-')}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    return storage.join(config.run.root, VAE_FOLDER, name)


def _of_pairs(work: pipeline.Work, protocol: dict[str, Any]) -> list[Measurement]:
    """The metrics that compare each image with its own original."""
    meanings = {
        "psnr": "peak signal-to-noise ratio in decibels, the mean over images; higher is better",
        "ssim": "structural similarity, the mean over images; higher is better",
    }
    of_parts: dict[str, list[npt.NDArray[Any]]] = {metric: [] for metric in meanings}
    for columns in work.parts.read(list(work.ranges)):
        for metric, seen in of_parts.items():
            seen.append(columns[metric])
    found = []
    for metric, meaning in meanings.items():
        values = np.concatenate(of_parts[metric])
        error = float(values.std(ddof=1) / np.sqrt(len(values)))
        found.append(
            Measurement(
                metric=metric,
                count=len(values),
                extractor=None,
                images="",
                value=float(values.mean()),
                error=error,
                meaning=meaning,
                protocol=protocol | {"settings": {"error": "standard error of the mean"}},
            )
        )
    return found


def _of_distance(metric: Metric, count: int, extractor: str, protocol: dict[str, Any]) -> Measurement:
    return Measurement(
        metric=f"r{metric.name}",
        count=count,
        extractor=extractor,
        images="",
        value=metric.value,
        error=metric.error,
        meaning="distance of reconstructed images to the real ones: the floor for networks on its latents",
        protocol=protocol | {"settings": metric.settings},
    )


def _require_images(config: ExperimentConfig, images: RealImages) -> None:
    if config.sampling.vae is None:
        raise UserError(
            "There is no VAE to look at: sampling.vae is null. Name one with --sampling.vae, a folder or a "
            "hub name, or take a preset of latents such as --config imagenet256_g2r."
        )
    if images.dataset is not None and images.dataset.info.kind == "moments":
        raise UserError(
            f"{images.path} holds latents, which the VAE's encoder has made already. Name the images "
            "themselves with --images: a folder, an .npz, or a dataset of pixels."
        )
    if images.resolution < WINDOW:
        raise UserError(
            f"The images at {images.path} are {images.resolution}x{images.resolution}, and SSIM takes "
            f"at least {WINDOW}x{WINDOW}."
        )
