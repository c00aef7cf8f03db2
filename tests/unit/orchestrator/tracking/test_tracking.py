"""Everything is journalled; MLflow gets each record once, when it can."""

import http.server
import math
import shutil
import threading
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run
from PIL import Image

from orchestrator.tracking.journal import Journal, read_records
from orchestrator.tracking.tracker import Tracker, server_problem
from tests.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("mlflow_store")


def tracker(folder: Path, uri: str) -> Tracker:
    (folder / "run").mkdir(exist_ok=True)
    return Tracker(str(folder / "run"), "run", "experiment", uri)


def runs(uri: str) -> list[Run]:
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("experiment")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def history(uri: str, key: str) -> list[tuple[int, float]]:
    (run,) = runs(uri)
    return [(m.step, m.value) for m in mlflow.MlflowClient(uri).get_metric_history(run.info.run_id, key)]


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


def test_values_that_come_late_or_twice_are_kept_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for step in (16, 48, 32, 48, 16):  # As Ray tells a new process what the dead one had not answered.
        journal.append("metrics", step=step, values={"loss": float(step), "train/epoch": 1.0})
    journal.append("metrics", step=32, values={"loss": 32.5, "held_out/loss/total": 2.0})
    Journal(journal.path).append("metrics", step=32, values={"loss": 32.5})
    assert [(r["step"], sorted(r["values"])) for r in journal.records()] == [
        (16, ["loss", "train/epoch"]), (48, ["loss", "train/epoch"]), (32, ["loss", "train/epoch"]),
        (32, ["held_out/loss/total"]),
    ]  # fmt: skip


def test_of_a_score_that_is_measured_again_the_newest_value_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for step, value in ((64, 5.0), (32, 7.0), (64, 5.0), (32, 6.0), (32, math.nan), (32, math.nan)):
        journal.append("scores", step=step, values={"eval/fd": value})
    values = [(r["step"], r["values"]["eval/fd"]) for r in journal.records()]
    assert values[:3] == [(64, 5.0), (32, 7.0), (32, 6.0)] and len(values) == 4


def test_metrics_after_a_rewind_replace_those_before_it_and_scores_stay(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    before = tracker(tmp_path, store)
    for step in (10, 20, 30):
        before.log_metrics({"loss": float(step)}, step)
    before.log_scores({"eval/fd": 1.0}, 20)
    assert before.close(PATIENCE) is None
    after = tracker(tmp_path, store)
    after.log_rewound(10)
    after.log_metrics({"loss": 2.5}, 20)
    assert after.close(PATIENCE) is None
    assert [r["values"] for r in read_records(str(tmp_path / "run")) if "values" in r] == [
        {"loss": 10.0}, {"eval/fd": 1.0}, {"loss": 2.5},
    ]  # fmt: skip
    assert history(store, "loss") == [(10, 10.0), (20, 2.5)]
    assert history(store, "eval/fd") == [(20, 1.0)]


def test_a_store_that_was_deleted_is_filled_again(tmp_path: Path, empty_store: Path) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    one = tracker(tmp_path, store)
    one.log_metrics({"loss": 3.0}, 10)
    assert one.close(PATIENCE) is None
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    assert tracker(tmp_path, store).close(PATIENCE) is None
    assert history(store, "loss") == [(10, 3.0)]


def test_a_picture_that_is_missing_or_refused_holds_nothing_up(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    one = tracker(tmp_path, store)
    one.log_image("samples", "gone.png", 10)
    (tmp_path / "run" / "broken.png").write_bytes(b"no picture")
    one.log_image("samples", "broken.png", 10)
    one.log_metrics({"loss": 3.0}, 10)
    problem = one.close(PATIENCE)
    assert problem is not None and "broken.png" in problem
    assert history(store, "loss") == [(10, 3.0)]
    Image.new("L", (4, 4)).save(tmp_path / "run" / "broken.png")
    assert tracker(tmp_path, store).close(PATIENCE) is None
    (run,) = runs(store)
    assert len(mlflow.MlflowClient(store).list_artifacts(run.info.run_id, "images")) > 0


def test_more_settings_and_tags_than_one_request_takes_are_logged(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    one = tracker(tmp_path, store)
    one.log_params({f"setting{number}": number for number in range(250)})
    one.log_tags({f"tag{number}": str(number) for number in range(250)})
    assert one.close(PATIENCE) is None
    (run,) = runs(store)
    assert len(run.data.params) == 250 and run.data.tags["tag249"] == "249"


def test_a_server_that_does_not_answer_is_noticed_and_one_that_does_is_not() -> None:
    assert server_problem("sqlite:///x.db") is None
    assert server_problem("http://127.0.0.1:9") is not None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert server_problem(f"http://127.0.0.1:{server.server_port}") is None
    finally:
        server.shutdown()


class RefusesNames(http.server.BaseHTTPRequestHandler):
    """As MLflow does, which answers to /health all the same."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 403)
        self.end_headers()
        self.wfile.write(b"Invalid Host header - possible DNS rebinding attack detected")


def test_a_server_that_refuses_its_name_is_noticed() -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), RefusesNames)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        problem = server_problem(f"http://127.0.0.1:{server.server_port}")
        assert problem is not None and "MLFLOW_SERVER_ALLOWED_HOSTS" in problem
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
    assert sorted(run.info.run_name or "" for run in runs(store)) == [first, "c"]
