"""The Ray that runs on this machine alone, where no cluster is named; it starts on busy machines too."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import ray
import ray._private.services

from orchestrator.errors import UserError

MIN_CPUS = 4
OBJECT_STORE_BYTES = 1 << 30
START_SECONDS = 300.0
"""How long a node may take to start. A few seconds are usual, many times that where others use the CPUs."""
TRIES = 5
"""Ray's node gives up a start by itself where its agent is later than 15 seconds; no setting changes that."""
logger = logging.getLogger(__name__)


def start_embedded(least_cpus: int = MIN_CPUS, **options: Any) -> None:
    """Start a Ray on this machine, and connect to it; a start that fails is tried again.

    Args:
        least_cpus: the fewest logical CPUs. A worker holds one for its whole life and reading needs another,
            even where there are two cores.
        options: what else :func:`ray.init` takes.

    Raises:
        UserError: Ray did not start in any of ``TRIES`` tries.
    """
    settings = {
        "num_cpus": max(least_cpus, os.cpu_count() or 1),
        "object_store_memory": OBJECT_STORE_BYTES,
        "logging_level": logging.WARNING,
        # A dozen processes, which nobody looks at here.
        "include_dashboard": False,
        **options,
    }
    for tried in range(1, TRIES + 1):
        before = set(_children())
        try:
            with _node_may_take(START_SECONDS):
                ray.init(address="local", **settings)
            return
        except Exception as error:  # A node that is late is a bare Exception.
            ray.shutdown()
            # Ray forgets the processes of a node that did not start.
            for process in set(_children()) - before:
                process.kill()
            if tried == TRIES:
                raise UserError(
                    f"Ray did not start on this machine in {TRIES} tries ({error}). Its logs are in "
                    "/tmp/ray/session_latest/logs. See whether memory, /dev/shm and /tmp have room, and "
                    "start the command again."
                ) from error
            logger.warning("Ray did not start (%s). It is tried again.", error)


def _children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _is_starting(process: psutil.Process) -> bool:
    return process.name() == "raylet" and process.status() != psutil.STATUS_ZOMBIE


@contextmanager
def _node_may_take(seconds: float) -> Iterator[None]:
    """Have Ray wait so long for its node, as long as the node's process lives.

    Ray waits for 30 seconds (``ray/_private/node.py``), and no setting changes that.
    """
    services: Any = ray._private.services
    ask = services.get_node

    def ask_patiently(*arguments: Any) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            try:
                return ask(*arguments)
            except RuntimeError:
                starts = any(_is_starting(process) for process in psutil.Process().children())
                if not starts or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    services.get_node = ask_patiently
    try:
        yield
    finally:
        services.get_node = ask
