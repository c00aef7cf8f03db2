"""Checkpoints: torch's distributed checkpoint, written in place by all ranks, with a marker that comes last.

``checkpoints/<images_seen>/`` holds the shards, ``config.yaml`` and the marker ``COMPLETE.json``, which lists every file
with its size and sha256. Only a folder whose marker agrees with its files is a checkpoint.
"""

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import yaml
from torch import Tensor

from dimr_model import DiMR
from orchestrator.config import ExperimentConfig, from_dict, to_yaml
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


def save(config: ExperimentConfig, images_seen: int, state: dict[str, Any]) -> Checkpoint:
    """Write a state dict; every rank must call this. It returns when the checkpoint is complete on all ranks."""
    checkpoint = Checkpoint(config.directory / "checkpoints" / str(images_seen), images_seen)
    path, is_first_rank = checkpoint.path, dist.get_rank() == 0
    if is_first_rank:
        path.mkdir(parents=True, exist_ok=True)
        (path / MARKER).unlink(missing_ok=True)
        (path / CONFIG_FILE).write_text(to_yaml(config))
    dist.barrier()
    dcp.save(state, checkpoint_id=path)

    own = [file for file in path.iterdir() if file.name.startswith(f"__{dist.get_rank()}_")]
    if is_first_rank:
        own += [path / ".metadata", path / CONFIG_FILE]
    gathered: list[dict[str, Any] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, {file.name: _describe(file) for file in own})
    if is_first_rank:
        files = {name: description for part in gathered if part for name, description in sorted(part.items())}
        _write_durably(path / MARKER, {"images_seen": images_seen, "schema_version": SCHEMA_VERSION, "files": files})
    dist.barrier()
    return checkpoint


def load(checkpoint: Checkpoint, state: dict[str, Any]) -> None:
    """Fill a state dict of the same structure in place, at any world size; every rank must call this."""
    dcp.load(state, checkpoint_id=checkpoint.path)


def newest_valid(run_directory: Path) -> Checkpoint | None:
    """The newest complete checkpoint of a run; broken newer ones are named in a warning and passed over."""
    for checkpoint in reversed(_all(run_directory)):
        problem = _problem(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning("Passing over the checkpoint %s: %s.", checkpoint.path, problem)
    return None


def load_ema(checkpoint: Checkpoint) -> DiMR:
    """The network with its EMA weights, float32 on the CPU, in eval mode; needs no process group."""
    model = DiMR(checkpoint.config.model)
    weights: dict[str, Tensor] = {name: torch.empty_like(p) for name, p in model.named_parameters()}
    dcp.load({"ema": weights}, checkpoint_id=checkpoint.path, no_dist=True)
    model.load_state_dict(weights)
    return model.eval()


def export(checkpoint: Checkpoint, directory: Path) -> None:
    """Write the EMA weights as safetensors with config.json, which ``DiMR.from_pretrained`` loads without Ray."""
    load_ema(checkpoint).save_pretrained(directory)


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
        if _describe(file) != expected:
            return f"{name} differs from what {MARKER} lists"
    return None


def _describe(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _write_durably(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that after a crash the file is either whole or absent."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as stream:
        json.dump(content, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(path)
