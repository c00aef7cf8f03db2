"""The process group of training: gloo between CPUs, NCCL between GPUs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


def backend_of(device: torch.device) -> str:
    """Torch's words for the backend; a group for GPUs has gloo too, for what is on the CPU."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


@contextmanager
def of_this_process(device: torch.device) -> Iterator[None]:
    """A process group of this process alone, unless there is a group already."""
    if dist.is_initialized():
        yield
        return
    dist.init_process_group(backend_of(device), store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
