"""The released solver, reproduced on a Gaussian mixture whose noise is known, and diffusers' solvers."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dimr_model.config import Guidance, Sampler
from dimr_model.diffusion import NoiseSchedule
from dimr_model.sampling import sample
from dimr_model.solvers import make_solver
from tests.unit.dimr_model.golden import load_golden

GUIDANCE = {
    "uncond": Guidance(kind="none"),
    "cond": Guidance(kind="none"),
    "cfg0.4": Guidance(kind="constant", scale=1.4),
    "cfg3.0_pow2": Guidance(kind="power_cosine", scale=3.0, power=2.0),
}


class Mixture(torch.nn.Module):
    """Predicts the noise of a mixture of K isotropic Gaussians.

    Label k < K stands for component k, label K for the whole mixture.
    """

    architecture = SimpleNamespace(null_class=4)

    def __init__(self, tensors: dict[str, Tensor], schedule: NoiseSchedule) -> None:
        super().__init__()
        self.means, self.spreads, self.weights = tensors["mu"], tensors["std"], tensors["w"]
        self.schedule = schedule
        self.times: list[float] = []

    def forward(self, noisy: Tensor, level: Tensor, labels: Tensor) -> list[Tensor]:
        step = (level.double() + 4) / 8 * 1000
        self.times.append(float(step[0]) / 1000)
        alpha, sigma = (scale.view(-1, 1) for scale in self.schedule.alpha_sigma(step))
        variances = alpha**2 * self.spreads**2 + sigma**2
        offsets = noisy.double().flatten(1)[:, None] - alpha[:, :, None] * self.means
        exponents = self.weights.log() - 8 * variances.log() - offsets.square().sum(-1) / (2 * variances)
        shares = exponents.softmax(dim=1)
        known = labels < 4
        shares[known] = torch.nn.functional.one_hot(labels[known], 4).double()
        noise = sigma * (shares[:, :, None] * offsets / variances[:, :, None]).sum(1)
        return [noise.to(noisy.dtype).view_as(noisy)]


@pytest.mark.parametrize("steps", [20, 50, 250])
@pytest.mark.parametrize("case", GUIDANCE)
@pytest.mark.parametrize(
    ("dtype", "suffix", "tolerance"), [(torch.float64, "f64", 1e-9), (torch.float32, "f32", 5e-5)]
)
def test_released_solver_ends_where_the_released_code_does(
    case: str, steps: int, dtype: torch.dtype, suffix: str, tolerance: float
) -> None:
    tensors, _ = load_golden("sampler_gmm")
    schedule = NoiseSchedule("scaled_linear")
    model = Mixture(tensors, schedule)
    samples = sample(
        model,  # type: ignore[arg-type]
        noise=tensors["z"].to(dtype),
        labels=torch.full_like(tensors["y"], 4) if case == "uncond" else tensors["y"],
        schedule=schedule,
        prediction="epsilon",
        sampler=Sampler(kind="released", steps=steps),
        guidance=GUIDANCE[case],
        clip=False,
    )
    expected = tensors[f"{case}/steps{steps}_{suffix}"]
    torch.testing.assert_close(samples.double(), expected.double(), rtol=0, atol=tolerance)
    times = torch.tensor(model.times, dtype=torch.float64)
    # A weight of exactly 1 at full noise makes one call all the same.
    torch.testing.assert_close(times, tensors[f"{case}/steps{steps}_model_times"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["released", "dpm_solver_multistep", "unipc", "ddim", "heun"])
def test_every_solver_converges_to_the_same_end(kind: str) -> None:
    tensors, _ = load_golden("sampler_gmm")
    schedule = NoiseSchedule("scaled_linear")
    samples = sample(
        Mixture(tensors, schedule),  # type: ignore[arg-type]
        noise=tensors["z"],
        labels=tensors["y"],
        schedule=schedule,
        prediction="epsilon",
        sampler=Sampler(kind=kind, steps=500),  # type: ignore[arg-type]
        guidance=Guidance(kind="none"),
        clip=False,
    )
    # Some stop at the noise of step 1 (sigma 0.03), some without noise. Both are far nearer than the images
    # are to each other.
    assert float((samples - tensors["cond/converged_2001"]).square().mean().sqrt()) < 0.05


@pytest.mark.parametrize(
    "schedule", [NoiseSchedule("scaled_linear"), NoiseSchedule("vp_linear"), NoiseSchedule("cosine")]
)
@given(steps=st.integers(1, 60), seed=st.integers(0, 2**31))
@settings(max_examples=25)
def test_the_multistep_solver_is_diffusers_own(schedule: NoiseSchedule, steps: int, seed: int) -> None:
    other = DPMSolverMultistepScheduler(
        trained_betas=schedule.betas.numpy(),
        prediction_type="sample",
        algorithm_type="dpmsolver++",
        solver_order=2,
    )
    agree("dpm_solver_multistep", other, schedule, steps, seed, torch.float32)


@pytest.mark.parametrize(
    "schedule", [NoiseSchedule("scaled_linear"), NoiseSchedule("vp_linear"), NoiseSchedule("cosine")]
)
@given(steps=st.integers(1, 60), seed=st.integers(0, 2**31))
@settings(max_examples=25)
def test_the_released_solver_is_diffusers_with_its_grid(
    schedule: NoiseSchedule, steps: int, seed: int
) -> None:
    agree("released", SinglestepOnReleasedGrid(schedule), schedule, steps, seed, torch.float64)


# diffusers ships no types.
class SinglestepOnReleasedGrid(DPMSolverSinglestepScheduler):  # type: ignore[misc]
    """diffusers' solver of order 3 with the released code's two peculiarities: the grid and a coefficient."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__(
            trained_betas=schedule.betas.numpy(),
            prediction_type="sample",
            algorithm_type="dpmsolver++",
            solver_order=3,
            solver_type="midpoint",
            lower_order_final=True,
            final_sigmas_type="sigma_min",
        )
        self.schedule = schedule

    def set_timesteps(self, steps: int, **options: Any) -> None:
        super().set_timesteps(steps, **options)
        times = torch.from_numpy(np.linspace(1000, 1, steps + 1))
        alpha, sigma = self.schedule.alpha_sigma(times)
        self.sigmas, self.timesteps = (sigma / alpha).flatten(), times[:-1] - 1
        self.set_begin_index(0)

    def singlestep_dpm_solver_second_order_update(self, *args: Any, **options: Any) -> Tensor:
        following = self.order_list[self.step_index + 1 : self.step_index + 2]
        self.register_to_config(solver_type="heun" if following == [3] else "midpoint")
        try:
            updated: Tensor = super().singlestep_dpm_solver_second_order_update(*args, **options)
            return updated
        finally:
            self.register_to_config(solver_type="midpoint")


