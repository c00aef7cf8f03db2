"""Solvers that are diffusers' own. Importing this module imports diffusers, which takes seconds."""

from typing import Any

from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from dimr_model.config import NUM_STEPS, Sampler
from dimr_model.diffusion import Flow, NoiseSchedule
from dimr_model.plain_state import PlainState


class DiffusersSolver:
    """A diffusers scheduler that takes estimates of the clean image (its prediction type "sample")."""

    adds_noise = False

    def __init__(self, sampler: Sampler, schedule: NoiseSchedule) -> None:
        self._scheduler = _scheduler(sampler.kind, schedule)
        self._scheduler.set_timesteps(sampler.steps)
        self.timesteps: Tensor = self._scheduler.timesteps

    def begin(self, noise: Tensor) -> Tensor:
        """The state that sampling starts from, in the scheduler's own scale."""
        return noise * self._scheduler.init_noise_sigma

    def noisy(self, state: Tensor, timestep: Tensor) -> Tensor:
        """What the network sees: the state with the scheduler's scale undone."""
        scaled: Tensor = self._scheduler.scale_model_input(state, timestep)
        return scaled

    def step(self, clean: Tensor, timestep: Tensor, state: Tensor, noise: Tensor | None = None) -> Tensor:
        """The next state, from the estimate ``clean`` at this one; both ``[B, C, H, W]``."""
        after: Tensor = self._scheduler.step(clean, timestep, state).prev_sample
        return after


def _scheduler(kind: str, schedule: NoiseSchedule) -> Any:
    common = {"trained_betas": schedule.betas.numpy(), "prediction_type": "sample"}
    if kind == "unipc":
        return UniPCMultistepScheduler(**common, solver_order=2)
    # Whole diffusion steps, from the last one on.
    return HeunDiscreteScheduler(**common, timestep_spacing="trailing")


class DiffusersFlowSolver(PlainState):
    """A diffusers scheduler of a flow: those named FlowMatch take velocities, UniPC the clean image."""

    def __init__(self, sampler: Sampler, flow: Flow) -> None:
        self._takes_clean = sampler.kind == "unipc"
        self._scheduler = _flow_scheduler(sampler.kind, flow)
        self._scheduler.set_timesteps(sampler.steps)
        # It would look for the place by the time, which Heun's scheduler has twice.
        self._scheduler.set_begin_index(0)
        # float32 may be above 1 by its last bit.
        self._sigmas: Tensor = self._scheduler.sigmas[:-1].double().clamp(max=1)
        self.timesteps = NUM_STEPS * self._sigmas - 1  # counted from 0
        self._place = 0

    def step(self, clean: Tensor, timestep: Tensor, state: Tensor, noise: Tensor | None = None) -> Tensor:
        """The next state, from the estimate ``clean`` at this one; both ``[B, C, H, W]``."""
        sigma = float(self._sigmas[self._place])
        output = clean if self._takes_clean else (state - clean) / sigma
        theirs = self._scheduler.timesteps[self._place]
        self._place += 1
        after: Tensor = self._scheduler.step(output, theirs, state).prev_sample
        return after


def _flow_scheduler(kind: str, flow: Flow) -> Any:
    if kind == "unipc":
        return UniPCMultistepScheduler(
            prediction_type="sample", solver_order=2, use_flow_sigmas=True, flow_shift=flow.shift
        )
    by_kind = {
        "flow_match_euler": FlowMatchEulerDiscreteScheduler,
        "flow_match_heun": FlowMatchHeunDiscreteScheduler,
    }
    return by_kind[kind](shift=flow.shift)
