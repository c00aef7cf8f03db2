"""A number and everything one must know to compare it: no metric leaves without its protocol."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from orchestrator.checkpoints.selection import Checkpoint
from orchestrator.config import ExperimentConfig
from orchestrator.evaluation.images import ROUNDING


@dataclass(frozen=True)
class Measurement:
    """A metric's name, value, meaning in words, and protocol."""

    name: str
    value: float
    meaning: str
    protocol: dict[str, Any]


def metric_name(metric: str, count: int, extractor: str | None, images: str) -> str:
    """For example ``fid50k_inception_ema``; n images are never called another n (1,234 images: ``fid1234``)."""
    size = f"{count // 1000}k" if count % 1000 == 0 and count else str(count)
    stem = f"{metric}{size}" if extractor else f"{metric}_{size}"
    return "_".join(part for part in (stem, extractor, images) if part)


def sample_protocol(config: ExperimentConfig, checkpoint: Checkpoint) -> dict[str, Any]:
    """How the samples were drawn."""
    train, sampling = config.train, config.sampling
    guidance = dataclasses.asdict(sampling.guidance)
    if sampling.guidance.kind != "power_cosine":
        del guidance["power"]
    if sampling.guidance.kind == "none":
        del guidance["scale"]
    return {
        "weights": {"kind": "ema", "horizon_images": train.ema_horizon_images, "rampup": train.ema_rampup},
        "images_seen": checkpoint.images_seen,
        "samples": config.evaluation.images,
        "sampler": dataclasses.asdict(sampling.sampler),
        "guidance": guidance,
        "schedule": config.diffusion.schedule,
        "prediction": config.diffusion.prediction,
        "labels": "balanced: image i shows class i mod number of classes",
        "seed": config.run.seed,
        "vae": sampling.vae,
        "precision": sampling.precision,
        "rounding": ROUNDING,
    }
