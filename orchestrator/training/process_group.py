"""The process group of training: gloo between CPUs, NCCL between GPUs.

Importing this does not import torch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def backend_of(on_gpu: bool) -> str:
    """Torch's words for the backend; a group for GPUs has gloo too, for what is on the CPU."""
    return "cpu:gloo,cuda:nccl" if on_gpu else "gloo"


@contextmanager
def of_this_process(device: "torch.device") -> Iterator[None]:
    """A process group of this process alone, unless there is a group already."""
    import torch.distributed as dist

    if dist.is_initialized():
        yield
        return
    dist.init_process_group(backend_of(device.type == "cuda"), store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
