"""What does not come in time is noticed, and what comes is passed on as it is."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from orchestrator.stalls import FIRST, SLOWER, InTime, Life, Patience, StalledError, call_in_time
from tests.waiting import PATIENCE


def test_the_next_one_may_take_ten_times_the_slowest_and_the_first_has_a_limit_of_its_own() -> None:
    patience = Patience(5.0)
    assert patience.limit == FIRST * 5.0
    patience.took(1000.0)  # It compiled.
    assert patience.limit == 5.0
    patience.took(2.0)
    patience.took(1.0)
    assert patience.limit == SLOWER * 2.0


def test_items_and_what_they_raise_are_passed_on() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise ValueError("this is the end")

    found = []
    with pytest.raises(ValueError, match="this is the end"):
        found.extend(item for item in InTime(items(), "item", 60.0))
    with closing(InTime(iter(range(5)), "item", 60.0)) as others:
        assert list(others) == [0, 1, 2, 3, 4]


def test_an_iterator_that_is_left_early_is_closed_and_reads_one_ahead() -> None:
    taken, closed = list[int](), threading.Event()

    def items() -> Iterator[int]:
        try:
            for number in range(100):
                taken.append(number)
                yield number
        finally:
            closed.set()

    with closing(InTime(items(), "item", 60.0)) as some:
        assert next(some) == 0
    assert closed.is_set() and len(taken) <= 4


def test_an_item_that_does_not_come_is_an_error_that_says_what_to_do() -> None:
    never = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        never.wait()

    with closing(InTime(items(), "block of data", 0.01)) as some:
        assert next(some) == 1
        with pytest.raises(StalledError, match=r"No block of data came.*--cluster.stall_seconds"):
            next(some)
        with pytest.raises(StopIteration):
            next(some)
        never.set()


def test_work_of_which_nothing_is_heard_is_left() -> None:
    never = threading.Event()
    life = Life()
    assert call_in_time(lambda: 3, "step", life, 60.0) == 3
    with pytest.raises(ZeroDivisionError):
        call_in_time(lambda: 1 // 0, "step", life, 60.0)
    with pytest.raises(StalledError, match="No step came"):
        call_in_time(never.wait, "step", life, 0.01)
    never.set()


def test_work_is_waited_for_as_long_as_something_is_heard_of_it() -> None:
    life, limit = Life(), 2 * Patience(0.2).longest

    def work() -> float:
        began = time.monotonic()
        while time.monotonic() < began + 2 * limit:
            life.note()
            time.sleep(0.01)  # A step.
        return time.monotonic() - began

    assert call_in_time(work, "step", life, 0.2) > limit
    assert not life.is_heard


STANDS_STILL = """
import threading
from orchestrator.stalls import Watchdog

with Watchdog(0.1) as watchdog:
    watchdog.step(False)
    threading.Event().wait()  # a collective whose other side is gone
"""


def test_a_worker_that_stands_still_says_where_and_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STANDS_STILL], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert "No step came for" in done.stderr and "This worker ends" in done.stderr
    assert "line 7 in <module>" in done.stderr
