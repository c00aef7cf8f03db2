"""A real run goes on while MLflow is gone, even if it is killed; afterwards MLflow has all of it once."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest

from orchestrator.checkpoints.selection import newest_valid
from orchestrator.config.plain import to_yaml
from orchestrator.config.schema import ExperimentConfig
from orchestrator.tracking.tracker import server_problem
from orchestrator.training.hooks import Hooks
from orchestrator.training.shards import TrainJob
from orchestrator.training.worker import run_process
from tests.configs import tiny
from tests.datasets import write_numbered
from tests.servers import mlflow_server, stopped_at_the_end
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.faults

ROOT = Path(__file__).resolve().parents[2]
LOGGED_EVERY = 160


def start(config: ExperimentConfig, folder: Path) -> subprocess.Popen[bytes]:
    (folder / "config.yaml").write_text(to_yaml(config))
    command = [sys.executable, "jobs/train_g.py", "--config", str(folder / "config.yaml")]
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def last_step(config: ExperimentConfig) -> int:
    """The number of images seen, as the run's journal has it."""
    journal = Path(config.directory) / "journal.jsonl"
    lines = journal.read_bytes().splitlines() if journal.exists() else []
    records = [json.loads(line) for line in lines if line.endswith(b"}")]
    return max((record["step"] for record in records if record["kind"] == "metrics"), default=0)


def wait_for_training(config: ExperimentConfig, intervals: int) -> int:
    """Wait until so many more intervals of training are logged; returns the number of images seen."""
    begin = last_step(config)
    wait_until(lambda: last_step(config) >= begin + intervals * LOGGED_EVERY, f"training past {begin} images")
    return last_step(config)


def histories(client: mlflow.MlflowClient) -> dict[str, list[Any]]:
    """The points of each metric that the config alone determines, of the only run."""
    experiment = client.get_experiment_by_name("dimr")
    if experiment is None:
        return {}
    runs = client.search_runs([experiment.experiment_id])
    if not runs:
        return {}
    (run,) = runs
    return {
        key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics if is_determined(key)
    }


def is_determined(key: str) -> bool:
    return key.startswith("loss") or key in (
        "train/gradient_norm", "train/learning_rate", "train/skipped_steps",
    )  # fmt: skip


def curves_of(config: ExperimentConfig, dataset: Any) -> dict[str, list[tuple[int, float]]]:
    """What an undisturbed run reports."""
    curves: dict[str, list[tuple[int, float]]] = {}

    def note(metrics: dict[str, float], images_seen: int) -> None:
        for key, value in metrics.items():
            if is_determined(key):
                curves.setdefault(key, []).append((images_seen, value))

    hooks = Hooks(on_metrics=note, on_checkpoint=lambda checkpoint: None)
    run_process(TrainJob(config, dataset, lambda: hooks))
    return curves


def test_a_server_that_dies_while_the_run_is_killed_and_resumed_has_every_step_once(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 50, 8)
    processes = []
    with stopped_at_the_end(mlflow_server(tmp_path)) as server:
        config = tiny(
            tmp_path, dataset.path, tracking={"uri": server.uri},
            train={
                "images": 10**6, "log_every_images": LOGGED_EVERY,
                "checkpoint_every_images": 2 * LOGGED_EVERY,
            },
        )  # fmt: skip
        server.start()
        client = mlflow.MlflowClient(server.uri)
        try:
            processes.append(start(config, tmp_path))
            wait_until(lambda: histories(client), "the run in MLflow")
            server.kill()
            went_down = time.time() * 1000
            wait_for_training(config, intervals=6)
            processes[0].kill()
            processes[0].wait(PATIENCE)
            checkpoint = newest_valid(config.directory)
            assert checkpoint is not None and checkpoint.images_seen > 0
            processes.append(start(config, tmp_path))
            wait_for_training(config, intervals=6)
            assert server_problem(server.uri) is not None
            came_back = time.time() * 1000
            server.start()
            wait_until(lambda: histories(client)["loss/total"][-1].timestamp > came_back, "the replay")
            processes[1].send_signal(signal.SIGTERM)
            assert processes[1].wait(PATIENCE) == 130, (tmp_path / "log.txt").read_text()
        finally:
            for process in processes:
                process.kill()
        found = histories(client)

    stopped = newest_valid(config.directory)
    assert stopped is not None
    undisturbed = tiny(tmp_path / "undisturbed", dataset.path, train={
        **dataclasses.asdict(config.train), "images": stopped.images_seen,
        "checkpoint_every_images": 10**6 * LOGGED_EVERY,
    })  # fmt: skip
    expected = curves_of(undisturbed, dataset)
    assert {"loss/total", "loss/branch0", "loss/branch1"} < found.keys() == expected.keys()
    for key, points in found.items():
        assert [(point.step, point.value) for point in points] == expected[key], key
        times = [point.timestamp for point in points]
        assert times == sorted(times), key
    # What happened in the outage is dated in the outage: the replay came after it.
    while_down = [point for point in found["loss/total"] if went_down < point.timestamp < came_back]
    assert len(while_down) >= 12
