"""Tracking against a real MLflow server that is down at first, then comes, and goes away while training logs."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from orchestrator.tracking.tracker import Tracker, server_problem

PATIENCE_SECONDS = 120


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def server(folder: Path, port: int) -> Iterator[None]:
    """An MLflow server on loopback; it answers when the context begins."""
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/server.db",
        "--artifacts-destination", f"{folder}/artifacts", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5),
            ):
                break
            time.sleep(0.2)  # between two questions to a process that cannot tell when it is ready
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def tracker(folder: Path, uri: str) -> Tracker:
    (folder / "run").mkdir(exist_ok=True)
    return Tracker(str(folder / "run"), "run", "experiment", uri)


def test_what_a_server_missed_is_copied_when_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    assert server_problem(uri) is not None
    early = tracker(tmp_path, uri)
    early.log_metrics({"loss": 3.0}, 10)
    assert early.close(60) is not None
    with server(tmp_path, port):
        assert server_problem(uri) is None
        during = tracker(tmp_path, uri)
        during.log_metrics({"loss": 2.0}, 20)
        assert during.close(60) is None
    after = tracker(tmp_path, uri)
    after.log_metrics({"loss": 1.0}, 30)
    after.log_status("FINISHED")
    assert after.close(60) is not None
    with server(tmp_path, port):
        assert tracker(tmp_path, uri).close(60) is None
        client = mlflow.MlflowClient(uri)
        experiment = client.get_experiment_by_name("experiment")
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss")]
        assert points == [(10, 3.0), (20, 2.0), (30, 1.0)]
        assert run.info.status == "FINISHED"