def agree(
    kind: str,
    other: Any,
    schedule: NoiseSchedule,
    steps: int,
    seed: int,
    dtype: torch.dtype,
    within: float = 1e-9,
) -> None:
    """Our solver and diffusers' go the same way from the same noise, at every step.

    The estimates of the clean image depend on where each solver is.
    """
    sampler = Sampler(kind=kind, steps=steps)  # type: ignore[arg-type]
    ours = make_solver(sampler, schedule)
    other.set_timesteps(steps)
    assert ours.timesteps.tolist() == other.timesteps.tolist()
    generator = torch.Generator().manual_seed(seed)
    state = theirs = ours.begin(torch.randn(2, 1, 4, 4, generator=generator, dtype=dtype))
    for timestep in ours.timesteps:
        fresh = torch.randn(state.shape, generator=generator, dtype=dtype).tanh()
        state, theirs = (
            ours.step(fresh + 0.1 * state, timestep, state),
            other.step(fresh + 0.1 * theirs, timestep, theirs).prev_sample,
        )
        torch.testing.assert_close(state, theirs, rtol=0, atol=within)


def test_ddim_is_diffusers_own_where_its_strides_are_whole() -> None:
    schedule = NoiseSchedule("cosine")
    for steps in (1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100):
        other = DDIMScheduler(
            trained_betas=schedule.betas.numpy(),
            prediction_type="sample",
            clip_sample=False,
            timestep_spacing="trailing",
        )
        # It computes the square of alpha at the last step in float32, which leaves three digits of it.
        agree("ddim", other, schedule, steps, steps, torch.float64, within=2e-3)


@pytest.mark.parametrize("kind", ["ddim", "ddpm"])
@pytest.mark.parametrize("schedule", [NoiseSchedule("scaled_linear"), NoiseSchedule("cosine")])
@given(steps=st.integers(200, 1000))
@settings(max_examples=10)
def test_gaussian_images_keep_their_width_for_any_number_of_steps(
    kind: str, schedule: NoiseSchedule, steps: int
) -> None:
    solver, spread = make_solver(Sampler(kind=kind, steps=steps), schedule), 0.3  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(steps)
    state = torch.randn(20_000, 1, 1, 1, generator=generator, dtype=torch.float64)
    for timestep in solver.timesteps:
        alpha, sigma = schedule.alpha_sigma(timestep.view(1) + 1)
        clean = state * alpha * spread**2 / ((alpha * spread) ** 2 + sigma**2)
        noise = torch.randn(state.shape, generator=generator, dtype=torch.float64)
        state = solver.step(clean, timestep, state, noise if solver.adds_noise else None)
    assert float(state.std()) == pytest.approx(spread, rel=0.08)


@pytest.mark.parametrize("steps", range(1, 12))
def test_ancestral_sampling_is_finite_with_few_steps(steps: int) -> None:
    solver = make_solver(Sampler(kind="ddpm", steps=steps), NoiseSchedule("cosine"))
    state = torch.ones(1, 1, 2, 2)
    for timestep in solver.timesteps:
        state = solver.step(torch.zeros_like(state), timestep, state, torch.ones_like(state))
    assert torch.equal(state, torch.zeros_like(state))


def test_ancestral_sampling_is_diffusers_own() -> None:
    """One step of DDIM with eta 1 and of DDPM from the same noise."""
    schedule = NoiseSchedule("scaled_linear")
    solver = make_solver(Sampler(kind="ddpm", steps=50), schedule)
    other = DDPMScheduler(
        trained_betas=schedule.betas.numpy(),
        prediction_type="sample",
        clip_sample=False,
        timestep_spacing="trailing",
    )
    state, clean = torch.randn(2, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    other.set_timesteps(50)
    assert solver.timesteps.tolist() == other.timesteps.tolist()
    for timestep in solver.timesteps[:-1]:
        expected = other.step(clean, timestep, state, generator=torch.Generator().manual_seed(1)).prev_sample
        noise = torch.randn(state.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        torch.testing.assert_close(solver.step(clean, timestep, state, noise), expected, rtol=1e-5, atol=1e-5)
