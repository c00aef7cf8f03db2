"""Solvers of a flow's ordinary differential equation d x_t / d t = velocity, from t = 1 to 0.

An estimate x_0 of the clean image at time t stands for the velocity (x_t - x_0) / t.
"""

import torch
from torch import Tensor

from dimr_model.config import NUM_STEPS
from dimr_model.diffusion import Flow
from dimr_model.plain_state import PlainState


def even_times(flow: Flow, steps: int) -> Tensor:
    """Times t ``[steps + 1]`` float64, evenly spaced from 1 to 0, but for the flow's shift."""
    return flow.shifted(torch.linspace(NUM_STEPS, 0, steps + 1, dtype=torch.float64)) / NUM_STEPS


class EulerSolver(PlainState):
    """Euler's method. A step goes a part of the way to the estimate of the clean image, the last one all."""

    def __init__(self, flow: Flow, steps: int) -> None:
        self._times = even_times(flow, steps)
        self.timesteps = NUM_STEPS * self._times[:-1] - 1  # counted from 0
        self._place = 0

    def step(self, clean: Tensor, timestep: Tensor, state: Tensor, noise: Tensor | None = None) -> Tensor:
        """The next state, from the estimate ``clean`` at this one; both ``[B, C, H, W]``."""
        here, end = self._times[self._place], self._times[self._place + 1]
        self._place += 1
        return clean + (state - clean) * float(end / here)


class HeunSolver(PlainState):
    """Heun's method: a step takes the mean of the velocities where it begins and where Euler's would end.

    The last step is Euler's, as in Karras et al. (2022), so there is one network call less than two a step.
    """

    def __init__(self, flow: Flow, steps: int) -> None:
        self._times = even_times(flow, steps)
        calls = torch.cat([self._times[:1], self._times[1:-1].repeat_interleave(2)])
        self.timesteps = NUM_STEPS * calls - 1  # counted from 0
        self._place = 0
        self._start: tuple[Tensor, Tensor] | None = None

    def step(self, clean: Tensor, timestep: Tensor, state: Tensor, noise: Tensor | None = None) -> Tensor:
        """The next state, from the estimate ``clean`` at this one; both ``[B, C, H, W]``."""
        here, end = self._times[self._place], self._times[self._place + 1]
        if self._start is None:
            velocity = (state - clean) / float(here)
            if self._place + 2 == len(self._times):
                return clean
            self._start = state, velocity
            return state + velocity * float(end - here)
        start, before = self._start
        velocity = (before + (state - clean) / float(end)) / 2
        self._place, self._start = self._place + 1, None
        return start + velocity * float(end - here)
