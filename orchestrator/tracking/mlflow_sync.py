"""Copying the journal to MLflow."""

import json
import logging
import os
from pathlib import Path
from typing import Any

from orchestrator import storage
from orchestrator.tracking.journal import JOURNAL_FILE, OFFSET_FILE, RunFiles

BATCH_METRICS = 1000
logger = logging.getLogger(__name__)


class MLflowSync:
    """Copies the journal to MLflow from where it last stopped."""

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
            records = self._new_records()
            if records:
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
        return self._files.folder / OFFSET_FILE

    def _offset(self) -> int:
        """Bytes of the journal that this MLflow already has."""
        if not self._offset_file().exists():
            return 0
        offsets: dict[str, int] = json.loads(self._offset_file().read_text())
        return offsets.get(self._uri, 0)

    def _new_records(self) -> list[tuple[dict[str, Any], int]]:
        """Read what MLflow does not have yet: (record, offset in the journal after it).

        Records that could be lost with this machine are left out: the run would repeat them, and MLflow would
        have them twice.
        """
        offset, end = self._offset(), self._files.safe_bytes(JOURNAL_FILE)
        records = []
        with (self._files.folder / JOURNAL_FILE).open("rb") as stream:
            stream.seek(offset)
            for line in stream:
                offset += len(line)
                if not line.endswith(b"\n") or offset > end:
                    break
                records.append((json.loads(line), offset))
        return records

    def _connect(self) -> None:
        if self._client is not None:
            return
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

    def _write(self, records: list[tuple[dict[str, Any], int]]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics: list[Any] = []

        def flush(offset: int) -> None:
            for start in range(0, len(metrics), BATCH_METRICS):
                self._client.log_batch(self._run_id, metrics=metrics[start : start + BATCH_METRICS])
            metrics.clear()
            storage.write_bytes(str(self._offset_file()), json.dumps({self._uri: offset}).encode())

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
                self._client.log_artifact(self._run_id, str(self._files.fetch(record["file"])))
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

        with Image.open(self._files.fetch(record["file"])) as image:
            self._client.log_image(
                self._run_id,
                image,
                key=record["key"],
                step=record["step"],
                timestamp=record["time"],
                synchronous=True,
            )
