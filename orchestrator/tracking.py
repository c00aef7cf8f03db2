"""MLflow, best effort: everything goes into a local journal first, and from there to MLflow when it can.

One process per run writes (a :class:`Tracker`, usually a Ray actor beside the driver). The journal ``journal.jsonl`` is
the truth: a tracking server that is down delays MLflow and nothing else. Replaying is harmless, because every record
keeps its original timestamp.
"""

import json
import logging
import os
import threading
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from orchestrator.config import ExperimentConfig

JOURNAL_FILE = "journal.jsonl"
OFFSET_FILE = "journal.offset"
SYNC_SECONDS = 2.0
RETRY_SECONDS = 15.0
# Loading MLflow and creating its store takes seconds of CPU that the starting workers need more.
START_SECONDS = 30.0
BATCH_METRICS = 1000
logger = logging.getLogger(__name__)


def tracking_uri(config: ExperimentConfig) -> str:
    """Where MLflow is: the config's server, else the environment's, else the SQLite store that all runs share."""
    store = f"sqlite:///{config.directory.parent / 'mlflow.db'}"
    return config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or store


def server_problem(uri: str, timeout_seconds: float = 3.0) -> str | None:
    """Why a tracking server does not answer, or None if it does (or is a local store)."""
    if not uri.startswith(("http://", "https://")):
        return None
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=timeout_seconds).close()
    except urllib.error.HTTPError:
        return None  # It answers; whether we are let in shows when writing.
    except (OSError, ValueError) as error:
        return str(error)
    return None


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


class Tracker:
    """Takes records at once, and copies them to MLflow in a thread of its own."""

    def __init__(self, directory: str, run_name: str, experiment: str, uri: str) -> None:
        self._directory = Path(directory)
        self._journal = Journal(self._directory / JOURNAL_FILE)
        self._latest: dict[str, float] = {}
        if not self._journal.records():
            self._journal.append("run", key=uuid.uuid4().hex, name=run_name)
        self._sync = MLflowSync(self._directory, experiment, uri)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-sync", daemon=True)
        self._thread.start()

    def log_params(self, params: dict[str, Any]) -> None:
        """Dotted configuration keys and values."""
        self._journal.append("params", values={key: str(value) for key, value in params.items()})

    def log_metrics(self, values: dict[str, float], images_seen: int) -> None:
        """Metrics at a point of training; MLflow's step is images seen."""
        self._journal.append("metrics", step=images_seen, values=values)
        self._latest = {**self._latest, **values, "images_seen": float(images_seen)}

    def log_image(self, key: str, file: str, images_seen: int) -> None:
        """A picture in the run's folder, given by its path relative to it."""
        self._journal.append("image", step=images_seen, key=key, file=file)

    def log_artifact(self, file: str) -> None:
        """A file in the run's folder, given by its path relative to it."""
        self._journal.append("artifact", file=file)

    def log_tags(self, tags: dict[str, str]) -> None:
        """Tags of the run, such as an evaluation's protocol."""
        self._journal.append("tags", values=tags)

    def log_status(self, status: str) -> None:
        """RUNNING, FINISHED, FAILED or KILLED."""
        self._journal.append("status", status=status)

    def latest(self) -> dict[str, float]:
        """The newest value of every metric, and images_seen; for progress bars."""
        return self._latest

    def close(self, timeout_seconds: float) -> str | None:
        """Copy what is left; returns why that failed, or None. The journal keeps everything in any case."""
        self._stop.set()
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            return "it does not answer"
        return self._sync.problem

    def _run(self) -> None:
        self._stop.wait(START_SECONDS)
        while not self._stop.is_set():
            self._sync.copy()
            self._stop.wait(RETRY_SECONDS if self._sync.problem else SYNC_SECONDS)
        self._sync.copy()


