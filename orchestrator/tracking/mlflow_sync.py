"""Copying the journal to MLflow."""

import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator import storage
from orchestrator.tracking.journal import JOURNAL_FILE, OFFSET_FILE, RunFiles, holds_values, parse

BATCH_METRICS = 1000
BATCH_PARAMS = BATCH_TAGS = 100
"""The most that one request of MLflow's REST API takes (its ``log-batch``)."""
logger = logging.getLogger(__name__)


@dataclass
class _Copied:
    """How far one MLflow has a journal."""

    bytes: int = 0
    """Of the journal."""
    run_id: str | None = None
    """The MLflow run that has them; None where an older version did not note it."""
    owed: list[dict[str, Any]] = field(default_factory=list)
    """Records of pictures and files that could not be copied; the others went on without them."""


class MLflowSync:
    """Copies the journal to MLflow from where it last stopped.

    Where MLflow has lost the run, or training was rewound, everything that counts is copied anew.
    """

    def __init__(self, files: RunFiles, directory: str, experiment: str, uri: str) -> None:
        self.problem: str | None = None
        self._files = files
        self._directory = directory
        self._experiment = experiment
        self._uri = uri
        self._client: Any = None
        self._run_id = ""

    def copy(self) -> None:
        """Bring MLflow up to date; a failure is kept in ``problem`` and tried again at the next call."""
        try:
            if not self._files.safe_bytes(JOURNAL_FILE):
                return  # MLflow must have nothing that could be lost with this machine.
            if self._client is None:
                self._connect()
            copied = self._copied()
            end = self._files.safe_bytes(JOURNAL_FILE)
            if copied.bytes and self._rewinds(copied.bytes, end):
                self._put_away()
                copied = _Copied()
            copied.run_id = self._run_id
            self._write(self._new_records(copied.bytes, end), copied)
            self.problem = self._settle(copied)
        except Exception as error:  # Tracking must never stop training, whatever the client raises.
            if self.problem is None:
                logger.warning(
                    "MLflow at %s cannot be written (%s); the journal keeps everything.",
                    self._uri,
                    _first_line(error),
                )
            self.problem = _first_line(error)
            self._client = None  # The run may be gone; it is looked for again.

    def _offset_file(self) -> Path:
        return self._files.folder / OFFSET_FILE

    def _all_copied(self) -> dict[str, Any]:
        file = self._offset_file()
        return dict(json.loads(file.read_text())) if file.exists() else {}

    def _copied(self) -> _Copied:
        """What the MLflow run has; nothing where it is another run than the one that was written."""
        noted = self._all_copied().get(self._uri, 0)
        if isinstance(noted, int):  # An older version noted the bytes alone.
            known = self._client.get_run(self._run_id).data
            return _Copied(noted if known.params or known.metrics else 0, self._run_id)
        copied = _Copied(**noted)
        return copied if copied.run_id == self._run_id else _Copied()

    def _note(self, copied: _Copied) -> None:
        noted = self._all_copied() | {self._uri: asdict(copied)}
        storage.write_bytes(str(self._offset_file()), json.dumps(noted).encode())

    def _lines(self, offset: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Whole lines of the journal after ``offset``, and where each ends.

        Records that could be lost with this machine, those after ``end``, are left out: the run would repeat
        them, and MLflow would have them twice.
        """
        with (self._files.folder / JOURNAL_FILE).open("rb") as stream:
            stream.seek(offset)
            for line in stream:
                offset += len(line)
                if not line.endswith(b"\n") or offset > end:
                    break
                yield offset, line

    def _rewinds(self, offset: int, end: int) -> list[tuple[int, int]]:
        """Where training went back: where the record ends, and to which step."""
        named = ((place, parse(line)) for place, line in self._lines(offset, end) if b"rewound" in line)
        return [(place, record["step"]) for place, record in named if record["kind"] == "rewound"]

    def _new_records(self, offset: int, end: int) -> Iterator[dict[str, Any]]:
        """Read the records that MLflow does not have yet and that count, one at a time.

        ``end`` in each is where it ends.
        """
        rewinds = self._rewinds(offset, end)
        for place, line in self._lines(offset, end):
            record = parse(line) | {"end": place}
            later = (step for rewound, step in rewinds if rewound > place)
            if record["kind"] != "metrics" or record["step"] <= min(later, default=record["step"]):
                yield record

    def _connect(self) -> None:
        # Few and short retries are enough: the journal keeps records through an outage.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        import mlflow

        client = mlflow.MlflowClient(self._uri)
        found = client.get_experiment_by_name(self._experiment)
        if found is not None:
            experiment_id = found.experiment_id
        else:
            # A local store would otherwise put artifacts under the current directory.
            database = Path(self._uri.removeprefix("sqlite:///"))
            local = database.parent.absolute() / "mlartifacts" if self._uri.startswith("sqlite:") else None
            experiment_id = client.create_experiment(self._experiment, local.as_uri() if local else None)
        with (self._files.folder / JOURNAL_FILE).open() as stream:
            first = json.loads(stream.readline())
        runs = client.search_runs([experiment_id], f"tags.`dimr.run` = '{first['key']}'")
        if runs:
            self._run_id = runs[0].info.run_id
        else:
            tags = {"dimr.run": first["key"], "dimr.directory": self._directory}
            parents = first.get("parent") and client.search_runs(
                [experiment_id], f"tags.`dimr.run` = '{first['parent']}'"
            )
            if parents:
                tags["mlflow.parentRunId"] = parents[0].info.run_id
            created = client.create_run(experiment_id, first["time"], tags, first["name"])
            self._run_id = created.info.run_id
        self._client = client

    def _put_away(self) -> None:
        """Move the run to MLflow's trash and begin another: MLflow cannot take single points back."""
        old = self._client.get_run(self._run_id).info
        self._client.set_tag(self._run_id, "dimr.rewound", "Another run has what counts.")
        self._client.delete_run(self._run_id)
        self._connect()
        below = self._client.search_runs([old.experiment_id], f"tags.`mlflow.parentRunId` = '{old.run_id}'")
        for run in below:
            self._client.set_tag(run.info.run_id, "mlflow.parentRunId", self._run_id)

    def _write(self, records: Iterable[dict[str, Any]], copied: _Copied) -> None:
        """Write records, and note after every request how far it is: an interruption loses no more."""
        from mlflow.entities import Metric

        metrics: list[Any] = []
        end = copied.bytes

        def flush(offset: int) -> None:
            for part in _parts(metrics, BATCH_METRICS):
                self._client.log_batch(self._run_id, metrics=part)
            metrics.clear()
            copied.bytes = offset
            self._note(copied)

        for record in records:
            values = record["values"] if holds_values(record) else {}
            if metrics and (not values or len(metrics) + len(values) > BATCH_METRICS):
                flush(end)
            end = record["end"]
            metrics += [Metric(k, v, record["time"], record["step"]) for k, v in values.items()]
            if not values:
                if record["kind"] in ("image", "artifact"):
                    copied.owed.append(record)
                elif not holds_values(record):
                    self._write_one(record)
                flush(end)
        if metrics:
            flush(end)

    def _write_one(self, record: dict[str, Any]) -> None:
        if record["kind"] == "params":
            # Parameters of an MLflow run cannot change; a continued run may have a new length.
            known = self._client.get_run(self._run_id).data.params
            self._log_params({k: v for k, v in record["values"].items() if k not in known})
            self._log_tags({f"changed.{k}": v for k, v in record["values"].items() if known.get(k, v) != v})
        elif record["kind"] == "tags":
            self._log_tags(record["values"])
        elif record["kind"] == "status":
            if record["status"] == "RUNNING":
                self._client.update_run(self._run_id, status="RUNNING")
            else:
                self._client.set_terminated(self._run_id, record["status"], record["time"])

    def _log_params(self, values: dict[str, str]) -> None:
        from mlflow.entities import Param

        for part in _parts([Param(k, v) for k, v in values.items()], BATCH_PARAMS):
            self._client.log_batch(self._run_id, params=part)

    def _log_tags(self, values: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        for part in _parts([RunTag(k, v) for k, v in values.items()], BATCH_TAGS):
            self._client.log_batch(self._run_id, tags=part)

    def _settle(self, copied: _Copied) -> str | None:
        """Copy the pictures and files that are owed; say what could not be copied, or None."""
        owed, problem = copied.owed, None
        copied.owed = []
        for record in owed:
            try:
                self._log_file(record)
            except FileNotFoundError as error:
                logger.warning("%s is logged to MLflow no more: %s", record["file"], error)
            except Exception as error:  # One that is refused must not hold up what comes after it.
                problem = f"{record['file']}: {_first_line(error)}"
                copied.owed.append(record)
        if owed:
            self._note(copied)
        if problem and not self.problem:
            logger.warning("MLflow at %s lacks a file (%s); everything else is copied.", self._uri, problem)
        return problem

    def _log_file(self, record: dict[str, Any]) -> None:
        file = self._files.fetch(record["file"])
        if record["kind"] == "artifact":
            self._client.log_artifact(self._run_id, str(file))
            return
        from PIL import Image

        with Image.open(file) as image:
            self._client.log_image(
                self._run_id,
                image,
                key=record["key"],
                step=record["step"],
                timestamp=record["time"],
                synchronous=True,
            )


def _parts(entities: list[Any], size: int) -> list[list[Any]]:
    return [entities[start : start + size] for start in range(0, len(entities), size)]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
