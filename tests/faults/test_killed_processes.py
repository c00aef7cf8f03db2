"""Processes that keep the journal, or make what training waits for, are killed: another one goes on."""

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest

from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.run.experiment import run_experiment
from tests.configs import tiny
from tests.waiting import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("ray_session", "mlflow_store")]
LENGTH = 1024


def config(root: Path, dataset: LatentDataset, **train: Any) -> ExperimentConfig:
    settings = {"images": LENGTH, "checkpoint_every_images": 512, **train}
    return tiny(root, dataset.path, model={"input_size": 8}, train=settings)


def run_and_kill(settings: ExperimentConfig, title: str, when: Callable[[], object]) -> None:
    """Run the experiment; kill the process that Ray calls ``title`` once ``when()`` is true."""
    killed: list[int] = []

    def kill() -> None:
        wait_until(when, f"the moment to kill {title}")
        for process in psutil.process_iter(["cmdline"]):
            if (process.info["cmdline"] or [""])[0].startswith(f"ray::{title}"):
                process.send_signal(signal.SIGKILL)
                killed.append(process.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    run_experiment(settings)
    killer.join()
    assert killed


def logged(settings: ExperimentConfig) -> list[dict[str, Any]]:
    journal = Path(settings.directory) / "journal.jsonl"
    lines = journal.read_text().splitlines() if journal.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def steps_in_mlflow(settings: ExperimentConfig, key: str) -> list[int]:
    client = mlflow.MlflowClient(f"sqlite:///{settings.run.root}/mlflow.db")
    (run,) = client.search_runs(["1"])
    assert run.info.status == "FINISHED"
    assert any(name.startswith("eval/fd12") for name in run.data.metrics)
    return sorted(point.step for point in client.get_metric_history(run.info.run_id, key))


def test_a_killed_tracker_loses_nothing(tmp_path: Path, numbered: LatentDataset) -> None:
    settings = config(tmp_path, numbered)

    def has_trained() -> bool:
        return any("loss/total" in record.get("values", {}) for record in logged(settings))

    run_and_kill(settings, "Tracker", has_trained)
    every = settings.train.log_every_images
    assert steps_in_mlflow(settings, "loss/total") == list(range(every, LENGTH + 1, every))
    assert [record["status"] for record in logged(settings) if record["kind"] == "status"] == [
        "RUNNING", "FINISHED",
    ]  # fmt: skip


def test_what_a_killed_background_actor_owed_is_made(tmp_path: Path, numbered: LatentDataset) -> None:
    made = {"preview_every_images": 512, "export_every_images": 512, "score_every_images": 512}
    settings = config(tmp_path, numbered, **made, score_images=8)
    first = Path(settings.directory) / "previews" / "512.png"
    run_and_kill(settings, "Background", first.exists)
    folder = Path(settings.directory)
    assert sorted(path.name for path in (folder / "previews").iterdir()) == ["1024.png", "512.png"]
    assert sorted(path.name for path in (folder / "scores").iterdir()) == ["1024.json", "512.json"]
    assert all((folder / "exports" / seen / "config.json").exists() for seen in ("512", "1024"))
    assert steps_in_mlflow(settings, "eval/fd8_efficientnet_lite0_ema") == [512, 1024]
