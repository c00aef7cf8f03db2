"""A disk that is really full: checkpoints are given up, and training and the journal go on without loss."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.checkpoints.selection import marked
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.tracking.tracker import Tracker
from orchestrator.training.hooks import Hooks
from orchestrator.training.shards import TrainJob
from orchestrator.training.worker import run_process
from tests.configs import no_hooks, tiny
from tests.datasets import write_numbered
from tests.processes import in_processes
from tests.states import whole_state
from tests.waiting import PATIENCE, wait_until

DISK = "8m"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small filesystem of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small filesystem is not permitted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leave: int = 0) -> None:
    """Write until the disk has no more than ``leave`` bytes."""
    with (disk / "filler").open("ab", buffering=0) as filler:
        while shutil.disk_usage(disk).free > leave:
            filler.write(bytes(4096))


def free(disk: Path) -> None:
    (disk / "filler").unlink()


def config(root: Path, dataset: LatentDataset, workers: int) -> ExperimentConfig:
    train = {"images": 96, "workers": workers, "log_every_images": 8, "checkpoint_every_images": 16}
    return tiny(root, dataset.path, train=train)


def train(config_: ExperimentConfig, dataset: LatentDataset, disk: Path, leave: float) -> None:
    """Train, and fill the disk after the checkpoint at 16 images; make room after the one that is due at 64.

    What stays free is ``leave`` times the size of a checkpoint.
    """
    folder = Path(config_.directory) / "checkpoints"

    def act(metrics: dict[str, float], images_seen: int) -> None:
        if images_seen == 24:
            wait_until(lambda: marked(config_.directory), "the first checkpoint")
            size = sum(file.stat().st_size for file in (folder / "16").iterdir())
            fill(disk, int(leave * size))
        if images_seen == 72:
            # No half checkpoint takes the room.
            wait_until(lambda: [path.name for path in folder.iterdir()] == ["16"], "clearing up")
            free(disk)

    hooks = Hooks(on_metrics=act, on_checkpoint=lambda checkpoint: None)
    run_process(TrainJob(config_, dataset, lambda: hooks))


@pytest.mark.long
@pytest.mark.parametrize(
    ("workers", "leave"),
    [(1, 0), (1, 0.5), pytest.param(2, 0.5, marks=pytest.mark.faults)],
    ids=["nothing fits", "half a checkpoint fits", "half a checkpoint of two workers fits"],
)
def test_training_goes_on_and_the_next_checkpoint_is_tried(
    workers: int, leave: float, disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: Any
) -> None:
    dataset = write_numbered(tmp_path / "data", 50, 8)
    disturbed, undisturbed = (config(root, dataset, workers) for root in (disk, tmp_path / "undisturbed"))
    if workers == 1:
        train(disturbed, dataset, disk, leave)
        run_job(undisturbed, dataset)
    else:
        in_processes(train, workers, disturbed, dataset, disk, leave)
        in_processes(run_job, workers, undisturbed, dataset)
    said = capfd.readouterr().err + caplog.text
    assert said.count("could not be written and was given up; training goes on") >= 2
    assert "No space left on device" in said
    # While it was full nothing counted; afterwards every one does.
    assert [checkpoint.images_seen for checkpoint in marked(disturbed.directory)] == [16, 80, 96]
    expected, found = whole_state(undisturbed), whole_state(disturbed)
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def run_job(config_: ExperimentConfig, dataset: LatentDataset) -> None:
    run_process(TrainJob(config_, dataset, no_hooks))


@pytest.mark.long
def test_the_journal_waits_for_room_and_has_everything_then(
    disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = disk / "run"
    directory.mkdir()
    tracker = Tracker(str(directory), "run", "experiment", f"sqlite:///{tmp_path}/mlflow.db")
    tracker.log_metrics({"loss": 1.0}, 1)
    fill(disk)
    for step in range(2, 400):
        tracker.log_metrics({"loss": 1 / step}, step)
    assert "The journal cannot be written" in caplog.text
    # The file ends in a whole record even now: a process that is killed here can go on.
    assert all(json.loads(line) for line in (directory / "journal.jsonl").read_bytes().splitlines())
    free(disk)
    assert tracker.close(PATIENCE) is None
    records = [json.loads(line) for line in (directory / "journal.jsonl").read_bytes().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "metrics"] == list(range(1, 400))
