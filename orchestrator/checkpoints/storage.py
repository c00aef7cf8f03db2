"""Writing and reading checkpoints with torch's distributed checkpoint: in place, by all ranks, the marker last."""

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor

from dimr_model import DiMR
from orchestrator.checkpoints.selection import CONFIG_FILE, MARKER, Checkpoint, describe_file, write_marker
from orchestrator.config import ExperimentConfig
from orchestrator.config_io import to_yaml


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
    dist.all_gather_object(gathered, {file.name: describe_file(file) for file in own})
    if is_first_rank:
        files = {name: description for part in gathered if part for name, description in sorted(part.items())}
        write_marker(checkpoint, files)
    dist.barrier()
    return checkpoint


def load(checkpoint: Checkpoint, state: dict[str, Any]) -> None:
    """Fill a state dict of the same structure in place, at any world size; every rank must call this."""
    dcp.load(state, checkpoint_id=checkpoint.path)


def load_ema(checkpoint: Checkpoint) -> DiMR:
    """The network with its EMA weights, float32 on the CPU, in eval mode; needs no process group."""
    model = DiMR(checkpoint.config.model)
    weights: dict[str, Tensor] = {name: torch.empty_like(p) for name, p in model.named_parameters()}
    with warnings.catch_warnings():
        # It warns that no process group is there, which is what no_dist says.
        warnings.simplefilter("ignore", UserWarning)
        dcp.load({"ema": weights}, checkpoint_id=checkpoint.path, no_dist=True)
    model.load_state_dict(weights)
    return model.eval()


def export(checkpoint: Checkpoint, directory: Path) -> None:
    """Write the EMA weights as safetensors with config.json, which ``DiMR.from_pretrained`` loads without Ray."""
    load_ema(checkpoint).save_pretrained(directory)
