"""What is drawn for a batch, and what a step does."""

from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.data.format import read_rows, to_arrays
from orchestrator.data.stream import Batch
from orchestrator.training.step import draw
from tests.configs import tiny
from tests.datasets import write_moments, write_numbered


def batch_of(dataset: object, rows: int) -> Batch:
    table = next(iter(read_rows(dataset, rows)))  # type: ignore[arg-type]
    return Batch(
        to_arrays(dataset.info, table),  # type: ignore[attr-defined]
        table["label"].to_numpy(), table["index"].to_numpy(), table["flipped"].to_numpy(),
    )  # fmt: skip


def part(batch: Batch, rows: slice) -> Batch:
    return Batch(batch.arrays[rows], batch.labels[rows], batch.indices[rows], batch.flipped[rows])


@pytest.mark.parametrize("kind", ["pixels", "moments"])
def test_draws_do_not_depend_on_how_a_global_batch_is_split(kind: str, tmp_path: Path) -> None:
    write = (
        write_numbered(tmp_path / "d", 40, 8) if kind == "pixels" else write_moments(tmp_path / "d", 40, 2)
    )
    config = tiny(tmp_path, write.path, data={"random_flip": kind == "pixels"})
    batch = batch_of(write, 8)
    whole = draw(config, write.info, batch, first=800, attempt=0)
    halves = [
        draw(config, write.info, part(batch, slice(a, a + 4)), first=800 + a, attempt=0) for a in (0, 4)
    ]
    for name in ("clean", "noise", "step", "labels"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(half, name) for half in halves])), name
    again = draw(config, write.info, batch, first=800, attempt=1)
    assert not torch.equal(again.noise, whole.noise)


def test_pixels_span_minus_one_to_one_and_flips_mirror(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "d", 40, 8)
    batch = batch_of(dataset, 8)
    pixels = np.zeros((8, 1, 2, 2), np.uint8)
    pixels[..., 1] = 255
    config = tiny(tmp_path, dataset.path, data={"random_flip": True})
    drawn = draw(
        config, dataset.info, Batch(pixels, batch.labels, batch.indices, batch.flipped), first=0, attempt=0
    )
    left = drawn.clean[:, 0, 0, 0]
    assert set(left.tolist()) == {-1.0, 1.0}
    assert torch.equal(drawn.clean[:, 0, 0, 1], -left)


def test_latents_are_sampled_from_moments_and_scaled(tmp_path: Path) -> None:
    dataset = write_moments(tmp_path / "d", 40, 2)
    batch = batch_of(dataset, 8)
    drawn = draw(tiny(tmp_path, dataset.path), dataset.info, batch, first=0, attempt=0)
    expected = (
        torch.tensor(batch.indices / 100 * 0.5, dtype=torch.float32).view(-1, 1, 1, 1).expand(8, 2, 2, 2)
    )
    # The stored spread is exp(-15): nothing beside half precision.
    torch.testing.assert_close(drawn.clean, expected, rtol=1e-3, atol=1e-4)


def test_classes_are_dropped_as_often_as_asked_and_steps_cover_the_range(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "d", 40, 8)
    config = tiny(
        tmp_path, dataset.path, diffusion={"schedule": "cosine", "prediction": "v", "class_dropout": 0.25}
    )
    batch = batch_of(dataset, 8)
    draws = [draw(config, dataset.info, batch, first=8 * k, attempt=0) for k in range(300)]
    dropped = torch.cat([d.labels for d in draws]) == 3
    assert abs(dropped.float().mean().item() - 0.25) < 0.03
    steps = torch.cat([d.step for d in draws])
    assert (steps.min() >= 1) and (steps.max() <= 1000)
    assert abs(steps.float().mean().item() - 500.5) < 20
