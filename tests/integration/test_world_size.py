"""Going on with another number of workers changes nothing but rounding."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.training import loop
from orchestrator.training.hooks import Hooks
from orchestrator.training.shards import TrainJob
from orchestrator.training.worker import run_process
from tests.configs import tiny
from tests.datasets import write_moments
from tests.processes import in_processes
from tests.states import whole_state

NETWORK = {
    "input_size": 4,
    "channels": 2,
    "num_classes": 2,
    "depths": [3, 1],
    "widths": [16, 8],
    "num_heads": 2,
}


def config(folder: Path, dataset: LatentDataset, images: int, workers: int) -> ExperimentConfig:
    train = {"images": images, "workers": workers, "log_every_images": 8, "checkpoint_every_images": 160}
    return tiny(folder, dataset.path, model=NETWORK, sampling={"vae": "a-vae"}, train=train)


def train(config_: ExperimentConfig, dataset: LatentDataset, dtype: torch.dtype, notes: Path) -> None:
    """Train, and note per step the metrics, and what every rank drew for which images."""
    notes.mkdir(parents=True, exist_ok=True)
    real = loop.draw

    def noted(config: Any, info: Any, batch: Any, first: int, *rest: Any, **options: Any) -> Any:
        draws = real(config, info, batch, first, *rest, **options)
        torch.save(
            {"ids": torch.from_numpy(batch.indices), **dataclasses.asdict(draws)},
            notes / f"{first:06d}.draws",
        )
        return draws

    def note_metrics(metrics: dict[str, float], images_seen: int) -> None:
        (notes / f"{images_seen:06d}.json").write_text(json.dumps(metrics))

    loop.draw = noted  # type: ignore[assignment]
    torch.set_default_dtype(dtype)
    try:
        hooks = Hooks(on_metrics=note_metrics, on_checkpoint=lambda checkpoint: None)
        run_process(TrainJob(config_, dataset, lambda: hooks))
    finally:
        torch.set_default_dtype(torch.float32)
        loop.draw = real


def train_each(jobs: list[tuple[ExperimentConfig, LatentDataset, torch.dtype, Path]]) -> None:
    for job in jobs:
        train(*job)


def drawn(notes: Path) -> dict[str, torch.Tensor]:
    """What was drawn in all, in the order of images seen."""
    files = [torch.load(file) for file in sorted(notes.glob("*.draws"))]
    return {name: torch.cat([file[name] for file in files]) for name in files[0]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs in float64: one of 20 steps in one process, and 7 + 6 + 7 steps in 2, 1 and 2 processes.

    Runs in float32: 7 steps in two processes, then one more from that checkpoint in one and in two.
    """
    folder = tmp_path_factory.mktemp("runs")
    dataset = write_moments(folder / "data", 40, 4)
    double, single = torch.float64, torch.float32
    whole, parts = folder / "whole", folder / "parts"
    train(config(whole, dataset, 160, 1), dataset, double, folder / "notes" / "whole")
    in_processes(train_each, 2, [
        (config(parts, dataset, 56, 2), dataset, double, folder / "notes" / "parts"),
        (config(folder / "one", dataset, 56, 2), dataset, single, folder / "notes" / "first"),
        (config(folder / "two", dataset, 56, 2), dataset, single, folder / "notes" / "first"),
    ])  # fmt: skip
    train(config(parts, dataset, 104, 1), dataset, double, folder / "notes" / "parts")
    train(config(folder / "one", dataset, 64, 1), dataset, single, folder / "notes" / "one")
    in_processes(train_each, 2, [
        (config(parts, dataset, 160, 2), dataset, double, folder / "notes" / "parts"),
        (config(folder / "two", dataset, 64, 2), dataset, single, folder / "notes" / "two"),
    ])  # fmt: skip
    return folder


def test_weights_optimizer_and_ema_agree_to_1e_9(folder: Path) -> None:
    dataset = write_moments(folder / "data", 40, 4)
    whole, parts = (
        whole_state(config(folder / name, dataset, 160, 1), torch.float64) for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert {name.split("/")[1] for name in whole} == {"model", "optimizer", "ema"}
    assert any("exp_avg_sq" in name for name in whole)
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, parts[name], rtol=0, atol=1e-9, msg=name)


def test_sample_ids_timesteps_noise_and_labels_are_identical(folder: Path) -> None:
    whole, parts = drawn(folder / "notes" / "whole"), drawn(folder / "notes" / "parts")
    assert len(whole["ids"]) == 160
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name


def test_the_first_resumed_step_has_the_same_loss_and_gradient_norm(folder: Path) -> None:
    one, two = (json.loads((folder / "notes" / name / "000064.json").read_text()) for name in ("one", "two"))
    for key in ("loss/total", "loss/branch0", "loss/branch1", "train/gradient_norm"):
        assert one[key] == pytest.approx(two[key], rel=1e-5)