class MLflowSync:
    """Copies the journal to MLflow from where it last stopped."""

    def __init__(self, directory: Path, experiment: str, uri: str) -> None:
        self.problem: str | None = None
        self._directory = directory
        self._experiment = experiment
        self._uri = uri
        self._client: Any = None
        self._run_id = ""

    def copy(self) -> None:
        """Bring MLflow up to date; a failure is kept in ``problem`` and tried again at the next call."""
        try:
            records = self._new_records()
            if records or self._client is None:
                self._connect()
                self._write(records)
            self.problem = None
        except Exception as error:  # Tracking must never stop training, whatever the client raises.
            first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
            if self.problem is None:
                logger.warning(
                    "MLflow at %s cannot be written (%s); the journal keeps everything.",
                    self._uri,
                    first_line,
                )
            self.problem = first_line

    def _offset_file(self) -> Path:
        return self._directory / OFFSET_FILE

    def _offset(self) -> int:
        """Bytes of the journal that this MLflow already has."""
        if not self._offset_file().exists():
            return 0
        offsets: dict[str, int] = json.loads(self._offset_file().read_text())
        return offsets.get(self._uri, 0)

    def _new_records(self) -> list[tuple[dict[str, Any], int]]:
        """(record, journal offset after it) of what MLflow does not have yet."""
        offset = self._offset()
        records = []
        with (self._directory / JOURNAL_FILE).open("rb") as stream:
            stream.seek(offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                offset += len(line)
                records.append((json.loads(line), offset))
        return records

    def _connect(self) -> None:
        if self._client is not None:
            return
        # Few and short retries: the journal is what keeps records through an outage.
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
            local = self._directory.parent / "mlartifacts" if self._uri.startswith("sqlite:") else None
            experiment_id = client.create_experiment(self._experiment, local.as_uri() if local else None)
        with (self._directory / JOURNAL_FILE).open() as stream:
            first = json.loads(stream.readline())
        runs = client.search_runs([experiment_id], f"tags.`dimr.run` = '{first['key']}'")
        if runs:
            self._run_id = runs[0].info.run_id
        else:
            created = client.create_run(
                experiment_id,
                first["time"],
                {"dimr.run": first["key"], "dimr.directory": str(self._directory)},
                first["name"],
            )
            self._run_id = created.info.run_id
        self._client = client

    def _write(self, records: list[tuple[dict[str, Any], int]]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics: list[Any] = []

        def flush(offset: int) -> None:
            for start in range(0, len(metrics), BATCH_METRICS):
                self._client.log_batch(self._run_id, metrics=metrics[start : start + BATCH_METRICS])
            metrics.clear()
            self._offset_file().write_text(json.dumps({self._uri: offset}))

        for record, offset in records:
            kind = record["kind"]
            if kind == "metrics":
                metrics += [Metric(k, v, record["time"], record["step"]) for k, v in record["values"].items()]
                continue
            if kind == "params":
                # Parameters of an MLflow run cannot change; a continued run may have a new length.
                known = self._client.get_run(self._run_id).data.params
                params = [Param(k, v) for k, v in record["values"].items() if k not in known]
                self._client.log_batch(self._run_id, params=params)
                changed = {k: v for k, v in record["values"].items() if known.get(k, v) != v}
                self._client.log_batch(
                    self._run_id, tags=[RunTag(f"changed.{k}", v) for k, v in changed.items()]
                )
            elif kind == "tags":
                self._client.log_batch(self._run_id, tags=[RunTag(k, v) for k, v in record["values"].items()])
            elif kind == "image":
                self._log_image(record)
            elif kind == "artifact":
                self._client.log_artifact(self._run_id, str(self._directory / record["file"]))
            elif kind == "status":
                if record["status"] == "RUNNING":
                    self._client.update_run(self._run_id, status="RUNNING")
                else:
                    self._client.set_terminated(self._run_id, record["status"], record["time"])
            flush(offset)
        if records:
            flush(records[-1][1])

    def _log_image(self, record: dict[str, Any]) -> None:
        from PIL import Image

        with Image.open(self._directory / record["file"]) as image:
            self._client.log_image(
                self._run_id,
                image,
                key=record["key"],
                step=record["step"],
                timestamp=record["time"],
                synchronous=True,
            )
