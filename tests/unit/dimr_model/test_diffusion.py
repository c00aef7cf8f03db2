"""The forward process, targets and the multi-scale loss."""

import pytest
import torch

from dimr_model.config import Prediction, Schedule
from dimr_model.diffusion import NoiseSchedule, branch_losses, branch_targets, loss_weights, multi_scale_loss
from tests.unit.dimr_model.golden import load_golden

SCHEDULES: tuple[Schedule, ...] = ("scaled_linear", "vp_linear", "cosine")


def test_forward_process_and_targets_equal_the_released_ones() -> None:
    tensors, _ = load_golden("tiny_3r_tdrmsn")
    clean, noise, step = (tensors[f"in/{name}"] for name in ("x0", "eps", "n"))
    noisy = NoiseSchedule("scaled_linear").add_noise(clean.double(), noise.double(), step)
    torch.testing.assert_close(noisy, tensors["in/xn_f64"], rtol=0, atol=1e-12)
    for branch, target in enumerate(branch_targets(noise.double(), 3)):
        torch.testing.assert_close(target, tensors[f"target_f64/branch{branch}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_noise_rises_from_little_to_nearly_all(kind: Schedule) -> None:
    remaining = NoiseSchedule(kind).alphas_cumprod
    assert remaining[0] > 0.99
    assert remaining[-1] < 0.01
    assert (remaining.diff() < 0).all()


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_perfect_prediction_gives_back_the_clean_image(kind: Schedule, prediction: Prediction) -> None:
    schedule = NoiseSchedule(kind)
    clean, noise = torch.randn(5, 1, 4, 4, dtype=torch.float64), torch.randn(5, 1, 4, 4, dtype=torch.float64)
    step = torch.tensor([1, 100, 500, 900, 990])
    noisy = schedule.add_noise(clean, noise, step)
    output = schedule.target(clean, noise, step, prediction)
    torch.testing.assert_close(schedule.to_clean(noisy, output, step, prediction), clean)


def test_coarse_targets_of_white_noise_keep_unit_variance() -> None:
    noise = torch.randn(64, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    for target in branch_targets(noise, 3):
        assert target.var().item() == pytest.approx(1, abs=0.05)


def test_loss_weights_are_a_quarter_per_coarser_branch() -> None:
    assert loss_weights(1) == [1]
    assert loss_weights(3) == [1 / 16, 1 / 4, 1]
    assert multi_scale_loss(torch.tensor([[8.0], [3.0]])).tolist() == [8 / 4 + 3]
    assert multi_scale_loss(torch.tensor([[8.0], [3.0]]), multi_scale=False).tolist() == [3]


def test_every_branch_is_compared_with_its_own_target() -> None:
    target = torch.randn(2, 1, 8, 8)
    losses = branch_losses([t + 2 for t in branch_targets(target, 2)], target)
    torch.testing.assert_close(losses, torch.full((2, 2), 4.0))
