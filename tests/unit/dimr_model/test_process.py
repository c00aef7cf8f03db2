"""Processes, what is predicted of them, and which combinations there are."""

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dimr_model.config import Prediction, ProcessKind, Sampler, SamplerKind, Schedule
from dimr_model.diffusion import (
    Flow,
    NoiseSchedule,
    Process,
    branch_targets,
    branches_to_clean,
    make_process,
)
from dimr_model.objective import (
    DIFFUSION_SAMPLERS,
    FLOW_SAMPLERS,
    check_loss_weight,
    check_prediction,
    check_time_shift,
)
from dimr_model.solvers import make_solver

PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
PROCESSES: list[Process] = [*map(NoiseSchedule, get_args(Schedule)), Flow(), Flow(3.0)]


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("given_as", PREDICTIONS)
@pytest.mark.parametrize("wanted", PREDICTIONS)
@given(step=st.floats(1, 999), seed=st.integers(0, 2**31))
@settings(max_examples=10)
def test_any_prediction_is_any_other(
    process: Process, given_as: Prediction, wanted: Prediction, step: float, seed: int
) -> None:
    clean, noise = drawn(seed, 2, 3, 1, 4, 4)
    steps = torch.full((3,), step, dtype=torch.float64)
    noisy = process.add_noise(clean, noise, steps)
    output = process.target(clean, noise, steps, given_as)
    expected = process.target(clean, noise, steps, wanted)
    converted = process.convert(noisy, output, steps, given_as, wanted)
    torch.testing.assert_close(converted, expected, rtol=1e-6, atol=1e-6)
    back = process.convert(noisy, converted, steps, wanted, given_as)
    torch.testing.assert_close(back, output, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@given(step=st.floats(1, 999), seed=st.integers(0, 2**31), num_branches=st.integers(1, 3))
@settings(max_examples=10)
def test_a_perfect_branch_stands_for_the_downsampled_clean_image(
    process: Process, prediction: Prediction, step: float, seed: int, num_branches: int
) -> None:
    clean, noise = drawn(seed, 2, 2, 3, 8, 8)
    steps = torch.full((2,), step, dtype=torch.float64)
    noisy = process.add_noise(clean, noise, steps)
    outputs = branch_targets(process.target(clean, noise, steps, prediction), num_branches)
    images = branches_to_clean(process, noisy, outputs, steps, prediction)
    assert len(images) == num_branches
    for image, k in zip(reversed(images), (1, 2, 4), strict=False):
        # Near pure noise the image is what little is left of a difference, times 1 / alpha.
        torch.testing.assert_close(image, F.avg_pool2d(clean, k), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("step", [0, 1000])
@pytest.mark.parametrize("given_as", PREDICTIONS)
@pytest.mark.parametrize("wanted", PREDICTIONS)
def test_at_the_ends_of_a_flow_nothing_is_infinite(
    step: int, given_as: Prediction, wanted: Prediction
) -> None:
    noisy, output = drawn(0, 2, 1, 1, 4, 4).float()
    assert Flow().convert(noisy, output, torch.tensor([step]), given_as, wanted).isfinite().all()


def test_a_flow_is_the_straight_line_whose_velocity_is_predicted() -> None:
    flow, (clean, noise) = Flow(), drawn(1, 2, 1, 1, 2, 2)
    times = torch.tensor([0.0, 250.0, 1000.0]).double()
    start, quarter, end = (flow.add_noise(clean, noise, time[None]) for time in times)
    assert torch.equal(start, clean) and torch.equal(end, noise)
    torch.testing.assert_close(quarter, 0.75 * clean + 0.25 * noise)
    velocity = flow.target(clean, noise, times[1:2], "velocity")
    torch.testing.assert_close((quarter - start) / 0.25, velocity)
    # Whole steps are times, too.
    assert torch.equal(flow.add_noise(clean, noise, torch.tensor([250])), quarter)


@pytest.mark.parametrize("process", PROCESSES)
@given(step=st.floats(1.5, 999.5))
@settings(max_examples=30)
def test_a_step_is_found_by_its_noise(process: Process, step: float) -> None:
    steps = torch.tensor([step], dtype=torch.float64)
    alpha, sigma = process.alpha_sigma(steps)
    found = process.step_at((sigma / alpha).log().flatten())
    torch.testing.assert_close(found, steps, rtol=1e-6, atol=1e-4)


def test_noise_beyond_a_schedule_is_its_last_step() -> None:
    for schedule in PROCESSES[:3]:
        assert schedule.step_at(torch.tensor([-30.0, 30.0])).tolist() == [1, 1000]


@given(step=st.floats(0.5, 999.5), shift=st.floats(0.2, 8))
def test_a_shift_multiplies_the_ratio_of_noise_to_image(step: float, shift: float) -> None:
    steps = torch.tensor([step], dtype=torch.float64)
    before, after = (flow.alpha_sigma(flow.shifted(steps)) for flow in (Flow(), Flow(shift)))
    torch.testing.assert_close(after[1] / after[0], shift * before[1] / before[0])


@pytest.mark.parametrize("process", [NoiseSchedule("cosine"), Flow()])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_branch_s_target_is_that_of_the_downsampled_image_and_noise(
    process: Process, prediction: Prediction
) -> None:
    clean, noise = drawn(2, 2, 3, 2, 8, 8)
    steps = torch.tensor([5, 400, 990])
    targets = branch_targets(process.target(clean, noise, steps, prediction), 3)
    for factor, target in zip((4, 2, 1), targets, strict=True):
        small = [factor * F.avg_pool2d(image, factor) for image in (clean, noise)]
        torch.testing.assert_close(target, process.target(small[0], small[1], steps, prediction))
        # So a coarse branch's estimate of the small image is the small estimate.
        noisy = process.add_noise(small[0], small[1], steps)
        torch.testing.assert_close(
            process.to_clean(noisy, target, steps, prediction), small[0], rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("kind", get_args(ProcessKind))
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_predictions_are_possible_or_refused_with_a_reason(kind: ProcessKind, prediction: Prediction) -> None:
    refused = {("diffusion", "velocity"): "use v", ("flow", "epsilon"): "divides by zero. Use velocity"}
    if (kind, prediction) in refused:
        with pytest.raises(ValueError, match=refused[kind, prediction]):
            check_prediction(kind, prediction)
        return
    check_prediction(kind, prediction)
    # What is possible has a bounded estimate of the image where sampling starts.
    process = make_process(kind, "scaled_linear")
    slope = process.clean_per_output(torch.tensor([1000]), prediction)
    assert slope.item() < 20


@pytest.mark.parametrize("kind", get_args(ProcessKind))
@pytest.mark.parametrize("sampler", get_args(SamplerKind))
def test_samplers_are_possible_or_refused_with_those_that_are(
    kind: ProcessKind, sampler: SamplerKind
) -> None:
    process = make_process(kind, "cosine")
    possible = FLOW_SAMPLERS if kind == "flow" else DIFFUSION_SAMPLERS
    if sampler in possible:
        assert len(make_solver(Sampler(kind=sampler, steps=4), process).timesteps) in (4, 7)
    else:
        with pytest.raises(ValueError, match=f"{sampler} does not sample diffusion.process {kind}; use one"):
            make_solver(Sampler(kind=sampler, steps=4), process)


def test_what_has_no_bound_or_no_meaning_is_refused() -> None:
    for prediction in ("epsilon", "x"):
        with pytest.raises(ValueError, match="has no bound near the"):
            check_loss_weight(prediction, "edm")  # type: ignore[arg-type]
    for shift, message in (
        (0.0, "must be positive"),
        (math.nan, "must be positive"),
        (3.0, "leave time_shift"),
    ):
        with pytest.raises(ValueError, match=message):
            check_time_shift("diffusion", shift)
    with pytest.raises(ValueError, match="'noise' is unknown; use one of epsilon, v"):
        check_prediction("diffusion", "noise")  # type: ignore[arg-type]
