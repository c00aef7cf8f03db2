"""Everything is journalled; MLflow gets each record once, when it can."""

import http.server
import threading
from pathlib import Path

import mlflow
import pytest
from PIL import Image

from orchestrator.tracking.journal import Journal
from orchestrator.tracking.tracker import Tracker, server_problem
from tests.waiting import PATIENCE


def tracker(folder: Path, uri: str) -> Tracker:
    (folder / "run").mkdir(exist_ok=True)
    return Tracker(str(folder / "run"), "run", "experiment", uri)


def history(uri: str, key: str) -> list[tuple[int, float]]:
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("experiment")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]


def test_an_outage_is_caught_up_from_the_journal(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    down = tracker(tmp_path, "http://127.0.0.1:9")  # nothing listens on the discard port
    down.log_metrics({"loss": 3.0}, 10)
    down.log_metrics({"loss": 2.0}, 20)
    assert down.close(PATIENCE) is not None
    again = tracker(tmp_path, store)
    again.log_metrics({"loss": 2.0}, 20)  # repeated after a restart from the checkpoint at 10
    again.log_metrics({"loss": 1.0}, 30)
    Image.new("L", (4, 4)).save(tmp_path / "run" / "grid.png")
    again.log_image("samples", "grid.png", 30)
    again.log_params({"train.images": 30})
    again.log_status("FINISHED")
    assert again.close(PATIENCE) is None
    assert history(store, "loss") == [(10, 3.0), (20, 2.0), (30, 1.0)]

    # A journal that is copied a second time leaves no duplicates, and one run.
    (tmp_path / "run" / "journal.offset").unlink()
    assert tracker(tmp_path, store).close(PATIENCE) is None
    assert history(store, "loss") == [(10, 3.0), (20, 2.0), (30, 1.0)]


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("metrics", step=1, values={"loss": 1.0})
    with journal.path.open("a") as stream:
        stream.write('{"time": 1, "ki')
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("metrics", step=2, values={"loss": 2.0})
    assert [record["step"] for record in journal.records()] == [1, 2]


def test_a_late_score_of_an_older_checkpoint_is_kept_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for step in (64, 32, 64, 32):
        journal.append("metrics", step=step, values={"eval/fd": float(step), "loss": float(step)})
    assert [(r["step"], sorted(r["values"])) for r in journal.records()] == [
        (64, ["eval/fd", "loss"]), (32, ["eval/fd"]),
    ]  # fmt: skip


def test_a_server_that_does_not_answer_is_noticed_and_one_that_does_is_not() -> None:
    assert server_problem("sqlite:///x.db") is None
    assert server_problem("http://127.0.0.1:9") is not None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert server_problem(f"http://127.0.0.1:{server.server_port}") is None
    finally:
        server.shutdown()


@pytest.mark.parametrize("first", ["a", "b"])
def test_two_runs_share_a_store(tmp_path: Path, first: str) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    for name in (first, "c"):
        (tmp_path / name).mkdir()
        one = Tracker(str(tmp_path / name), name, "experiment", store)
        one.log_metrics({"loss": 1.0}, 1)
        assert one.close(PATIENCE) is None
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("experiment")
    assert experiment is not None
    assert sorted(run.info.run_name or "" for run in client.search_runs([experiment.experiment_id])) == [
        first,
        "c",
    ]
