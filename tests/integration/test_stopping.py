"""SIGTERM ends a run with a checkpoint, and what it continues to is what an undisturbed one is."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import torch

from orchestrator.checkpoints.selection import newest_valid
from orchestrator.config.plain import to_yaml
from orchestrator.signals import JOB_STOP_SECONDS_VARIABLE, Stopper, run_in_thread, seconds_until_killed
from orchestrator.training.shards import TrainJob
from orchestrator.training.worker import run_process
from tests.configs import no_hooks, tiny
from tests.datasets import write_numbered
from tests.states import whole_state
from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.usefixtures("mlflow_store")
@pytest.mark.long
def test_sigterm_writes_a_checkpoint_marks_the_run_and_the_same_command_goes_on(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 50, 8)
    config = tiny(tmp_path, dataset.path, train={"images": 10**7, "checkpoint_every_images": 10**7})
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [sys.executable, "jobs/train_g.py", "--config", str(tmp_path / "config.yaml")],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.match(r"train \d+/", line):
            process.send_signal(signal.SIGTERM)
            break
    rest = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 130, "".join(lines) + rest
    found = re.search(r"Stopped at (\d+) of 10000000 images, with a checkpoint", rest)
    assert found is not None, rest
    stopped_at = int(found[1])
    newest = newest_valid(config.directory)
    assert newest is not None and newest.images_seen == stopped_at
    (run,) = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert run.info.status == "KILLED"

    longer = dataclasses.replace(config.train, images=stopped_at + 64)
    went_on = dataclasses.replace(config, train=longer)
    undisturbed = dataclasses.replace(went_on, run=dataclasses.replace(config.run, name="undisturbed"))
    for one in (went_on, undisturbed):
        run_process(TrainJob(one, dataset, no_hooks))
    expected, found_state = whole_state(undisturbed), whole_state(went_on)
    for name, tensor in expected.items():
        assert torch.equal(tensor, found_state[name]), name


def test_the_first_signal_asks_and_the_second_interrupts() -> None:
    asked = []
    with Stopper() as stopper, stopper.asks(lambda: asked.append(1)):
        signal.raise_signal(signal.SIGTERM)
        assert asked == [1]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError):
        run_in_thread(lambda: 1 / 0)  # type: ignore[arg-type, return-value]


def test_a_submitted_job_knows_how_long_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert seconds_until_killed() is None
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert seconds_until_killed() == 3
    monkeypatch.setenv(JOB_STOP_SECONDS_VARIABLE, "300")
    assert seconds_until_killed() == 300
