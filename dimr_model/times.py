"""The times of training: how they are distributed, and how much the loss at each of them counts."""

import torch
from torch import Tensor

from dimr_model.config import NUM_STEPS, LossWeight, Prediction, TimeKind
from dimr_model.diffusion import Process

_TINY = 2.0**-53
"""Uniform numbers are this far from 0 and 1 where quantiles would be infinite; sigma is, where it divides."""


def training_steps(
    uniform: Tensor, process: Process, kind: TimeKind, mean: float, std: float, continuous: bool
) -> Tensor:
    """Diffusion steps ``[B]`` of uniform numbers in [0, 1); a larger number is more noise in all kinds.

    ``uniform``: n / 1000 is the number. ``logit_normal``: its logit is normal (Esser et al., 2024).
    ``lognormal``: log(sigma / alpha) is normal (Karras et al., 2022). In a flow these two are the same.

    Args:
        uniform: ``[B]`` float64.
        continuous: float64 steps from ``process.first_step`` on; else int64 in 1..1000, rounded up.
    """
    if kind == "uniform":
        steps = uniform * NUM_STEPS
    else:
        normal = mean + std * torch.special.ndtri(uniform.clamp(_TINY, 1 - _TINY))
        steps = process.step_at(normal) if kind == "lognormal" else NUM_STEPS * torch.sigmoid(normal)
    steps = process.shifted(steps)
    if continuous:
        return steps.clamp(process.first_step, NUM_STEPS)
    return steps.ceil().long().clamp(1, NUM_STEPS)


def time_weights(
    process: Process, step: Tensor, prediction: Prediction, kind: LossWeight, gamma: float, sigma_data: float
) -> Tensor:
    """What the loss of ``prediction`` at steps ``[B]`` is multiplied by: ``[B]`` float64.

    The weights are stated for errors of the clean image, and brought to the prediction by the square of
    :meth:`dimr_model.diffusion.Process.clean_per_output`. With SNR = (alpha / sigma)^2:

    ``min_snr`` is min(SNR, gamma) for x (Hang et al., 2023). That is min(SNR, gamma) / SNR for epsilon,
    min(SNR, gamma) / (SNR + 1) for v of a schedule, and min(SNR, gamma) t^2 for a flow's velocity.

    ``edm`` is SNR + 1 / sigma_data^2 for x, which is EDM's (s^2 + sigma_data^2) / (s sigma_data)^2 with
    s = sigma / alpha (Karras et al., 2022). That is alpha^2 + sigma^2 / sigma_data^2 for v of a schedule and
    for a flow's velocity.
    """
    if kind == "none":
        return torch.ones(step.shape, dtype=torch.float64, device=step.device)
    alpha, sigma = (scale.flatten() for scale in process.alpha_sigma(step))
    snr = (alpha / sigma.clamp_min(_TINY)).square()
    of_clean = snr.clamp(max=gamma) if kind == "min_snr" else snr + sigma_data**-2
    return of_clean * process.clean_per_output(step, prediction).square()
