"""How times of training are distributed, and what each counts."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dimr_model import randomness
from dimr_model.config import Prediction, TimeKind
from dimr_model.diffusion import Flow, NoiseSchedule, Process
from dimr_model.times import time_weights, training_steps

MANY = torch.from_numpy(randomness.uniform(0, "test", range(20_000)))


def steps_of(
    process: Process, kind: TimeKind, mean: float, std: float, continuous: bool = True
) -> torch.Tensor:
    return training_steps(MANY, process, kind, mean, std, continuous)


def test_uniform_whole_steps_are_those_of_the_paper_bit_for_bit() -> None:
    steps = steps_of(NoiseSchedule(), "uniform", 0, 1, continuous=False)
    assert torch.equal(steps, torch.from_numpy(1 + np.floor(MANY.numpy() * 1000).astype(np.int64)))


@pytest.mark.parametrize("process", [NoiseSchedule("cosine"), Flow(), Flow(3.0)])
@pytest.mark.parametrize("kind", get_args(TimeKind))
def test_whole_steps_are_continuous_ones_rounded_up(process: Process, kind: TimeKind) -> None:
    whole, any_time = (steps_of(process, kind, -0.4, 1.1, continuous) for continuous in (False, True))
    assert whole.dtype == torch.int64 and whole.min() >= 1 and whole.max() <= 1000
    assert any_time.dtype == torch.float64
    assert ((whole - any_time >= 0) & (whole - any_time <= 1)).all()
    # More of the uniform number is more noise.
    assert (any_time[MANY.argsort()].diff() >= 0).all()


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.8, 0.5), (1.0, 1.5)])
def test_a_logit_normal_time_has_a_normal_logit(mean: float, std: float) -> None:
    for process in (Flow(), NoiseSchedule("cosine")):
        time = steps_of(process, "logit_normal", mean, std) / 1000
        inside = time[(time > 0.001) & (time < 1)]
        logits = torch.logit(inside)
        assert abs(float(logits.mean()) - mean) < 0.03 and abs(float(logits.std()) - std) < 0.04


@pytest.mark.parametrize("process", [NoiseSchedule("vp_linear"), Flow()])
def test_a_lognormal_time_has_normal_log_noise(process: Process) -> None:
    alpha, sigma = process.alpha_sigma(steps_of(process, "lognormal", -1.2, 1.2))
    found = (sigma / alpha).log().flatten()
    assert abs(float(found.mean()) + 1.2) < 0.03 and abs(float(found.std()) - 1.2) < 0.03


def test_the_first_step_has_its_share_of_lognormal_times() -> None:
    whole, any_time = (
        steps_of(NoiseSchedule("scaled_linear"), "lognormal", -1.2, 1.2, continuous)
        for continuous in (False, True)
    )
    assert int((whole == 1).sum()) == int((any_time <= 1).sum()) > 100


def test_in_a_flow_lognormal_is_logit_normal() -> None:
    one, other = (steps_of(Flow(), kind, 0.3, 0.9) for kind in ("lognormal", "logit_normal"))
    torch.testing.assert_close(one, other)


def test_a_shift_moves_times_to_more_noise() -> None:
    before, after = (steps_of(Flow(shift), "uniform", 0, 1) / 1000 for shift in (1.0, 3.0))
    torch.testing.assert_close(after, 3 * before / (1 + 2 * before))


@pytest.mark.parametrize("kind", get_args(TimeKind))
def test_the_ends_of_uniform_numbers_are_times(kind: TimeKind) -> None:
    ends = torch.tensor([0.0, math.nextafter(1, 0)], dtype=torch.float64)
    for process in (NoiseSchedule("cosine"), Flow()):
        for continuous in (False, True):
            found = training_steps(ends, process, kind, 0.0, 2.0, continuous)
            assert found.min() >= (process.first_step if continuous else 1) and found.max() <= 1000


@given(step=st.floats(1, 999), gamma=st.floats(0.5, 20))
def test_min_snr_has_its_published_forms(step: float, gamma: float) -> None:
    steps = torch.tensor([step], dtype=torch.float64)

    def weight(process: Process, prediction: Prediction) -> float:
        return float(time_weights(process, steps, prediction, "min_snr", gamma, 0.5))

    alpha, sigma = (float(scale) for scale in NoiseSchedule("cosine").alpha_sigma(steps))
    snr = (alpha / sigma) ** 2
    schedule = NoiseSchedule("cosine")
    assert weight(schedule, "x") == pytest.approx(min(snr, gamma))
    assert weight(schedule, "epsilon") == pytest.approx(min(snr, gamma) / snr)
    assert weight(schedule, "v") == pytest.approx(min(snr, gamma) / (snr + 1))
    time = step / 1000
    assert weight(Flow(), "velocity") == pytest.approx(min(((1 - time) / time) ** 2, gamma) * time**2)


@given(step=st.floats(0, 1000), data=st.floats(0.2, 2))
def test_edm_is_the_denoiser_s_weight_and_bounded(step: float, data: float) -> None:
    steps = torch.tensor([step], dtype=torch.float64)
    time = step / 1000
    velocity = float(time_weights(Flow(), steps, "velocity", "edm", 5, data))
    if time > 1e-9:
        assert velocity == pytest.approx((1 - time) ** 2 + (time / data) ** 2)
        ratio = time / (1 - time) if time < 1 else math.inf
        if 0.001 < time < 0.999:
            # EDM's lambda, by the derivative of the denoised image by the velocity, which is t.
            denoiser = (ratio**2 + data**2) / (ratio * data) ** 2
            assert velocity == pytest.approx(denoiser * time**2)
    assert velocity <= 1 + 1 / data**2


@pytest.mark.parametrize(
    ("process", "prediction"),
    [
        (NoiseSchedule("cosine"), "epsilon"),
        (NoiseSchedule("cosine"), "v"),
        (NoiseSchedule("vp_linear"), "x"),
        (Flow(), "v"),
        (Flow(), "x"),
        (Flow(), "velocity"),
    ],
)
@given(step=st.floats(1, 999), seed=st.integers(0, 99))
@settings(max_examples=10)
def test_a_weighted_error_of_any_prediction_is_the_weighted_error_of_the_image(
    process: Process, prediction: Prediction, step: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean, noise, wrong = torch.randn(3, 1, 1, 4, 4, generator=generator, dtype=torch.float64)
    steps = torch.tensor([step], dtype=torch.float64)
    noisy = process.add_noise(clean, noise, steps)
    output = process.target(clean, noise, steps, prediction) + 0.1 * wrong
    error = (0.1 * wrong).square().mean() * time_weights(process, steps, prediction, "min_snr", 5, 0.5)
    of_image = (process.to_clean(noisy, output, steps, prediction) - clean).square().mean()
    torch.testing.assert_close(
        error, of_image * time_weights(process, steps, "x", "min_snr", 5, 0.5), rtol=1e-6, atol=1e-9
    )


def test_no_weight_is_one() -> None:
    assert time_weights(Flow(), torch.tensor([1, 5]), "velocity", "none", 5, 0.5).tolist() == [1, 1]
