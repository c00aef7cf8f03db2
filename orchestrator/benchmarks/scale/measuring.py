"""Seconds and memory of a piece of work."""

import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

from orchestrator.embedded_ray import MIN_CPUS, start_embedded

REPEATS = 3


@contextmanager
def small_ray(cpus: int = MIN_CPUS) -> Iterator[None]:
    """A Ray on this machine without its dashboard, of so many logical CPUs; or the one that is connected."""
    is_ours = not ray.is_initialized()
    if is_ours:
        start_embedded(least_cpus=cpus, include_dashboard=False)
    try:
        yield
    finally:
        if is_ours:
            ray.shutdown()


def seconds_of(work: Callable[[], Any], repeats: int = 1) -> float:
    """Seconds that ``work`` takes; the least of ``repeats``, because others use the machine too."""
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def bytes_of(work: Callable[[], Any]) -> int:
    """The most memory that Python and numpy hold at once for ``work``, beside what they held before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
