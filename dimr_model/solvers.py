"""Solvers by name: diffusers' own, and the released model's."""

from typing import Any, get_args

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    HeunDiscreteScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)
from torch import Tensor

from dimr_model.config import NUM_STEPS, SamplerKind
from dimr_model.diffusion import NoiseSchedule


class ReleasedSolver(DPMSolverSinglestepScheduler):  # type: ignore[misc]  # diffusers ships no types
    """The released model's solver: singlestep DPM-Solver++ of order 3 (Lu et al., 2022), on an even grid in time.

    It differs from diffusers' in two points. Its grid, t from 1 to 1/1000, is not rounded to whole diffusion steps, so
    ``timesteps`` are floats; and the second-order step *inside* a third-order block weighs the difference of the two
    estimates with the exact integral rather than the midpoint rule.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__(
            num_train_timesteps=NUM_STEPS,
            trained_betas=schedule.betas.numpy(),
            prediction_type="sample",
            algorithm_type="dpmsolver++",
            solver_order=3,
            solver_type="midpoint",
            lower_order_final=True,
            final_sigmas_type="sigma_min",
        )
        self._schedule = schedule

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """The grid of ``num_inference_steps`` solver steps; ``timesteps`` is ``[num_inference_steps]`` float64."""
        super().set_timesteps(num_inference_steps, device=device)
        steps = torch.from_numpy(np.linspace(NUM_STEPS, 1, num_inference_steps + 1))
        alpha, sigma = self._schedule.alpha_sigma(steps)
        self.sigmas = (sigma / alpha).flatten()  # diffusers' sigma is the noise-to-signal ratio
        self.timesteps = steps[:-1].to(device) - 1  # and its steps count from 0
        self.set_begin_index(0)

    def singlestep_dpm_solver_second_order_update(
        self, model_output_list: list[Tensor], *args: Any, sample: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """diffusers' update, with the exact coefficient where a third-order step follows."""
        updated: Tensor = super().singlestep_dpm_solver_second_order_update(
            model_output_list, *args, sample=sample, **kwargs
        )
        following = self.step_index + 1
        if following == len(self.order_list) or self.order_list[following] != 3:
            return updated
        scales = [self._sigma_to_alpha_sigma_t(self.sigmas[self.step_index + k]) for k in (-1, 0, 1)]
        start, middle, end = (torch.log(alpha / sigma) for alpha, sigma in scales)
        h, ratio = end - start, (middle - start) / (end - start)
        change = (model_output_list[-1] - model_output_list[-2]) / ratio
        end_alpha = scales[-1][0]
        return updated + end_alpha * (torch.expm1(-h) / h + 1 + torch.expm1(-h) / 2) * change


class AncestralSolver(DDIMScheduler):  # type: ignore[misc]
    """Ancestral sampling (Ho et al., 2020): DDIM with eta 1, whose noise the caller gives."""

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, noise: Tensor) -> Any:
        """diffusers' step; ``noise`` is standard normal, of the shape of ``sample``."""
        return super().step(model_output, timestep, sample, eta=1.0, variance_noise=noise)


def make_solver(kind: SamplerKind, schedule: NoiseSchedule) -> SchedulerMixin:
    """The solver ``kind``; it takes estimates of the clean image (diffusers' prediction type "sample")."""
    betas = schedule.betas.numpy()
    if kind == "released":
        return ReleasedSolver(schedule)
    if kind == "dpm_solver_multistep":
        return DPMSolverMultistepScheduler(
            trained_betas=betas, prediction_type="sample", algorithm_type="dpmsolver++", solver_order=2
        )
    if kind == "unipc":
        return UniPCMultistepScheduler(trained_betas=betas, prediction_type="sample", solver_order=2)
    # Whole diffusion steps, from the last one on, with strides that the solvers' own arithmetic assumes.
    if kind == "heun":
        return HeunDiscreteScheduler(
            trained_betas=betas, prediction_type="sample", timestep_spacing="trailing"
        )
    if kind in ("ddim", "ddpm"):
        solver = DDIMScheduler if kind == "ddim" else AncestralSolver
        return solver(
            trained_betas=betas, prediction_type="sample", clip_sample=False, timestep_spacing="trailing"
        )
    raise ValueError(f"sampler {kind!r} is unknown; use one of {', '.join(get_args(SamplerKind))}")
