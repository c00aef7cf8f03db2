"""Reading checkpoints, at any world size, and exporting them."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from dimr_model import DiMR, hub
from orchestrator import storage
from orchestrator.checkpoints.files import failures_as_errors
from orchestrator.checkpoints.reading import CheckpointReader, DataLoadPlanner
from orchestrator.checkpoints.selection import Checkpoint


def load(checkpoint: Checkpoint, state: dict[str, Any]) -> None:
    """Fill a state dict of the same structure in place, at any world size; every rank must call this.

    Raises:
        OSError: it cannot be read.
        UserError: it holds anything but tensors and plain values.
    """
    with failures_as_errors():
        dcp.load(state, storage_reader=CheckpointReader(checkpoint.path), planner=DataLoadPlanner())


def load_ema(checkpoint: Checkpoint) -> DiMR:
    """Load the network with its EMA weights, float32 on the CPU, in eval mode; needs no process group."""
    model = DiMR(checkpoint.config.model)
    weights: dict[str, Tensor] = {name: torch.empty_like(p) for name, p in model.named_parameters()}
    with warnings.catch_warnings(), failures_as_errors():
        # It warns that no process group is there, which is what no_dist says.
        warnings.simplefilter("ignore", UserWarning)
        dcp.load(
            {"ema": weights},
            storage_reader=CheckpointReader(checkpoint.path),
            planner=DataLoadPlanner(),
            no_dist=True,
        )
    model.load_state_dict(weights)
    return model.eval()


def export(checkpoint: Checkpoint, directory: str) -> None:
    """Write the EMA weights as safetensors, and then config.json, for ``DiMR.from_pretrained``."""
    with tempfile.TemporaryDirectory() as folder:
        load_ema(checkpoint).save_pretrained(folder)
        # Readers look for config.json, so it comes when the rest is there.
        for name in (hub.WEIGHTS_FILE, hub.CONFIG_FILE):
            storage.write_bytes(storage.join(directory, name), (Path(folder) / name).read_bytes())
