"""The journal of a run, and the files of a run's folder on this machine's disk."""

import io
import json
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from orchestrator import storage

JOURNAL_FILE = "journal.jsonl"
OFFSET_FILE = "journal.offset"
TAIL_BYTES = 1 << 16
logger = logging.getLogger(__name__)


def read_records(directory: str, metric: str | None = None) -> list[dict[str, Any]]:
    """Read all complete records in a run's folder that count, oldest first; the run may still be going on.

    Args:
        metric: keep no other one, because all of a long run take much memory; None: keep all.
    """
    followed = FollowedJournal(directory, metric)
    followed.read()
    return followed.records


class FollowedJournal:
    """A journal that others write: each reading reads what has come since the last one."""

    def __init__(self, directory: str, metric: str | None = None) -> None:
        self._path, self._metric = storage.join(directory, JOURNAL_FILE), metric
        self._bytes = 0
        self.records: list[dict[str, Any]] = []
        """What was read and counts, oldest first."""

    def read(self) -> None:
        """Read the complete records that are new."""
        new = storage.read_from(self._path, self._bytes).rpartition(b"\n")
        self._bytes += len(new[0]) + len(new[1])
        found = [record for record in map(self._wanted, map(parse, io.BytesIO(new[0]))) if record]
        limit = min((r["step"] for r in found if r["kind"] == "rewound"), default=math.inf)
        if limit < math.inf:
            self.records = [r for r in self.records if r["kind"] != "metrics" or r["step"] <= limit]
        self.records += that_count(found)

    def _wanted(self, record: dict[str, Any]) -> dict[str, Any] | None:
        if self._metric is None or record["kind"] != "metrics":
            return record
        kept = {key: value for key, value in record["values"].items() if key == self._metric}
        return record | {"values": kept} if kept else None


def parse(line: bytes) -> dict[str, Any]:
    """A record from its line. Older journals call scores metrics; they are told by their names."""
    record: dict[str, Any] = json.loads(line)
    if record["kind"] == "metrics" and all(key.startswith("eval/") for key in record["values"]):
        record["kind"] = "scores"
    return record


def that_count(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the metrics of steps that training took back: those after N, before "rewound to N".

    Scores stay. They are of checkpoints, and training goes back to a checkpoint.
    """
    counting, limit = [], math.inf
    # From the end, so that each record is looked at once however often training went back.
    for record in reversed(list(records)):
        if record["kind"] == "rewound":
            limit = min(limit, record["step"])
        if record["kind"] != "metrics" or record["step"] <= limit:
            counting.append(record)
    return counting[::-1]


def holds_values(record: dict[str, Any]) -> bool:
    """Whether a record has values at a step: metrics of training, or scores."""
    return record["kind"] in ("metrics", "scores")


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
        described, sent = file.stat(), self._sent.get(name, (0, 0))
        state = (described.st_size, described.st_mtime_ns)
        if sent == state:
            return
        target = storage.join(self._directory, name)
        # Half a line may be taken back. The journal only grows, so what is there need not be sent again.
        if name == JOURNAL_FILE:
            state = (_whole_lines(file, described.st_size), described.st_mtime_ns)
            if storage.append(target, _part_of(file, sent[0], state[0]), at=sent[0]):
                self._sent[name] = state
                return
        storage.write_bytes(target, _part_of(file, 0, state[0]))
        self._sent[name] = state

    def safe_bytes(self, name: str) -> int:
        """How many bytes of a growing file are in the run's folder, where they outlive this machine."""
        return self._sent.get(name, (0, 0))[0] if self.is_copy else (self.folder / name).stat().st_size


def _part_of(file: Path, start: int, stop: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(start)
        return stream.read(stop - start)


def _whole_lines(file: Path, size: int) -> int:
    """How many of a file's first ``size`` bytes are whole lines; it is read from the end."""
    end = size
    while end > 0:
        start = max(0, end - TAIL_BYTES)
        found = _part_of(file, start, end).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


class Journal:
    """A file of records ``{"time": ms, "kind": ..., ...}``, one JSON object a line; it only grows.

    Every value is in it once. While the disk is full, records wait in memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Metrics that were logged together -> their steps; one entry for each of a run's few combinations.
        self._steps: dict[tuple[str, ...], set[int]] = {}
        self._scores: dict[tuple[str, int], float] = {}
        self._waiting = b""
        self._problem: str | None = None
        self._drop_torn_line()
        for record in self.records():
            self._note(record)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever written."""
        return not self.path.exists() or self.path.stat().st_size == 0

    def records(self) -> Iterator[dict[str, Any]]:
        """All written records, oldest first, one at a time in memory."""
        if self.path.exists():
            with self.path.open("rb") as stream:
                yield from map(parse, stream)

    def append(self, kind: str, **content: Any) -> None:
        """Write a record. Of metrics and scores only what is new is written, in whatever order it comes.

        A run that goes on from a checkpoint repeats steps, and a message may arrive twice: the first value
        of a metric's step stays, until training is rewound. Of a score that is measured again the newest
        value counts.
        """
        if kind in ("metrics", "scores"):
            is_new = self._is_new_metric if kind == "metrics" else self._is_new_score
            step = content["step"]
            content["values"] = {key: v for key, v in content["values"].items() if is_new(key, step, v)}
            if not content["values"]:
                return
        record = {"time": time.time_ns() // 1_000_000, "kind": kind, **content}
        self._waiting += json.dumps(record).encode() + b"\n"
        self._note(record)
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

    def _is_new_metric(self, key: str, step: int, value: float) -> bool:
        return not any(step in steps and key in keys for keys, steps in self._steps.items())

    def _is_new_score(self, key: str, step: int, value: float) -> bool:
        known = self._scores.get((key, step))
        return known is None or (known != value and not (math.isnan(known) and math.isnan(value)))

    def _note(self, record: dict[str, Any]) -> None:
        if record["kind"] == "metrics":
            self._steps.setdefault(tuple(record["values"]), set()).add(record["step"])
        elif record["kind"] == "scores":
            self._scores |= {(key, record["step"]): value for key, value in record["values"].items()}
        elif record["kind"] == "rewound":
            for keys, steps in self._steps.items():
                self._steps[keys] = {step for step in steps if step <= record["step"]}

    def _drop_torn_line(self) -> None:
        """Cut off a last line that a killed process left unfinished."""
        if self.path.exists():
            os.truncate(self.path, _whole_lines(self.path, self.path.stat().st_size))
