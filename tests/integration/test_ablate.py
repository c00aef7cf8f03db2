"""A sweep of four trials, with real Tune, trainings, scores and MLflow.

A sweep that is killed and resumed ends in the same table.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from orchestrator.data.format import LatentDataset
from orchestrator.errors import UserError
from orchestrator.report.command import report
from orchestrator.sweeps.command import ablate
from tests.datasets import write_numbered
from tests.sweeps import arguments, table
from tests.waiting import PATIENCE, wait_until

DISTANCE = "fd8"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    return write_numbered(tmp_path_factory.mktemp("data") / "numbered", 60, 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, dataset: LatentDataset, ray_session: None) -> Path:
    """The folder of a finished sweep."""
    folder = tmp_path_factory.mktemp("sweep")
    ablate([*arguments(folder, dataset), "--prune", "false"])
    return folder


@pytest.mark.faults
def test_the_table_has_a_row_for_every_cell(folder: Path) -> None:
    rows = table(folder)
    assert [(row["branches"], row["time"], row["status"]) for row in rows] == [
        ("1R", "token", "finished"),
        ("1R", "TD-LN", "finished"),
        ("1R", "TD-RMSNorm", "finished"),
        ("2R", "token", "not possible"),
        ("2R", "TD-LN", "finished"),
        ("2R", "TD-RMSNorm", "finished"),
    ]
    assert "cannot reach ConvNeXt branches" in rows[3]["note"]
    done = [row for row in rows if row["status"] == "finished"]
    assert all(float(row[DISTANCE]) > 0 and row["images_seen"] == "64" for row in done)
    assert [row["paper_fid"] for row in rows] == ["", "9.9", "", "", "9.9", ""]


@pytest.mark.faults
def test_the_best_trial_is_scored_in_full_with_several_seeds(folder: Path) -> None:
    rows = [row for row in table(folder) if row["status"] == "finished"]
    (best,) = [row for row in rows if row["seeds"]]
    assert best == min(rows, key=lambda row: float(row[DISTANCE]))
    assert float(best["fd12_mean"]) > 0
    assert float(best["fd12_deviation"]) > 0


@pytest.mark.faults
def test_every_trial_is_a_run_of_its_own(folder: Path) -> None:
    for name in ("1R-token", "1R-TD-LN", "1R-TD-RMSNorm", "2R-TD-LN", "2R-TD-RMSNorm"):
        run = folder / "mine-nano" / "trials" / name
        assert json.loads((run / "metrics.json").read_text())["images_seen"] == 64
        assert (run / "export" / "config.json").exists()


@pytest.mark.faults
def test_the_report_shows_the_table_and_the_trials(folder: Path, tmp_path: Path) -> None:
    report([str(folder / "mine-nano")], str(tmp_path / "report.html"))
    text = (tmp_path / "report.html").read_text()
    for row in table(folder):
        assert row["status"] in text
    assert all(f"<td>{name}</td>" in text for name in ("1R-token", "2R-TD-RMSNorm"))
    assert text.count("plot of the sweep") == 3


@pytest.mark.faults
def test_mlflow_has_a_parent_with_the_table_and_a_child_for_each_trial(folder: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(runs) - 1 == 5
    assert {run.info.status for run in runs} == {"FINISHED"}
    for child in children:
        points = client.get_metric_history(child.info.run_id, "eval/fd8_efficientnet_lite0_ema")
        assert [point.step for point in points] == [32, 64]
    logged = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert {"table.csv", "table.md", "table.json"} <= logged
    shown = json.loads(parent.data.tags["mlflow.loggedArtifacts"])
    assert shown == [{"path": "table.json", "type": "table"}]
    pictures = {artifact.path for artifact in client.list_artifacts(parent.info.run_id, "images")}
    assert any("distance" in picture for picture in pictures), pictures


@pytest.mark.faults
def test_a_finished_sweep_is_not_done_again(folder: Path, dataset: LatentDataset) -> None:
    before = (folder / "mine-nano" / "table.csv").read_bytes()
    written = {file: file.stat().st_mtime_ns for file in folder.rglob("checkpoints/*/COMPLETE.json")}
    ablate([*arguments(folder, dataset), "--prune", "false", "--resume", "true"])
    assert (folder / "mine-nano" / "table.csv").read_bytes() == before
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("checkpoints/*/COMPLETE.json")} == written


@pytest.mark.faults
def test_another_suite_in_the_same_folder_is_refused(folder: Path, dataset: LatentDataset) -> None:
    other = arguments(folder, dataset, title="Another")
    with pytest.raises(UserError, match="was started with another suite"):
        ablate(other)


def test_resuming_what_is_not_there_is_refused(tmp_path: Path, dataset: LatentDataset) -> None:
    with pytest.raises(UserError, match="There is no sweep at .* to resume"):
        ablate([*arguments(tmp_path, dataset), "--resume", "true"])


def test_a_trial_that_can_never_fit_fails_at_once(
    tmp_path: Path, dataset: LatentDataset, ray_session: None
) -> None:
    with pytest.raises(UserError, match="needs 6 CPUs .* and the cluster has 4"):
        ablate([*arguments(tmp_path, dataset), "--train.workers", "4"])


@pytest.mark.faults
def test_pruned_trials_stay_pruned(tmp_path: Path, dataset: LatentDataset, ray_session: None) -> None:
    long = arguments(tmp_path, dataset, images=128)
    ablate(long)
    rows = table(tmp_path)
    pruned = [row for row in rows if row["status"] == "pruned"]
    assert pruned
    assert all(int(row["images_seen"]) < 128 for row in pruned)
    assert any(row["status"] == "finished" for row in rows)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    statuses = {run.info.run_name: run.info.status for run in runs}
    assert all(statuses[f"{row['branches']}-{row['time']}"] == "KILLED" for row in pruned)
    ablate(long)
    assert table(tmp_path) == rows


@pytest.mark.faults
def test_a_sweep_that_is_killed_ends_in_the_same_table(
    folder: Path, tmp_path: Path, dataset: LatentDataset
) -> None:
    command = [sys.executable, "jobs/ablate.py", *arguments(tmp_path, dataset), "--prune", "false"]
    killed = subprocess.Popen(command, start_new_session=True)
    trials = tmp_path / "mine-nano" / "trials"
    wait_until(lambda: list(trials.glob("*/metrics.json")), "a trial is finished")
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    finished = {file: file.stat().st_mtime_ns for file in trials.glob("*/metrics.json")}
    assert 1 <= len(finished) < 5
    subprocess.run([*command, "--resume", "true"], check=True, timeout=PATIENCE)
    assert table(tmp_path) == table(folder)
    assert all(file.stat().st_mtime_ns == written for file, written in finished.items())
