"""Who speaks where: our own words in the terminal, all others' in ``<run>/logs/``.

Ray, its workers and actors and the libraries of the job's own process say much that asks nothing of anyone.
Their lines go into one file for each call of a job.
"""

import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from rich.console import Console

from orchestrator import storage

if TYPE_CHECKING:
    from ray.job_config import JobConfig

FOLDER = "logs"
LAST_LINES = 5
COLUMNS_OF_A_PIPE = 200
OURS = "orchestrator"
RAYS_PRINTER, OUR_WRITER = "ray_print_logs", "dimr_logs"
"""Names of those whom Ray gives the lines of workers."""
EVENT = ":event_summary:"
"""Marks those lines of the autoscaler that tell of something new; in its second version they are JSON."""


class _Terminal:
    """Standard output as it was before others' lines were sent elsewhere."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_open.terminal if _open is not None else sys.stdout, name)


@cache
def terminal() -> Console:
    """The one console of this process; others' lines never come between its own.

    A file or a pipe is wide enough for any table of ours; rich would cut them at 80 columns.
    """
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else COLUMNS_OF_A_PIPE
    # Paths and names of classes may have words in brackets, which rich would take for its own.
    return Console(file=cast(IO[str], _Terminal()), width=width, markup=False)


class LogFile:
    """The file of one call of a job, and who writes into it."""

    def __init__(self, directory: str) -> None:
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
        self.path = storage.join(directory, FOLDER, name)
        if storage.is_local(directory):
            self._local = Path(self.path)
        else:
            self._local = Path(tempfile.mkdtemp(prefix="dimr-logs-")) / name
        self._local.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self._local.open("a", buffering=1, encoding="utf-8", errors="backslashreplace")
        self._last: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=LAST_LINES))
        self._said = set[str]()
        self._newest_of: dict[str, tuple[Any, ...]] = {}
        self._sending = threading.Lock()
        self._rays_printer: list[Any] = []
        self._before: tuple[Any, Any] = sys.stdout, sys.stderr
        for stream in self._before:
            stream.flush()
        self._descriptors = {number: os.dup(number) for number in (1, 2)}
        self.terminal: IO[str] = self._copy_of(sys.stdout)
        # What Python prints, and what C++ and child processes do.
        sys.stdout = sys.stderr = self._stream
        for number in self._descriptors:
            os.dup2(self._stream.fileno(), number)

    def _copy_of(self, stdout: Any) -> IO[str]:
        try:
            is_descriptor = stdout.fileno() == 1
        except (OSError, ValueError):  # A notebook or a test has put something of its own there.
            is_descriptor = False
        if not is_descriptor:
            return cast(IO[str], stdout)
        return os.fdopen(os.dup(1), "w", buffering=1, encoding=stdout.encoding, errors=stdout.errors)

    def listen(self) -> None:
        """Take the lines of Ray's workers from now on; Ray is connected."""
        from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

        self._rays_printer = [pair for pair in dispatcher.handlers if pair[0] == RAYS_PRINTER]
        dispatcher.remove_handler(RAYS_PRINTER)
        dispatcher.add_handler(OUR_WRITER, self._take)

    def unlisten(self) -> None:
        """Give the lines of Ray's workers back to Ray."""
        from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

        dispatcher.remove_handler(OUR_WRITER)
        for pair in self._rays_printer:
            dispatcher.add_handler(*pair)

    def last_lines(self, pid: str) -> list[str]:
        """The last lines of a process of Ray."""
        return list(self._last[pid])

    def send(self) -> None:
        """Copy the file to the run's folder, where that is an object store."""
        if str(self._local) != self.path:
            with self._sending:
                storage.write_bytes(self.path, self._local.read_bytes())

    def close(self) -> None:
        """Give standard output back, and copy the file to where it belongs."""
        self.terminal.flush()
        self._stream.flush()
        for number, copy in self._descriptors.items():
            os.dup2(copy, number)
            os.close(copy)
        sys.stdout, sys.stderr = self._before
        if self.terminal is not self._before[0]:
            self.terminal.close()
        self._stream.close()
        try:
            self.send()
        except OSError as error:
            told = f"Warning: the logs could not be copied to {self.path} and stay in {self._local}. {error}"
            self.path = str(self._local)
            terminal().print(told, style="yellow", soft_wrap=True, highlight=False)

    def _take(self, data: dict[str, Any]) -> None:
        """Write the lines of a worker; Ray calls it in a thread of its own."""
        pid, who = str(data["pid"]), data.get("actor_name") or data.get("task_name") or ""
        for line in data["lines"]:
            if pid == "autoscaler" and not line.startswith("{") and EVENT not in line:
                continue  # A part of the table of all nodes that it writes every few seconds.
            record = _record(line)
            text = line
            if record is not None:
                content = (record["levelname"], record["name"], record["message"], record.get("exc_text"))
                if self._newest_of.get(pid) == content:
                    continue  # Ray Train's cleaner warns each second where there is no dashboard.
                self._newest_of[pid] = content
                text = f"{record['asctime']} {record['levelname']} {record['name']}: {record['message']}"
                text = "\n".join([text, *str(record.get("exc_text") or "").splitlines()])
                if _is_for_the_user(record) and record["message"] not in self._said:
                    self._said.add(record["message"])
                    _say(record["levelname"], record["message"])
            self._last[pid].extend(text.splitlines())
            try:
                self._stream.write(f"({who} pid={pid}, ip={data.get('ip')}) {text}\n")
            except ValueError:  # It was closed meanwhile.
                return


