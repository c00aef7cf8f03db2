"""How a job ends where something is wrong: with a paragraph and an exit code."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console

from orchestrator import logs
from orchestrator.errors import UserError
from orchestrator.memory import memory_advice
from orchestrator.signals import Stopper

OF_THE_DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR,
)  # fmt: skip
MOST_OF_A_REASON = 300
"""Characters."""


@contextmanager
def mistakes_explained() -> Iterator[None]:
    """Turn what ends a job into a paragraph.

    The exit code is 2 for a :class:`UserError`, 1 where Ray failed, and 130 for an interruption.
    """
    console = Console(stderr=True)

    def end(text: str, code: int) -> NoReturn:
        where = f"\nLogs      {logs.newest()}" if logs.newest() else ""
        console.print(f"Error: {text}{where}", style="red", soft_wrap=True, markup=False, highlight=False)
        sys.exit(code)

    try:
        with Stopper(), logs.said():
            yield
    except UserError as error:
        end(str(error), 2)
    except Exception as error:
        # A task's own exception is a fault of the program, and its traceback is wanted. Ray is not loaded to
        # ask, because most mistakes are found without it.
        kind = type(error)
        disk = _of_the_disk(error) or _of_the_disk(getattr(error, "cause", None))
        if disk is not None:
            end(
                f"{disk.strerror}: {disk.filename or 'a file'}. Make room, or name a place that can be "
                "written. What is finished is kept. Run the same command again: it goes on from there.",
                1,
            )
        if not kind.__module__.startswith("ray.") or kind.__name__.startswith("RayTaskError"):
            if logs.newest():
                console.print(f"Logs      {logs.newest()}", soft_wrap=True, highlight=False)
            raise
        reason = " ".join(str(error).split())[:MOST_OF_A_REASON] or kind.__name__
        text = memory_advice(str(error)) or (
            f"a process of Ray died or does not answer, and the job cannot go on: {reason}\nWhat is finished "
            "is kept. Run the same command again: it goes on from there. Ray's own logs are in "
            "/tmp/ray/session_latest/logs."
        )
        end(text, 1)
    except KeyboardInterrupt as interruption:
        console.print(str(interruption) or "Interrupted. The same command continues from where it was.")
        sys.exit(130)


def _of_the_disk(error: object) -> OSError | None:
    """The error, where it says that a place is full, is not ours to write, or is a folder."""
    return error if isinstance(error, OSError) and error.errno in OF_THE_DISK else None
