"""Flows are solved to the data, by every solver and from every prediction, with the order that it has."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dimr_model.config import Guidance, Prediction, Sampler, SamplerKind
from dimr_model.diffusion import Flow
from dimr_model.objective import FLOW_SAMPLERS
from dimr_model.sampling import evaluations_per_image, sample
from dimr_model.solvers import make_solver

POSSIBLE: tuple[Prediction, ...] = ("velocity", "v", "x")


class GaussianData(torch.nn.Module):
    """The best network for pixels that are normal with a mean and a deviation."""

    architecture = SimpleNamespace(null_class=1)

    def __init__(self, flow: Flow, prediction: Prediction, mean: float, deviation: float) -> None:
        super().__init__()
        self.flow, self.prediction = flow, prediction
        self.mean, self.variance = mean, deviation**2

    def forward(self, noisy: Tensor, level: Tensor, labels: Tensor) -> list[Tensor]:
        step = (level.double() + 4) / 8 * 1000
        alpha, sigma = self.flow.alpha_sigma(step)
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        clean = self.mean + gain * (noisy - alpha * self.mean)
        return [self.flow.convert(noisy, clean, step, "x", self.prediction)]


def solved(
    kind: SamplerKind, steps: int, prediction: Prediction = "velocity", flow: Flow | None = None,
    mean: float = 0.3, deviation: float = 0.5,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What noise becomes, and what it becomes exactly: the mean plus the deviation times the noise."""
    flow = flow or Flow()
    noise = torch.randn(64, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = sample(
        GaussianData(flow, prediction, mean, deviation),  # type: ignore[arg-type]
        noise=noise, labels=torch.zeros(64, dtype=torch.int64), schedule=flow, prediction=prediction,
        sampler=Sampler(kind=kind, steps=steps), guidance=Guidance(kind="none"), clip=False,
    )  # fmt: skip
    return found, mean + deviation * noise


def error(kind: SamplerKind, steps: int) -> float:
    found, exact = solved(kind, steps)
    return float((found - exact).abs().max())


@given(mean=st.floats(-1, 1), deviation=st.floats(0.1, 1.5), shift=st.floats(0.5, 4))
@settings(max_examples=15)
def test_many_of_euler_s_steps_reproduce_gaussian_data(mean: float, deviation: float, shift: float) -> None:
    found, exact = solved("euler", 1000, mean=mean, deviation=deviation, flow=Flow(shift))
    torch.testing.assert_close(found, exact, rtol=0, atol=0.03)


@pytest.mark.parametrize("kind", FLOW_SAMPLERS)
@pytest.mark.parametrize("prediction", POSSIBLE)
def test_every_solver_ends_at_the_data_from_every_prediction(
    kind: SamplerKind, prediction: Prediction
) -> None:
    found, exact = solved(kind, 200, prediction)
    torch.testing.assert_close(found, exact, rtol=0, atol=0.02)
    # Which prediction leads there makes no difference.
    torch.testing.assert_close(found, solved(kind, 200)[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "order"), [("euler", 1), ("heun", 2)])
def test_half_the_step_is_half_the_error_or_a_quarter(kind: SamplerKind, order: int) -> None:
    ratio = error(kind, 100) / error(kind, 200)
    assert 2 ** (order - 0.3) < ratio < 2 ** (order + 0.3)


def test_dpm_solver_needs_a_quarter_of_euler_s_steps() -> None:
    assert error("dpm_solver_multistep", 20) < error("euler", 80)
    assert error("unipc", 20) < error("euler", 80)


@pytest.mark.parametrize("flow", [Flow(), Flow(3.0)])
@given(steps=st.integers(1, 60), seed=st.integers(0, 2**31))
@settings(max_examples=20)
def test_dpm_solver_is_diffusers_own_with_flow_sigmas(flow: Flow, steps: int, seed: int) -> None:
    other: Any = DPMSolverMultistepScheduler(
        prediction_type="sample", algorithm_type="dpmsolver++", solver_order=2,
        use_flow_sigmas=True, flow_shift=flow.shift,
    )  # fmt: skip
    other.set_timesteps(steps)
    # Its whole timesteps repeat where there are many.
    other.set_begin_index(0)
    ours = make_solver(Sampler(kind="dpm_solver_multistep", steps=steps), flow)
    torch.testing.assert_close(ours.timesteps + 1, 1000 * other.sigmas[:-1].double(), rtol=0, atol=1e-3)
    generator = torch.Generator().manual_seed(seed)
    state = theirs = ours.begin(torch.randn(2, 1, 4, 4, generator=generator))
    for timestep, their_timestep in zip(ours.timesteps, other.timesteps, strict=True):
        fresh = torch.randn(state.shape, generator=generator).tanh()
        state, theirs = (
            ours.step(fresh + 0.1 * state, timestep, state),
            other.step(fresh + 0.1 * theirs, their_timestep, theirs).prev_sample,
        )
        torch.testing.assert_close(state, theirs, rtol=0, atol=2e-5)


def test_the_network_is_told_the_time_of_what_it_sees() -> None:
    for kind in FLOW_SAMPLERS:
        solver = make_solver(Sampler(kind=kind, steps=5), Flow(2.0))
        first = float(solver.timesteps[0]) + 1
        assert first == pytest.approx(1000, abs=0.6) and (solver.timesteps.diff() <= 0).all()
        assert float(solver.timesteps[-1]) + 1 > 0


@given(shift=st.floats(0.1, 10), steps=st.integers(2, 12))
@example(shift=1.15, steps=8)
@example(shift=0.15, steps=8)
def test_every_step_is_guided_whatever_the_shift(shift: float, steps: int) -> None:
    for kind in FLOW_SAMPLERS:
        counts = [
            evaluations_per_image(Flow(shift), Sampler(kind=kind, steps=steps), guidance)
            for guidance in (Guidance(kind="none"), Guidance(kind="constant", scale=3.0))
        ]
        assert counts[1] == 2 * counts[0], kind


def test_heun_calls_the_network_twice_a_step_but_for_the_last() -> None:
    for kind in ("heun", "flow_match_heun"):
        assert evaluations_per_image(Flow(), Sampler(kind=kind, steps=20), Guidance(kind="none")) == 39  # type: ignore[arg-type]
    assert evaluations_per_image(Flow(), Sampler(kind="euler", steps=20), Guidance(scale=3.0)) == 40
