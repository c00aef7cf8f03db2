"""Ctrl-C and SIGTERM end every job with one line and exit code 130, and the same command continues."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import torch
from PIL import Image

from dimr_model import DiMR
from orchestrator.config.plain import to_yaml
from orchestrator.config.schema import ExperimentConfig
from orchestrator.storage.lease import LEASE_FILE
from tests.commands import ROOT
from tests.configs import tiny
from tests.datasets import write_numbered
from tests.sweeps import arguments
from tests.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("mlflow_store")]


def stop(words: list[str], is_time: Callable[[], object], number: signal.Signals) -> str:
    """Start a job, send it a signal when it is time, and return what it printed after that.

    Ctrl-C reaches all processes of a terminal, SIGTERM the one that it is sent to.
    """
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        wait_until(lambda: is_time() or process.poll() is not None, "the moment to stop")
        if process.poll() is None:
            (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        began = time.monotonic()
        said = process.communicate(timeout=PATIENCE)[0]
        print(f"{words[0]} took {time.monotonic() - began:.1f} s to stop")
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said and "The same command continues" in said, said
    return said


def finish(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def has_trained(journal: Path) -> bool:
    return journal.exists() and '"loss/total"' in journal.read_text()


def statuses(root: Path) -> dict[str, str]:
    runs = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db").search_runs(["1"])
    return {str(run.info.run_name): str(run.info.status) for run in runs}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_sweep(tmp_path: Path, number: signal.Signals) -> None:
    dataset = write_numbered(tmp_path / "data", 60, 10)
    axes = [{"name": "time", "options": [{"name": "TD-LN"}, {"name": "token", "changes": {
        "model.time_conditioning": "token", "model.depths": [3], "model.widths": [32],
    }}]}]  # fmt: skip
    words = ["jobs/ablate.py", *arguments(tmp_path, dataset, images=8_000, axes=axes), "--prune", "false",
             "--train.checkpoint_every_images", "2000", "--train.score_every_images", "4000"]  # fmt: skip
    trials = tmp_path / "mine-nano" / "trials"
    stop(words, lambda: any(has_trained(file) for file in trials.glob("*/journal.jsonl")), number)
    found = statuses(tmp_path)
    assert set(found.values()) == {"KILLED"} and "mine-nano" in found and len(found) > 1
    finish(words)
    assert set(statuses(tmp_path).values()) == {"FINISHED"}


def weights(root: Path) -> tuple[ExperimentConfig, str]:
    """Untrained weights in an exported folder, with their config and dataset."""
    dataset = write_numbered(root / "data", 60, 10, size=8)
    config = tiny(
        root, dataset.path, run={"name": "one", "root": str(root)}, model={"input_size": 8},
        sampling={"sampler": {"steps": 20}, "batch_size": 4, "actors": 2, "use_gpu": False},
        evaluation={"images": 400, "extractors": ["efficientnet_lite0"]},
    )  # fmt: skip
    torch.manual_seed(0)
    folder = root / "one"
    DiMR(config.model).save_pretrained(folder)
    (folder / "config.yaml").write_text(to_yaml(config))
    return config, str(folder)


@pytest.mark.parametrize(
    ("job", "options", "number"),
    [
        (["jobs/evaluate.py"], ["--checkpoint"], signal.SIGINT),
        (["jobs/evaluate.py", "sample"], ["--checkpoint"], signal.SIGTERM),
        (["jobs/evaluate.py", "sweep"], ["--quick_images", "100", "--scales", "[1, 2]", "--checkpoint"],
         signal.SIGINT),
        (["jobs/distortion.py"], [], signal.SIGTERM),
    ],
    ids=["score", "sample", "guidance", "distortion"],
)  # fmt: skip
def test_a_job_that_samples(
    tmp_path: Path, job: list[str], options: list[str], number: signal.Signals
) -> None:
    _, folder = weights(tmp_path)
    words = [*job, *options, folder] if options else [*job, folder, "--images", "200", "--threshold", "0.5"]
    parts = "0*-0*.safetensors"
    stop(words, lambda: any(tmp_path.rglob(parts)), number)
    finish(words)
    assert set(statuses(tmp_path).values()) <= {"FINISHED"}


def test_a_run_before_its_first_step(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 60, 10)
    config = tiny(tmp_path, dataset.path, train={"workers": 2})
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    words = ["jobs/train_g.py", "--config", str(tmp_path / "config.yaml")]
    journal = Path(config.directory) / "journal.jsonl"
    stop(words, lambda: journal.exists() and "RUNNING" in journal.read_text(), signal.SIGTERM)
    assert statuses(tmp_path) == {"tiny": "KILLED"}
    finish(words)
    assert statuses(tmp_path) == {"tiny": "FINISHED"}


def test_a_preparation(tmp_path: Path) -> None:
    for number in range(600):
        folder = tmp_path / "pictures" / f"class{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (64, 64), number % 255).save(folder / f"{number}.png")
    source = {"source": "image_folder", "source_path": str(tmp_path / "pictures")}
    config = tiny(
        tmp_path, str(tmp_path / "data"),
        data={"path": str(tmp_path / "data"), "lanes": 4, "shuffle_window": 16, **source},
        model={"input_size": 32},
    )  # fmt: skip
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    words = ["jobs/prepare_latents.py", "--config", str(tmp_path / "config.yaml")]
    stop(words, (tmp_path / "data" / LEASE_FILE).exists, signal.SIGINT)
    finish(words)
    described = json.loads((tmp_path / "data" / "dataset.json").read_text())
    assert sum(sum(file["row_groups"]) for file in described["files"]) == 600
