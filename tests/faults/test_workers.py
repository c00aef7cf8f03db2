"""Workers that are killed or hang: the run starts again from its checkpoint.

It ends in the bits of an undisturbed run.
"""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch

from orchestrator.checkpoints.selection import Checkpoint, marked
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.errors import UserError
from orchestrator.training.entry import train
from orchestrator.training.hooks import Hooks
from orchestrator.training.shards import TrainJob
from tests.configs import tiny
from tests.datasets import write_numbered
from tests.states import whole_state

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.faults]


@dataclass(frozen=True)
class Fault:
    """Hooks that send the first rank's process a signal, once, when the first checkpoint is complete."""

    number: int
    done: str

    def __call__(self) -> Hooks:
        return Hooks(on_metrics=lambda metrics, seen: None, on_checkpoint=self.strike)

    def strike(self, checkpoint: Checkpoint) -> None:
        if not Path(self.done).exists():
            Path(self.done).write_text(str(checkpoint.images_seen))
            os.kill(os.getpid(), self.number)


@dataclass(frozen=True)
class ControllerDies:
    """Hooks that kill Ray Train's controller once, and before it the actor that would free its places."""

    done: str

    def __call__(self) -> Hooks:
        return Hooks(on_metrics=lambda metrics, seen: None, on_checkpoint=self.strike)

    def strike(self, checkpoint: Checkpoint) -> None:
        if Path(self.done).exists():
            return
        Path(self.done).write_text(str(checkpoint.images_seen))
        raylet = psutil.Process().parent()
        assert raylet is not None
        others = [(one, " ".join(one.cmdline())) for one in raylet.children()]
        for title in ("ray::PlacementGroupCleaner", "ray::TrainController"):
            (process,) = [one for one, words in others if words.startswith(title)]
            process.kill()


def refuse(metrics: dict[str, float], images_seen: int) -> None:
    raise RuntimeError("this fails every time")


def failing() -> Hooks:
    return Hooks(on_metrics=refuse, on_checkpoint=lambda checkpoint: None)


def config(folder: Path, dataset: LatentDataset, **train: Any) -> ExperimentConfig:
    settings: dict[str, Any] = {"workers": 2, "images": 96, "checkpoint_every_images": 16, **train}
    return tiny(folder, dataset.path, train=settings)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[LatentDataset, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    dataset = write_numbered(folder / "data", 50, 8)
    config_ = config(folder, dataset)
    (folder / "done").touch()
    train(TrainJob(config_, dataset, Fault(0, str(folder / "done"))), data_cpus=1)
    return dataset, whole_state(config_)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
def test_the_run_goes_on_and_ends_in_the_same_bits(
    number: signal.Signals,
    tmp_path: Path,
    undisturbed: tuple[LatentDataset, dict[str, torch.Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "10")
    dataset, expected = undisturbed
    config_ = config(tmp_path, dataset)
    train(TrainJob(config_, dataset, Fault(number, str(tmp_path / "done"))), data_cpus=1)
    assert (tmp_path / "done").read_text() in ("16", "32")
    assert [checkpoint.images_seen for checkpoint in marked(config_.directory)][-1] == 96
    found = whole_state(config_)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def test_the_places_of_a_dead_controller_are_free_for_the_next_workers(
    tmp_path: Path, undisturbed: tuple[LatentDataset, dict[str, torch.Tensor]]
) -> None:
    dataset, expected = undisturbed
    # With these one more worker would not fit beside those whose places are still held.
    beside = [
        ray.util.placement_group([{"CPU": 1}]) for _ in range(int(ray.available_resources()["CPU"]) - 3)
    ]
    config_ = config(tmp_path, dataset)
    train(TrainJob(config_, dataset, ControllerDies(str(tmp_path / "done"))), data_cpus=1)
    for group in beside:
        ray.util.remove_placement_group(group)
    found = whole_state(config_)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_what_fails_every_time_ends_with_a_last_word(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 50, 8)
    config_ = config(tmp_path, dataset, max_restarts=1)
    with pytest.raises(
        UserError, match=r"it was 1 times(?s:.*)this fails every time(?s:.*)run the same command"
    ):
        train(TrainJob(config_, dataset, failing), data_cpus=1)
