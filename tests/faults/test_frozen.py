"""Processes that live and do not answer: it is noticed in bounded time, and the run ends as it should."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import psutil
import pytest

from orchestrator.config.plain import to_yaml
from tests.commands import ROOT
from tests.configs import tiny
from tests.datasets import write_numbered
from tests.faults.chaos import kill_all, processes_of
from tests.sweeps import arguments
from tests.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("mlflow_store")]
STALL_SECONDS = 15.0
LENGTH = 8192


def freeze(command: "subprocess.Popen[str]", title: str) -> list[psutil.Process]:
    """Stop the processes of a kind, as a hung disk or driver would, and return them."""
    frozen = [
        process
        for kind, processes in processes_of(command).items()
        if kind.startswith(title)
        for process in processes
    ]
    for process in frozen:
        process.send_signal(signal.SIGSTOP)
    return frozen


def call(words: list[str], title: str, is_time: Callable[[], object], log: Path) -> tuple[int, bool]:
    """Run a job and freeze the processes of ``title`` when it is time; return its exit code, and whether it
    was frozen.

    Raises:
        AssertionError: it does not end.
    """
    environment = os.environ | {"RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "15"}
    environment.pop("RAY_ADDRESS", None)
    with log.open("a") as stream:
        command = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=environment, text=True, start_new_session=True,
            stdout=stream, stderr=subprocess.STDOUT,
        )  # fmt: skip
    frozen: list[psutil.Process] = []
    try:
        wait_until(lambda: is_time() or command.poll() is not None, f"the moment to freeze {title}")
        deadline = time.monotonic() + PATIENCE
        while command.poll() is None and not frozen and time.monotonic() < deadline:
            frozen = freeze(command, title)
            time.sleep(0.1)  # Between two looks at the processes.
        return command.wait(PATIENCE), bool(frozen)
    except subprocess.TimeoutExpired:
        pytest.fail(f"it hangs when {title} is frozen:\n{log.read_text()}")
    finally:
        if command.poll() is None:
            kill_all(command)
        for process in frozen:
            if process.is_running():
                process.kill()


@pytest.mark.parametrize(
    "title",
    ["ray::RayTrainWorker", "ray::TrainController", "ray::Tracker", "ray::Background",
     "ray::MapWorker", "ray::IDLE", "ray::_StatsActor", "ray::_AutoscalingCoordinator"],
)  # fmt: skip
def test_a_run_of_which_one_kind_of_process_is_frozen(tmp_path: Path, title: str) -> None:
    data = write_numbered(tmp_path / "data", 60, 10, size=8).path
    every = LENGTH // 2
    config = tiny(
        tmp_path, data, model={"input_size": 8}, cluster={"stall_seconds": STALL_SECONDS},
        train={"images": LENGTH, "workers": 2, "checkpoint_every_images": every, "log_every_images": 256,
               "preview_every_images": every, "max_restarts": 10},
        sampling={"sampler": {"steps": 2}, "batch_size": 4, "actors": 2, "use_gpu": False},
    )  # fmt: skip
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    words, log = ["jobs/train_g.py", "--config", str(tmp_path / "config.yaml")], tmp_path / "log"
    journal = Path(config.directory) / "journal.jsonl"
    code, was_frozen = call(
        words, title, lambda: journal.exists() and '"loss/total"' in journal.read_text(), log
    )
    said = log.read_text()
    assert was_frozen, said
    if code != 0:
        assert "Traceback" not in said.rpartition("\nError: ")[2] and "Error: " in said, said
        code, _ = call(words, "nothing", lambda: True, log)
    assert code == 0, log.read_text()
    (run,) = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert run.info.status == "FINISHED"
    points = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_metric_history(
        run.info.run_id, "loss/total"
    )
    assert sorted(point.step for point in points) == list(range(256, LENGTH + 1, 256))


@pytest.mark.parametrize("title", ["ray::_run", "ray::ImplicitFunc"])
def test_a_sweep_of_which_a_trial_is_frozen(tmp_path: Path, title: str) -> None:
    dataset = write_numbered(tmp_path / "data", 60, 10)
    axes = [{"name": "one", "options": [{"name": "only"}]}]
    words = ["jobs/ablate.py", *arguments(tmp_path, dataset, images=2000, axes=axes), "--prune", "false",
             "--train.checkpoint_every_images", "1000", "--train.score_every_images", "1000",
             "--cluster.stall_seconds", "5"]  # fmt: skip
    journal, log = tmp_path / "mine-nano" / "trials" / "only" / "journal.jsonl", tmp_path / "log"
    code, was_frozen = call(
        words, title, lambda: journal.exists() and '"loss/total"' in journal.read_text(), log
    )
    said = log.read_text()
    assert was_frozen, said
    if code != 0:
        assert "sign of life of the trial only" in said and "Traceback" not in said, said
        code, _ = call(words, "nothing", lambda: True, log)
    assert code == 0, log.read_text()
    runs = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert {run.info.run_name: run.info.status for run in runs} == {
        "mine-nano": "FINISHED", "only": "FINISHED",
    }  # fmt: skip
