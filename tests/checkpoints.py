"""Checkpoints that hold nothing but their marker, for tests of what is kept and made of them."""

from pathlib import Path
from typing import Any

from orchestrator.checkpoints.selection import Checkpoint, Marker
from orchestrator.config.schema import ExperimentConfig
from tests.configs import tiny


def settings(root: Path, **train: Any) -> ExperimentConfig:
    return tiny(root, str(root / "data"), train={"images": 1024, "checkpoint_every_images": 16, **train})


def checkpoint(config: ExperimentConfig, images_seen: int) -> Checkpoint:
    made = Checkpoint(f"{config.directory}/checkpoints/{images_seen}", images_seen)
    Marker(files={}).write(made)
    return made
