"""The journal of a run, and the files of a run's folder on this machine's disk."""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from orchestrator import storage

JOURNAL_FILE = "journal.jsonl"
OFFSET_FILE = "journal.offset"
SCORE_PREFIX = "eval/"
logger = logging.getLogger(__name__)


def read_records(directory: str) -> list[dict[str, Any]]:
    """Read all complete records in a run's folder, oldest first; the run may still be going on."""
    path = storage.join(directory, JOURNAL_FILE)
    if not storage.is_file(path):
        return []
    return [json.loads(line) for line in storage.read_bytes(path).rpartition(b"\n")[0].splitlines()]


def newest_status(records: list[dict[str, Any]]) -> str | None:
    """The last status that a journal's records have, or None; FINISHED comes after a run's scores."""
    return next((r["status"] for r in reversed(records) if r["kind"] == "status"), None)


class RunFiles:
    """A run's folder as local files.

    They are the folder itself. If it is in an object store, they are a copy in ``scratch`` that is sent back.
    """

    def __init__(self, directory: str, scratch: Path) -> None:
        self._directory = directory
        self.is_copy = not storage.is_local(directory)
        # Name -> size and time of change of what was sent.
        self._sent: dict[str, tuple[int, int]] = {}
        self.folder = scratch if self.is_copy else Path(directory)
        if not self.is_copy:
            return
        for name in (JOURNAL_FILE, OFFSET_FILE):
            # What a process before this one left here is newer.
            if not (scratch / name).exists() and storage.is_file(storage.join(directory, name)):
                self.fetch(name)

    def fetch(self, name: str) -> Path:
        """Get a file that others wrote into the run's folder."""
        target = self.folder / name
        if self.is_copy:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(storage.read_bytes(storage.join(self._directory, name)))
        return target

    def send(self, name: str) -> None:
        """Copy a file to the object store, if there is one and the file has changed.

        Raises:
            OSError: the store cannot be written now.
        """
        file = self.folder / name
        if not self.is_copy or not file.exists():
            return
        described = file.stat()
        state = (described.st_size, described.st_mtime_ns)
        if self._sent.get(name) != state:
            storage.write_bytes(storage.join(self._directory, name), file.read_bytes()[: state[0]])
            self._sent[name] = state

    def safe_bytes(self, name: str) -> int:
        """How many bytes of a growing file are in the run's folder, where they outlive this machine."""
        return self._sent.get(name, (0, 0))[0] if self.is_copy else (self.folder / name).stat().st_size


class Journal:
    """A file of records ``{"time": ms, "kind": ..., ...}``, one JSON object a line; it only grows.

    While the disk is full, records wait in memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last_step: dict[str, int] = {}
        self._scored: set[tuple[str, int]] = set()
        self._waiting = b""
        self._problem: str | None = None
        self._drop_torn_line()
        for record in self.records():
            self._note_steps(record)

    def records(self) -> list[dict[str, Any]]:
        """All written records, oldest first."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]

    def append(self, kind: str, **content: Any) -> None:
        """Write a record; a metric is left out unless its step comes after the metric's newest one.

        A run that was set back to a checkpoint repeats steps with the same values; each stays once. Scores
        come in any order, and are left out only where the same step is there already.
        """
        if kind == "metrics":
            step = content["step"]
            content["values"] = {k: v for k, v in content["values"].items() if self._is_new(k, step)}
            if not content["values"]:
                return
        record = {"time": time.time_ns() // 1_000_000, "kind": kind, **content}
        self._waiting += json.dumps(record).encode() + b"\n"
        self._note_steps(record)
        self.write()

    def write(self) -> str | None:
        """Write what waits, and return why it could not be written, or None.

        The file never ends in half a record.
        """
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("ab") as stream:
                stream.write(self._waiting)
        except OSError as error:
            if self.path.exists():
                os.truncate(self.path, size)
            if self._problem is None:
                logger.warning("The journal cannot be written; what is logged waits in memory. %s", error)
            self._problem = str(error)
        else:
            self._waiting, self._problem = b"", None
        return self._problem

    def _is_new(self, key: str, step: int) -> bool:
        if key.startswith(SCORE_PREFIX):
            return (key, step) not in self._scored
        return self._last_step.get(key, -1) < step

    def _note_steps(self, record: dict[str, Any]) -> None:
        if record["kind"] == "metrics":
            for key in record["values"]:
                self._last_step[key] = max(record["step"], self._last_step.get(key, -1))
                if key.startswith(SCORE_PREFIX):
                    self._scored.add((key, record["step"]))

    def _drop_torn_line(self) -> None:
        """Cut off a last line that a killed process left unfinished."""
        if self.path.exists():
            content = self.path.read_bytes()
            os.truncate(self.path, content.rfind(b"\n") + 1)
