"""Training in several processes without Ray, as torchrun would start them."""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_processes(function: Callable[..., None], world_size: int, *arguments: Any) -> None:
    """Call ``function(*arguments)`` in ``world_size`` processes, each a rank of one process group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_start, (world_size, port, function, arguments), nprocs=world_size)


def _start(rank: int, world_size: int, port: int, function: Callable[..., None], arguments: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    dist.init_process_group("gloo")
    function(*arguments)
    dist.destroy_process_group()
