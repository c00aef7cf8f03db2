"""Training in several processes without Ray, as torchrun would start them."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

_ranks: list[tuple[BaseProcess, Connection]] = []
"""Processes that wait for the next call."""
_FORKS = multiprocessing.get_context("forkserver")
# What all ranks need is loaded once, which takes seconds, and not by each of them.
_FORKS.set_forkserver_preload(["torch._dynamo", "torch.distributed.fsdp", "orchestrator.training.worker"])


def in_processes(function: Callable[..., None], world_size: int, *arguments: Any) -> None:
    """Call ``function(*arguments)`` in ``world_size`` processes, each a rank of one process group.

    Raises:
        AssertionError: it failed in one of them; the message has that rank's traceback.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    while len(_ranks) < world_size:
        _ranks.append(_start())
    working = [connection for _, connection in _ranks[:world_size]]
    for rank, connection in enumerate(working):
        environment = {
            "RANK": str(rank), "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        connection.send((environment, function, arguments))
    while working:
        for connection in wait(working):
            assert isinstance(connection, Connection)
            working.remove(connection)
            problem = _answer(connection)
            if problem:
                # The others wait for this rank for ever.
                while _ranks:
                    _ranks.pop()[0].kill()
                raise AssertionError(problem)


def _start() -> tuple[BaseProcess, Connection]:
    ours, theirs = multiprocessing.Pipe()
    process = _FORKS.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    return process, ours


def _answer(connection: Connection) -> str:
    try:
        return str(connection.recv())
    except (EOFError, ConnectionError) as error:
        return f"a rank ended without an answer: {error!r}"


def _serve(connection: Connection) -> None:
    """Do one call after another, and answer each with its traceback, which is empty where it went well."""
    import torch
    import torch.distributed as dist
    from torch.distributed.tensor.debug import _clear_sharding_prop_cache

    torch.set_num_threads(1)
    while True:
        environment, function, arguments = connection.recv()
        os.environ |= environment
        try:
            dist.init_process_group("gloo")
            function(*arguments)
            dist.destroy_process_group()
            # What is kept of an equal mesh names groups that are gone.
            _clear_sharding_prop_cache()
            connection.send("")
        except BaseException:
            connection.send(traceback.format_exc())
            raise
