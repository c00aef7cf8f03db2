"""Tracking against a real MLflow server.

It is down at first, then comes, and goes away while training logs.
"""

import shutil
from pathlib import Path

import mlflow
import pytest

from orchestrator.tracking.tracker import Tracker, server_problem
from tests.servers import mlflow_server, stopped_at_the_end
from tests.waiting import PATIENCE


def tracker(folder: Path, uri: str) -> Tracker:
    (folder / "run").mkdir(exist_ok=True)
    return Tracker(str(folder / "run"), "run", "experiment", uri)


@pytest.mark.long
def test_what_a_server_missed_is_copied_when_it_answers(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_store, tmp_path / "server.db")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    server = mlflow_server(tmp_path)
    uri = server.uri
    assert server_problem(uri) is not None
    early = tracker(tmp_path, uri)
    early.log_metrics({"loss": 3.0}, 10)
    assert early.close(PATIENCE) is not None
    with stopped_at_the_end(server):
        server.start()
        assert server_problem(uri) is None
        during = tracker(tmp_path, uri)
        during.log_metrics({"loss": 2.0}, 20)
        assert during.close(PATIENCE) is None
    after = tracker(tmp_path, uri)
    after.log_metrics({"loss": 1.0}, 30)
    after.log_status("FINISHED")
    assert after.close(PATIENCE) is not None
    with stopped_at_the_end(server):
        server.start()
        assert tracker(tmp_path, uri).close(PATIENCE) is None
        client = mlflow.MlflowClient(uri)
        experiment = client.get_experiment_by_name("experiment")
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss")]
        assert points == [(10, 3.0), (20, 2.0), (30, 1.0)]
        assert run.info.status == "FINISHED"
