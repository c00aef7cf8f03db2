"""Gradients that are not finite: skipped, then rolled back with other noise, then explained."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.checkpoints.loading import load_ema
from orchestrator.checkpoints.selection import newest_valid
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.errors import UserError
from orchestrator.training import loop
from orchestrator.training.entry import train
from orchestrator.training.hooks import Hooks
from orchestrator.training.shards import TrainJob
from tests.configs import tiny
from tests.datasets import write_numbered

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def dataset(tmp_path: Path) -> LatentDataset:
    return write_numbered(tmp_path / "data", 50, 8)


def spoil(monkeypatch: pytest.MonkeyPatch, is_spoiled: Callable[[int, int], bool]) -> list[tuple[int, int]]:
    """Make the noise of the spoiled steps infinite; a step is (images seen, attempt).

    Returns a list to which each step is added when it is taken.
    """
    real, taken = loop.draw, list[tuple[int, int]]()

    def draw(config: Any, info: Any, batch: Any, first: int, attempt: int = 0, held_out: bool = False) -> Any:
        draws = real(config, info, batch, first, attempt, held_out)
        taken.append((first, attempt))
        if is_spoiled(first, attempt):
            return dataclasses.replace(draws, noise=torch.full_like(draws.noise, torch.inf))
        return draws

    monkeypatch.setattr(loop, "draw", draw)
    return taken


def run(
    config: ExperimentConfig, dataset: LatentDataset, on_rewound: Callable[[int], None] = lambda seen: None
) -> list[dict[str, float]]:
    reported: list[dict[str, float]] = []
    hooks = Hooks(
        on_metrics=lambda metrics, seen: reported.append(metrics),
        on_checkpoint=lambda checkpoint: None,
        on_rewound=on_rewound,
    )
    train(TrainJob(config, dataset, lambda: hooks), data_cpus=1)
    return reported


def test_a_few_steps_are_skipped_and_counted(
    tmp_path: Path, dataset: LatentDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda first, attempt: first in (16, 24))
    config = tiny(tmp_path, dataset.path)
    assert run(config, dataset)[-1]["train/skipped_steps"] == 2
    newest = newest_valid(config.directory)
    assert newest is not None and newest.images_seen == 64
    assert all(bool(p.isfinite().all()) for p in load_ema(newest).parameters())


def test_many_in_a_row_roll_back_to_the_newest_checkpoint_with_other_noise(
    tmp_path: Path, dataset: LatentDataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loop, "MAX_SKIPPED_STEPS", 3)
    taken = spoil(monkeypatch, lambda first, attempt: first >= 40 and attempt == 0)
    config = tiny(tmp_path, dataset.path)
    rewound: list[int] = []
    run(config, dataset, rewound.append)
    assert rewound == [32]
    assert taken == [(8 * k, 0) for k in range(8)] + [(8 * k, 1) for k in range(4, 8)]
    assert "going back to the newest checkpoint, and on with other noise" in caplog.text
    newest = newest_valid(config.directory)
    assert newest is not None and newest.images_seen == 64
    # What was trained after the rollback goes on with its noise.
    longer = tiny(tmp_path, dataset.path, train={"images": 72})
    run(longer, dataset, rewound.append)
    assert taken[-1] == (64, 1) and rewound == [32]


def test_a_run_that_diverges_again_and_again_ends_with_a_diagnosis(
    tmp_path: Path, dataset: LatentDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MAX_SKIPPED_STEPS", 3)
    taken = spoil(monkeypatch, lambda first, attempt: first >= 40)
    config = tiny(tmp_path, dataset.path)
    with pytest.raises(UserError, match="diverges at about 64 images.*lower --train.learning_rate"):
        run(config, dataset)
    assert {attempt for _, attempt in taken} == {0, 1, 2}
    newest = newest_valid(config.directory)
    assert newest is not None and newest.images_seen == 32
