"""Waiting for a condition that no event tells of, and for how long."""

import time
from collections.abc import Callable

import psutil

STARTED_IN = time.time() - psutil.Process().create_time()
"""Seconds that this process took to start and to load what the tests import."""
PATIENCE = max(600.0, 300 * STARTED_IN)
"""Seconds after which a test gives up waiting; more where the machine is slow or busy and that took long."""


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Ask until ``condition()`` is true.

    Raises:
        AssertionError: it was not within ``PATIENCE``.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} seconds: {what}"
        time.sleep(0.1)