_open: LogFile | None = None
_newest: LogFile | None = None


@contextmanager
def kept(directory: str, show: bool) -> Iterator[None]:
    """Inside, all that is not said by us goes into a file of ``<directory>/logs/``.

    Where the process is itself one of Ray's, whose lines go to the job that has it work, nothing changes.

    Args:
        show: have everything in the terminal, as Ray does it; ``cluster.show_logs``.
    """
    global _open, _newest
    if _open is not None or _is_of_ray():
        yield
        return
    with said():
        if show:
            _newest = None
            yield
            return
        try:
            opened = LogFile(directory)
        except OSError:  # The folder cannot be written; whoever needs it will say so.
            opened = LogFile(tempfile.mkdtemp(prefix="dimr-logs-"))
        _open = _newest = opened
        try:
            yield
        finally:
            closing, _open = _open, None
            closing.close()


@contextmanager
def taken_from_ray() -> Iterator[None]:
    """Inside, where Ray is connected, its workers' lines go where those of this process go."""
    listener = _open
    if listener is None:
        yield
        return
    listener.listen()
    try:
        yield
    finally:
        listener.unlisten()


def for_workers() -> "JobConfig | None":
    """What to give :func:`ray.init`, so that what workers log tells who logged it; None if it need not."""
    if _open is None:
        return None
    import ray
    from ray.job_config import JobConfig

    # Not ray.init's own argument, which would also have this process log so.
    config = JobConfig()
    config.set_py_logging_config(ray.LoggingConfig(encoding="JSON", additional_log_standard_attrs=["name"]))
    return config


def newest() -> str | None:
    """The file that has the lines of the newest call in this process; None where the terminal has them."""
    return _newest.path if _newest is not None else None


def last_lines(pid: str) -> list[str]:
    """The last lines of a process of Ray, if they were kept."""
    return _open.last_lines(pid) if _open is not None else []


def send() -> None:
    """Copy what was kept to the run's folder, where that is an object store; never waits."""
    if _open is not None:
        threading.Thread(target=_try_to_send, args=(_open,), daemon=True).start()


def _try_to_send(file: LogFile) -> None:
    with suppress(OSError):  # The next checkpoint, or the end, brings it.
        file.send()


class _Say(logging.Handler):
    """Shows in the terminal what our own code logs in this process."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _say(record.levelname, record.getMessage())
        except Exception:
            self.handleError(record)


@contextmanager
def said() -> Iterator[None]:
    """Inside, the terminal shows what our own code logs in this process."""
    ours = logging.getLogger(OURS)
    if any(isinstance(handler, _Say) for handler in ours.handlers):
        yield
        return
    handler, level = _Say(), ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(level)


def _say(level: str, message: str) -> None:
    is_warning = level not in ("DEBUG", "INFO")
    text = f"{level.capitalize()}: {message}" if is_warning else message
    terminal().print(
        text, style="yellow" if is_warning else None, soft_wrap=True, markup=False, highlight=False
    )


def _is_of_ray() -> bool:
    """Whether this process is a worker or actor."""
    if "ray" not in sys.modules:
        return False
    import ray

    return bool(ray.is_initialized()) and ray._private.worker.global_worker.mode != ray.SCRIPT_MODE


def _record(line: str) -> dict[str, Any] | None:
    """What was logged in a worker, if the line is a record of its."""
    if not line.startswith('{"asctime"'):
        return None
    try:
        record: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return record if {"levelname", "name", "message"} <= record.keys() else None


def _is_for_the_user(record: dict[str, Any]) -> bool:
    is_ours = str(record["name"]).partition(".")[0] == OURS
    return is_ours and record["levelname"] in ("WARNING", "ERROR", "CRITICAL")
