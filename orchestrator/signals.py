"""Ctrl-C, SIGTERM and ``ray job stop`` end training at its next step, with a checkpoint."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")
SIGNALS = (signal.SIGINT, signal.SIGTERM)
JOB_STOP_SECONDS_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"
JOB_STOP_SECONDS = 3.0
"""What ``ray job stop`` waits after SIGTERM, unless the variable says otherwise (Ray 2.60)."""


class Stopper:
    """A context manager around a whole job, which takes the signals that ask it to stop.

    Only the main thread can be told by signals; in other threads it does nothing.
    """

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._on_request: Callable[[], None] | None = None

    def __enter__(self) -> "Stopper":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def asks(self, on_request: Callable[[], None]) -> Iterator[None]:
        """Inside, the first signal calls ``on_request`` instead of raising KeyboardInterrupt."""
        self._on_request = on_request
        try:
            yield
        finally:
            self._on_request = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        on_request, self._on_request = self._on_request, None
        if on_request is None:
            raise KeyboardInterrupt
        on_request()


def seconds_until_killed() -> float | None:
    """How long ``ray job stop`` would let this process live; None where it is no submitted job."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        return None
    return float(os.environ.get(JOB_STOP_SECONDS_VARIABLE, JOB_STOP_SECONDS))


def run_in_thread(work: Callable[[], Result], check: Callable[[], object] = lambda: None) -> Result:
    """Run ``work`` in a thread and wait for what it returns, so that signals are handled while it runs.

    What it raises is raised here. What ``check`` raises, which is called meanwhile, leaves it to itself.
    """
    returned: list[Result] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="training", daemon=True)
    thread.start()
    while thread.is_alive():
        check()
        thread.join(0.5)
    if raised:
        raise raised[0]
    return returned[0]
