"""DDIM, and ancestral sampling, which is the same step with noise added."""

import math

import torch
from torch import Tensor

from dimr_model.config import NUM_STEPS
from dimr_model.diffusion import NoiseSchedule
from dimr_model.plain_state import PlainState


class DDIMSolver(PlainState):
    """Song et al. (2021), Eq. 12 and 16, with eta 0, or 1 for ancestral sampling (Ho et al., 2020).

    The diffusion steps are whole and even from the last one to the clean image, for any number of solver
    steps. diffusers' DDIM goes on by ``1000 // steps``. Where that leaves a remainder, it goes to other steps
    than the ones that it asks the network for.
    """

    def __init__(self, schedule: NoiseSchedule, steps: int, adds_noise: bool) -> None:
        self.adds_noise = adds_noise
        places = torch.linspace(NUM_STEPS, 0, steps + 1, dtype=torch.float64).round().long()
        self.timesteps = places[:-1] - 1  # counted from 0
        alpha, sigma = schedule.alpha_sigma(places[:-1])
        # After the last step is the clean image.
        self._alphas = [*alpha.flatten().tolist(), 1.0]
        self._sigmas = [*sigma.flatten().tolist(), 0.0]
        self._place = 0

    def step(self, clean: Tensor, timestep: Tensor, state: Tensor, noise: Tensor | None = None) -> Tensor:
        """The next state, from the estimate ``clean`` at this one; both ``[B, C, H, W]``.

        Args:
            noise: standard normal noise of the shape of ``state``, which only ancestral sampling adds.
        """
        here = self._place
        self._place += 1
        alpha, sigma = self._alphas[here], self._sigmas[here]
        next_alpha, next_sigma = self._alphas[here + 1], self._sigmas[here + 1]
        predicted_noise = (state - clean * alpha) / sigma
        if noise is None:
            return clean * next_alpha + predicted_noise * next_sigma
        # Eq. 16: the part of the next state's noise that is fresh.
        fresh = next_sigma / sigma * math.sqrt(max(0.0, 1 - (alpha / next_alpha) ** 2))
        kept = math.sqrt(max(0.0, next_sigma**2 - fresh**2))
        return clean * next_alpha + predicted_noise * kept + noise * fresh
