"""DPM-Solver++ (Lu et al., 2022b) for estimates of the clean image: 2M and the released singlestep solver.

Let lambda = log(alpha / sigma), h = lambda_end - lambda_start, and x_0 an estimate of the clean image. Then
an update is

    x_end = sigma_end / sigma_start x_start - alpha_end (e^-h - 1) x_0 + weight * slope

where ``slope`` is the change of x_0 over the step, by finite differences. In their Algorithms 1 (singlestep)
and 2 (multistep), x_0 and slope are put together to D_i.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dimr_model.config import NUM_STEPS
from dimr_model.diffusion import Flow, NoiseSchedule, Process
from dimr_model.plain_state import PlainState

FIRST_ORDER_END_BELOW = 15
"""2M's last step is of first order where there are fewer steps, or where no noise is left at the end."""
Weight = Literal["midpoint", "exact"]


class _Grid:
    """A solver's points of time: alpha and sigma ``[steps + 1]`` at each, with less and less noise."""

    def __init__(self, alpha: Tensor, sigma: Tensor) -> None:
        self.alpha, self.sigma = alpha, sigma
        self.log_snr = torch.log(self.alpha) - torch.log(self.sigma)  # lambda, half the log SNR

    @staticmethod
    def of_ratio(ratio: Tensor) -> "_Grid":
        """The points at which sigma / alpha is ``ratio``, where alpha^2 + sigma^2 is 1."""
        alpha = 1 / ((ratio**2 + 1) ** 0.5)
        return _Grid(alpha, ratio * alpha)

    def update(
        self,
        state: Tensor,
        clean: Tensor,
        start: int,
        end: int,
        slope: Tensor | None = None,
        weight: Weight = "midpoint",
    ) -> Tensor:
        """Go from point ``start`` to ``end``, given the estimate ``clean`` at ``start``."""
        h = self.log_snr[end] - self.log_snr[start]
        decay = self.alpha[end] * (torch.exp(-h) - 1.0)
        updated = (self.sigma[end] / self.sigma[start]) * state - decay * clean
        if slope is None:
            # First order: DDIM (Song et al., 2021).
            return updated
        if weight == "midpoint":
            # Algorithms 1 and 2: D_i is x_0 + slope / 2.
            return updated - 0.5 * decay * slope
        # The integral over the step of an x_0 that is linear in lambda.
        return updated + self.alpha[end] * ((torch.exp(-h) - 1.0) / h + 1.0) * slope

    def slope(self, first: Tensor, second: Tensor, at: tuple[int, int], over: tuple[int, int]) -> Tensor:
        """The change from ``first`` to ``second``, the estimates at ``at``, scaled to the step ``over``."""
        # 1 / r_i of Algorithms 1 and 2 is the step divided by the change.
        change, step = (self.log_snr[stop] - self.log_snr[start] for start, stop in (at, over))
        return (1.0 / (change / step)) * (second - first)


class MultistepSolver(PlainState):
    """DPM-Solver++(2M), Algorithm 2: each step also uses the estimate of the step before.

    Its grid ends without noise. With a schedule it is whole diffusion steps, evenly spaced. In a flow it is
    evenly spaced from step 999 on, but for the flow's shift: at step 1,000 lambda is infinite.
    """

    def __init__(self, process: Process, steps: int) -> None:
        self._grid, self.timesteps = (
            _flow_grid(process, steps) if isinstance(process, Flow) else _schedule_grid(process, steps)
        )
        self._place = 0
        self._before: Tensor | None = None

    def step(self, clean: Tensor, timestep: Tensor, state: Tensor, noise: Tensor | None = None) -> Tensor:
        """The next state, from the estimate ``clean`` at this one; both ``[B, C, H, W]``."""
        here, end, before = self._place, self._place + 1, self._before
        slope = None
        if before is not None and end < len(self.timesteps):
            slope = self._grid.slope(before, clean, (here - 1, here), (here, end))
        wide = state.to(torch.promote_types(state.dtype, torch.float32))
        self._place, self._before = end, clean
        return self._grid.update(wide, clean, here, end, slope).to(clean.dtype)


def _schedule_grid(process: Process, steps: int) -> tuple[_Grid, Tensor]:
    assert isinstance(process, NoiseSchedule)
    places = np.linspace(0, NUM_STEPS - 1, steps + 1).round()[::-1][:-1].astype(np.int64)
    # In float32, as diffusers tabulates a schedule: the samples are the same to the last bit.
    alpha_squared = torch.cumprod(1.0 - process.betas.float(), dim=0)[torch.from_numpy(places)]
    ratio = ((1 - alpha_squared) / alpha_squared) ** 0.5
    return _Grid.of_ratio(torch.cat([ratio, torch.zeros(1)])), torch.from_numpy(places)


def _flow_grid(process: Flow, steps: int) -> tuple[_Grid, Tensor]:
    places = process.shifted(torch.linspace(NUM_STEPS - 1, 0, steps + 1, dtype=torch.float64))
    # In float32, as diffusers has a flow's sigmas.
    sigma = (places / NUM_STEPS).float()
    return _Grid(1 - sigma, sigma), places[:-1] - 1  # counted from 0


class ReleasedSolver(PlainState):
    """The released code's solver: singlestep of order 3, on a grid that is even in time and ends at step 1.

    Three points form a block. The first two are intermediate, and every update starts where the block
    started. The last block has two points or one. In a block of three, the second update weighs its slope
    exactly. A second update that closes a block weighs it by the midpoint rule. ``timesteps`` are not whole
    numbers.
    """

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        times = torch.from_numpy(np.linspace(NUM_STEPS, 1, steps + 1))
        alpha, sigma = schedule.alpha_sigma(times)
        self._grid = _Grid.of_ratio((sigma / alpha).flatten())
        self.timesteps = times[:-1] - 1  # counted from 0
        self._orders = _orders(steps)
        self._place = 0
        self._estimates: list[Tensor] = []
        self._start: Tensor | None = None

    def step(self, clean: Tensor, timestep: Tensor, state: Tensor, noise: Tensor | None = None) -> Tensor:
        """The next state, from the estimate ``clean`` at this one; both ``[B, C, H, W]``."""
        here, order = self._place, self._orders[self._place]
        if order == 1:
            self._start, self._estimates = state, []
        assert self._start is not None
        self._estimates.append(clean)
        self._place = end = here + 1
        first = here + 1 - order
        slope = None
        if order > 1:
            slope = self._grid.slope(self._estimates[0], clean, (first, here), (first, end))
        is_inside = order == 3 or self._orders[here + 1 : here + 2] == [3]
        weight: Weight = "exact" if is_inside else "midpoint"
        return self._grid.update(self._start, self._estimates[0], first, end, slope, weight)


def _orders(steps: int) -> list[int]:
    """The order of every update: 1, 2, 3 in a block.

    As in the released code, the last one or two blocks are shorter, to make ``steps`` updates in all.
    """
    blocks = {0: [2, 1], 1: [1], 2: [2]}[steps % 3]
    lengths = [3] * ((steps - sum(blocks)) // 3) + blocks
    return [order for length in lengths for order in range(1, length + 1)]
