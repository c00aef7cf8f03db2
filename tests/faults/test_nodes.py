"""Nodes that come and go under a run: it ends in the weights of an undisturbed one."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.checkpoints.selection import marked
from orchestrator.config.plain import to_yaml
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.training.shards import TrainJob
from orchestrator.training.worker import run_process
from tests.configs import no_hooks, tiny
from tests.datasets import write_numbered
from tests.processes import in_processes
from tests.states import whole_state
from tests.waiting import PATIENCE

pytestmark = pytest.mark.faults

ROOT = Path(__file__).resolve().parents[2]


def config(folder: Path, dataset: LatentDataset, **train: Any) -> ExperimentConfig:
    settings = {"workers": 2, "images": 96, "log_every_images": 8, "checkpoint_every_images": 16}
    return tiny(folder, dataset.path, train={**settings, **train})


def run_job(config_: ExperimentConfig, dataset: LatentDataset) -> None:
    run_process(TrainJob(config_, dataset, no_hooks))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[LatentDataset, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    dataset = write_numbered(folder / "data", 50, 8)
    config_ = config(folder, dataset)
    in_processes(run_job, 2, config_, dataset)
    return dataset, whole_state(config_)


def train_on_nodes(scenario: str, folder: Path, config_: ExperimentConfig) -> str:
    """Run the scenario in a process of its own; returns what it said."""
    (folder / "config.yaml").write_text(to_yaml(config_))
    command = [sys.executable, "-m", "tests.faults.on_nodes", scenario, str(folder)]
    # A session of its own: Ray ends processes by their group.
    with (folder / "log.txt").open("wb") as log:
        done = subprocess.run(
            command, cwd=ROOT, stdout=log, stderr=log, timeout=PATIENCE, start_new_session=True
        )
    said = (folder / "log.txt").read_text()
    assert done.returncode == 0, said[-8000:]
    return said


def lines(folder: Path, name: str) -> list[str]:
    return (folder / name).read_text().split()


def test_a_node_vanishes_and_another_comes(
    tmp_path: Path, undisturbed: tuple[LatentDataset, dict[str, torch.Tensor]]
) -> None:
    dataset, expected = undisturbed
    config_ = config(tmp_path, dataset)
    train_on_nodes("replace", tmp_path, config_)
    # Two worker groups of two: before and after.
    assert len(lines(tmp_path, "workers")) == 4
    assert_same(expected, whole_state(config_))


def assert_same(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def test_a_node_that_is_announced_to_go_is_left_with_a_checkpoint(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 50, 8)
    # No checkpoint is due before the end.
    settings = {"checkpoint_every_images": 6400}
    config_ = config(tmp_path, dataset, **settings)
    said = train_on_nodes("preempt", tmp_path, config_)
    assert "Nodes are about to be taken away" in said
    struck, workers = lines(tmp_path, "workers")[:2], lines(tmp_path, "workers")[2:]
    assert len(workers) == 2
    assert set(struck) != set(workers)
    # Not a step was lost, and none was repeated.
    assert lines(tmp_path, "reports") == [str(8 * step) for step in range(1, 13)]
    assert [checkpoint.images_seen for checkpoint in marked(config_.directory)] == [48, 96]
    undisturbed_ = config(tmp_path / "undisturbed", dataset, **settings)
    in_processes(run_job, 2, undisturbed_, dataset)
    assert_same(whole_state(undisturbed_), whole_state(config_))


def test_with_elastic_bounds_a_run_that_loses_a_node_for_good_ends_with_fewer_workers(
    tmp_path: Path, undisturbed: tuple[LatentDataset, dict[str, torch.Tensor]]
) -> None:
    dataset, expected = undisturbed
    config_ = config(tmp_path, dataset, min_workers=1)
    said = train_on_nodes("lose", tmp_path, config_)
    assert "Going on with 1 of 2 workers" in said
    # A group of two, then a group of one.
    assert len(lines(tmp_path, "workers")) == 3
    # Of the weights: AdamW's moments where the gradient is all but zero hold nothing but rounding.
    for name, tensor in whole_state(config_).items():
        if name.startswith(("/model", "/ema")):
            assert (tensor - expected[name]).norm() <= 1e-5 * expected[name].norm(), name
