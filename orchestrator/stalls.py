"""Nothing is waited for without end: how long a step, a block or a range may take, and what happens then."""

import faulthandler
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import psutil

from orchestrator.errors import UserError
from orchestrator.signals import run_in_thread

Item = TypeVar("Item")
SLOWER = 10
"""How many times the slowest one so far the next one may take."""
FIRST = 6
"""How many times ``cluster.stall_seconds`` the first one may take: processes start, networks are compiled."""
FULL_PERCENT = 90.0
CHECK_SECONDS = 1.0
CLOSE_SECONDS = 5.0
logger = logging.getLogger(__name__)


class StalledError(UserError):
    """Something took longer than anything like it should."""


class Patience:
    """How long the next of many alike may take.

    Args:
        seconds: the least; ``cluster.stall_seconds``.
    """

    def __init__(self, seconds: float) -> None:
        self._least, self._slowest = seconds, 0.0
        self._is_first = True

    @property
    def limit(self) -> float:
        """Seconds that the next one may take."""
        return self.longest if self._is_first else max(self._least, SLOWER * self._slowest)

    @property
    def longest(self) -> float:
        """Seconds that the first one may take, or one that is like no other."""
        return max(FIRST * self._least, SLOWER * self._slowest)

    def took(self, seconds: float) -> None:
        """Note how long one took. The first one says nothing about the others."""
        if not self._is_first:
            self._slowest = max(self._slowest, seconds)
        self._is_first = False


def answer(reference: Any, what: str, seconds: float) -> Any:
    """What Ray's reference stands for.

    Raises:
        StalledError: it was not there in time; ``seconds`` is ``cluster.stall_seconds``.
    """
    import ray
    from ray.exceptions import GetTimeoutError

    limit = Patience(seconds).longest
    try:
        return ray.get(reference, timeout=limit)
    except GetTimeoutError:
        raise StalledError(explained(what, limit)) from None


class Life:
    """What is heard of work that goes on elsewhere."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Note that the work begins, or ends."""
        self.last, self.is_heard = time.monotonic(), False

    def note(self) -> None:
        """Note that something was heard of it."""
        self.last, self.is_heard = time.monotonic(), True


def call_in_time(work: Callable[[], Item], what: str, life: Life, seconds: float) -> Item:
    """What ``work`` returns, which runs in a thread of its own.

    Args:
        seconds: ``cluster.stall_seconds``. The processes that work have the same limit and end themselves, so
            this one is twice as long.

    Raises:
        StalledError: nothing was heard of it in time. It is left to itself then.
    """
    limit = 2 * Patience(seconds).longest

    def check() -> None:
        if time.monotonic() - life.last > limit:
            raise StalledError(explained(what, limit))

    life.begin()
    try:
        return run_in_thread(work, check)
    finally:
        life.begin()


class InTime(Iterator[Item]):
    """The items of an iterator that may never bring the next one; a thread takes one ahead, from now on.

    Args:
        what: what an item is called in the error.
        seconds: ``cluster.stall_seconds``.
    """

    def __init__(self, items: Iterator[Item], what: str, seconds: float) -> None:
        self._items, self._what, self._patience = items, what, Patience(seconds)
        self._brought: queue.Queue[Any] = queue.Queue(maxsize=1)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._bring, name=f"next {what}", daemon=True)
        self._thread.start()

    def __next__(self) -> Item:
        """The next item.

        Raises:
            StalledError: it did not come in time.
        """
        if self._is_over.is_set():
            raise StopIteration
        asked = time.monotonic()
        try:
            item, error = self._brought.get(timeout=self._patience.limit)
        except queue.Empty:
            self._is_over.set()
            raise StalledError(explained(self._what, self._patience.limit)) from None
        if error is not None:
            self._is_over.set()
            raise error
        self._patience.took(time.monotonic() - asked)
        return item  # type: ignore[no-any-return]

    def close(self) -> None:
        """End what works ahead now, and not only when it is collected; what hangs is left to itself."""
        self._is_over.set()
        with suppress(queue.Empty):
            self._brought.get_nowait()
        self._thread.join(CLOSE_SECONDS)

    def _bring(self) -> None:
        try:
            for item in self._items:
                self._brought.put((item, None))
                if self._is_over.is_set():
                    return
            self._brought.put((None, StopIteration()))
        except BaseException as error:
            self._brought.put((None, error))
        finally:
            close: Callable[[], None] = getattr(self._items, "close", lambda: None)
            close()


class Watchdog:
    """Ends this process when training stands still, whatever it waits for; a thread.

    Ray Train takes that for what it is, a failure of the worker, and starts the group again.
    """

    def __init__(self, seconds: float) -> None:
        self._patience, self._last = Patience(seconds), time.monotonic()
        self._limit = self._patience.limit
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def step(self, is_last: bool) -> None:
        """Note that a step was taken. After the last one a checkpoint is waited for, which may take long."""
        now = time.monotonic()
        self._patience.took(now - self._last)
        self._last = now
        self._limit = self._patience.longest if is_last else self._patience.limit

    def _watch(self) -> None:
        while not self._is_over.wait(CHECK_SECONDS):
            if time.monotonic() - self._last > self._limit:
                logger.error("%s This worker ends. It was here:", explained("step", self._limit))
                faulthandler.dump_traceback(file=sys.stderr)
                with suppress(OSError):
                    sys.stderr.flush()
                os._exit(1)


def explained(what: str, seconds: float) -> str:
    """What to tell someone whose ``what`` did not come."""
    memory = psutil.virtual_memory()
    is_full = memory.percent > FULL_PERCENT
    return (
        f"No {what} came for {seconds:.0f} seconds. Something that it needs hangs or has died"
        + (f", perhaps because {memory.percent:.0f}% of this machine's memory is in use" if is_full else "")
        + ". What is finished is kept, and the same command goes on from there. Where so long is usual, "
        "raise --cluster.stall_seconds."
    )
