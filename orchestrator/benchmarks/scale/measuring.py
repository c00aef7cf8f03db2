"""Seconds and memory of a piece of work."""

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

REPEATS = 3


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
