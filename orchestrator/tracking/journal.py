"""The journal of a run, and the files of a run's folder on this machine's disk."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from orchestrator import storage

JOURNAL_FILE = "journal.jsonl"
OFFSET_FILE = "journal.offset"


class RunFiles:
    """A run's folder as local files: the folder itself, or where it is in an object store, a copy that is sent back."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._is_copy = not storage.is_local(directory)
        self._sent: dict[str, int] = {}
        if not self._is_copy:
            self.folder = Path(directory)
            return
        self.folder = Path(tempfile.mkdtemp(prefix="dimr-tracking-"))
        for name in (JOURNAL_FILE, OFFSET_FILE):
            if storage.is_file(storage.join(directory, name)):
                self.fetch(name)

    def fetch(self, name: str) -> Path:
        """A file that others wrote into the run's folder."""
        target = self.folder / name
        if self._is_copy:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(storage.read_bytes(storage.join(self._directory, name)))
        return target

    def send(self) -> None:
        """Copy the journal to the object store, if it has grown.

        Raises:
            OSError: the store cannot be written now.
        """
        for name in (JOURNAL_FILE, OFFSET_FILE) if self._is_copy else ():
            file = self.folder / name
            content = file.read_bytes() if file.exists() else b""
            if len(content) > self._sent.get(name, 0) or (name == OFFSET_FILE and content):
                storage.write_bytes(storage.join(self._directory, name), content)
                self._sent[name] = len(content)


class Journal:
    """Append-only file of records ``{"time": ms, "kind": ..., ...}``, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last_step: dict[str, int] = {}
        self._drop_torn_line()
        for record in self.records():
            self._note_steps(record)

    def records(self) -> list[dict[str, Any]]:
        """All records, oldest first."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]

    def append(self, kind: str, **content: Any) -> None:
        """Write a record. Metrics at or before a step that their key already has are left out.

        A run that was set back to a checkpoint repeats steps with the same values; each stays once.
        """
        if kind == "metrics":
            step = content["step"]
            content["values"] = {
                k: v for k, v in content["values"].items() if self._last_step.get(k, -1) < step
            }
            if not content["values"]:
                return
        record = {"time": time.time_ns() // 1_000_000, "kind": kind, **content}
        with self.path.open("a") as stream:
            stream.write(json.dumps(record) + "\n")
        self._note_steps(record)

    def _note_steps(self, record: dict[str, Any]) -> None:
        if record["kind"] == "metrics":
            for key in record["values"]:
                self._last_step[key] = max(record["step"], self._last_step.get(key, -1))

    def _drop_torn_line(self) -> None:
        """Cut off a last line that a killed process left unfinished."""
        if self.path.exists():
            content = self.path.read_bytes()
            if content and not content.endswith(b"\n"):
                self.path.write_bytes(content[: content.rfind(b"\n") + 1])
