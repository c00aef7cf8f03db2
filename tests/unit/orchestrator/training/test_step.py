"""What is drawn for a batch, and what a step does."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from dimr_model.diffusion import multi_scale_loss
from dimr_model.times import time_weights
from orchestrator.data.format import read_rows, to_arrays
from orchestrator.data.stream import Batch
from orchestrator.training.interval import mean_losses
from orchestrator.training.parallelize import make_mesh
from orchestrator.training.state import fresh_state
from orchestrator.training.step import Draws, draw, forward_losses, train_step
from orchestrator.training.timing import Stopwatch
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


FLOW = {
    "process": "flow", "prediction": "velocity", "time": "logit_normal", "time_mean": -0.5, "time_shift": 2.0,
    "loss_weight": "min_snr",
}  # fmt: skip


def test_a_flow_s_times_belong_to_the_place_alone(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "d", 40, 8)
    config = tiny(tmp_path, dataset.path, diffusion=FLOW)
    batch = batch_of(dataset, 8)
    whole = draw(config, dataset.info, batch, first=800)
    halves = [draw(config, dataset.info, part(batch, slice(a, a + 4)), first=800 + a) for a in (0, 4)]
    assert whole.step.dtype == torch.float64 and (whole.step % 1 != 0).all()
    assert torch.equal(whole.step, torch.cat([half.step for half in halves]))
    assert not torch.equal(whole.step, draw(config, dataset.info, batch, first=800, attempt=1).step)
    # What else is drawn is the same with every recipe.
    paper = draw(tiny(tmp_path, dataset.path), dataset.info, batch, first=800)
    assert torch.equal(paper.noise, whole.noise) and torch.equal(paper.labels, whole.labels)
    assert torch.equal(paper.step.argsort(), whole.step.argsort())


def test_the_held_out_loss_has_the_same_times_with_every_recipe(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "d", 40, 8)
    batch = batch_of(dataset, 8)
    drawn = [
        draw(tiny(tmp_path, dataset.path, diffusion=diffusion), dataset.info, batch, 0, held_out=True)
        for diffusion in ({"schedule": "cosine", "prediction": "v"}, FLOW, {"time": "lognormal"})
    ]
    for other in drawn[1:]:
        assert torch.equal(other.step, drawn[0].step) and torch.equal(other.noise, drawn[0].noise)
    assert drawn[0].step.dtype == torch.int64


@pytest.fixture
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_loss_weight_changes_the_gradient_and_not_what_is_reported(tmp_path: Path, group: None) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 8, 1, 2, 2, generator=generator)
    draws = Draws(clean, noise, torch.linspace(50.5, 950.5, 8, dtype=torch.float64), torch.arange(8) % 4)
    moments, losses = [], []
    for weight in ("none", "min_snr", "edm"):
        diffusion = FLOW | {"loss_weight": weight}
        config = tiny(tmp_path, "unused", diffusion=diffusion, train={"clip_gradient_norm": 1e9})
        state = fresh_state(config, make_mesh(config.train, "cpu", 1, 1), torch.device("cpu"))
        process = config.diffusion.make_process()
        result = train_step(config, state, draws, process, Stopwatch(torch.device("cpu")))
        losses.append(result.losses)
        # By hand: the weighted mean over the batch of the branches' weighted sum.
        state = fresh_state(config, make_mesh(config.train, "cpu", 1, 1), torch.device("cpu"))
        sums = multi_scale_loss(forward_losses(config, state, draws, process))
        weights = time_weights(process, draws.step, "velocity", weight, 5.0, 0.5)  # type: ignore[arg-type]
        (sums * weights.float()).mean().backward()
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in state.model.parameters()]).full_tensor())  # type: ignore[union-attr]
        assert result.gradient_norm == pytest.approx(norm, rel=1e-5)
        moments.append(norm)
    assert torch.equal(losses[0], losses[1]) and torch.equal(losses[0], losses[2])
    assert len({round(norm, 6) for norm in moments}) == 3


def test_a_time_between_steps_counts_with_the_step_above(group: None) -> None:
    steps = torch.tensor([0.0, 0.4, 200.0, 200.1, 1000.0], dtype=torch.float64)
    found = mean_losses(torch.tensor([[1.0, 3.0, 5.0, 7.0, 9.0]]), steps, multi_scale=True)
    assert found["loss_by_noise/steps_0001-0200"] == 3
    assert found["loss_by_noise/steps_0201-0400"] == 7
    assert found["loss_by_noise/steps_0801-1000"] == 9
