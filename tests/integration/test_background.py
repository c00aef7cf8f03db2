"""Scores of checkpoints while training goes on: they never hold it up, and are one curve in one run.

A score is done again after a crash.
"""

import dataclasses
import json
import os
import signal
import threading
import time
from pathlib import Path

import mlflow
import psutil
import pytest

from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.run.experiment import run_experiment
from tests.configs import tiny
from tests.datasets import write_numbered
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.faults]
METRIC = "eval/fd8_efficientnet_lite0_ema"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    return write_numbered(tmp_path_factory.mktemp("data") / "numbered", 60, 10)


def config(root: Path, dataset: LatentDataset, images: int) -> ExperimentConfig:
    return tiny(
        root, dataset.path,
        train={"images": images, "checkpoint_every_images": 32, "score_every_images": 32, "score_images": 8,
               "keep_checkpoints": 99},
    )  # fmt: skip


def steps(root: Path, key: str) -> list[int]:
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    (run,) = client.search_runs(["1"])
    return [point.step for point in client.get_metric_history(run.info.run_id, key)]


def test_scores_are_a_curve_in_the_run_and_what_a_crash_lost_is_done_again(
    tmp_path: Path, dataset: LatentDataset
) -> None:
    settings = config(tmp_path, dataset, 64)
    run_experiment(settings)
    folder = Path(settings.directory)
    assert sorted(file.name for file in (folder / "scores").iterdir()) == ["32.json", "64.json"]
    assert steps(tmp_path, METRIC) == [32, 64]
    lost = folder / "scores" / "64.json"
    before = json.loads(lost.read_text())
    lost.unlink()
    longer = dataclasses.replace(settings, train=dataclasses.replace(settings.train, images=96))
    run_experiment(longer)
    assert (
        json.loads(lost.read_text())["fd8_efficientnet_lite0_ema"]["value"]
        == before["fd8_efficientnet_lite0_ema"]["value"]
    )
    assert steps(tmp_path, METRIC) == [32, 64, 96]


def test_training_goes_on_while_an_evaluation_is_blocked(tmp_path: Path, dataset: LatentDataset) -> None:
    settings = config(tmp_path, dataset, 320)
    journal = Path(settings.directory) / "journal.jsonl"
    blocked: list[int] = []
    reached: list[int] = []

    def images_seen() -> int:
        lines = journal.read_text().splitlines() if journal.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("}")]
        return max(
            (r["step"] for r in records if r["kind"] == "metrics" and "loss/total" in r["values"]), default=0
        )

    def block() -> None:
        """Stop the process that scores before it does anything, until training has reached its end."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and not blocked:
            blocked.extend(
                process.pid for process in psutil.process_iter(["cmdline"])
                if (process.info["cmdline"] or [""])[0].startswith("ray::Background")
            )  # fmt: skip
            time.sleep(0.01)  # between two looks at the processes
        os.kill(blocked[0], signal.SIGSTOP)
        try:
            while time.monotonic() < deadline and images_seen() < 320:
                time.sleep(0.05)  # between two looks at the journal
            reached.append(images_seen())
            assert not (Path(settings.directory) / "scores" / "320.json").exists()
        finally:
            os.kill(blocked[0], signal.SIGCONT)

    blocker = threading.Thread(target=block)
    blocker.start()
    run_experiment(settings)
    blocker.join()
    assert reached == [320]
    assert steps(tmp_path, METRIC) == list(range(32, 321, 32))
