"""Everything that a checkpoint holds, to compare runs by."""

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from orchestrator.checkpoints.loading import load
from orchestrator.checkpoints.selection import newest_valid
from orchestrator.config.schema import ExperimentConfig
from orchestrator.training.state import fresh_state


def whole_state(config: ExperimentConfig, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Every tensor of the run's newest checkpoint, whole, by its path.

    Paths are ``/model/...``, ``/optimizer/...`` and ``/ema/...``.
    """
    checkpoint = newest_valid(config.directory)
    assert checkpoint is not None and checkpoint.images_seen == config.train.images
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    torch.set_default_dtype(dtype)
    try:
        state = fresh_state(config, init_device_mesh("cpu", (1,)), torch.device("cpu")).state_dict()
        load(checkpoint, state)
        return {name: value.clone() for name, value in _leaves("", state)}
    finally:
        torch.set_default_dtype(torch.float32)
        dist.destroy_process_group()


def _leaves(path: str, value: Any) -> list[tuple[str, torch.Tensor]]:
    if isinstance(value, dict):
        return [leaf for name, inner in value.items() for leaf in _leaves(f"{path}/{name}", inner)]
    if isinstance(value, DTensor):
        return [(path, value.full_tensor())]
    return [(path, value)] if isinstance(value, torch.Tensor) else []
