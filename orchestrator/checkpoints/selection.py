"""Which folders are checkpoints, and which one to continue from; importing this costs no torch.

``checkpoints/<images_seen>/`` holds the shards, ``config.yaml`` and the marker ``COMPLETE.json``, which is written last
and lists every file with its size and sha256. Only a folder whose marker agrees with its files is a checkpoint.
"""

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from orchestrator.config import ExperimentConfig
from orchestrator.config_io import from_dict
from orchestrator.errors import UserError

MARKER = "COMPLETE.json"
CONFIG_FILE = "config.yaml"
SCHEMA_VERSION = 1
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    path: Path
    images_seen: int

    @property
    def config(self) -> ExperimentConfig:
        """The configuration that it was trained with."""
        return from_dict(yaml.safe_load((self.path / CONFIG_FILE).read_text()))


def newest_valid(run_directory: Path) -> Checkpoint | None:
    """The newest complete checkpoint of a run; broken newer ones are named in a warning and passed over."""
    for checkpoint in reversed(_all(run_directory)):
        problem = _problem(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning("Passing over the checkpoint %s: %s.", checkpoint.path, problem)
    return None


def _all(run_directory: Path) -> list[Checkpoint]:
    folders = (run_directory / "checkpoints").glob("*")
    found = [Checkpoint(folder, int(folder.name)) for folder in folders if folder.name.isdigit()]
    return sorted(found, key=lambda checkpoint: checkpoint.images_seen)


def _problem(checkpoint: Checkpoint) -> str | None:
    """Why a folder is no checkpoint, or None if it is one."""
    try:
        marker = json.loads((checkpoint.path / MARKER).read_text())
    except FileNotFoundError:
        return f"it has no {MARKER}, so writing it was interrupted"
    except ValueError:
        return f"its {MARKER} is broken"
    if marker.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"The checkpoint {checkpoint.path} has schema version {marker.get('schema_version')}, this code reads "
            f"{SCHEMA_VERSION}. Continue it with the code that wrote it."
        )
    for name, expected in marker["files"].items():
        file = checkpoint.path / name
        if not file.is_file():
            return f"{name} is missing"
        if describe_file(file) != expected:
            return f"{name} differs from what {MARKER} lists"
    return None


def describe_file(file: Path) -> dict[str, Any]:
    """Size and sha256 of a file, as the marker lists them."""
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def write_marker(checkpoint: Checkpoint, files: dict[str, Any]) -> None:
    """Declare a checkpoint complete; after a crash the marker is either whole or absent."""
    content = {"images_seen": checkpoint.images_seen, "schema_version": SCHEMA_VERSION, "files": files}
    path = checkpoint.path / MARKER
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as stream:
        json.dump(content, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(path)
