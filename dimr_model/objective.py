"""Which choices of process, prediction, time, loss weight and sampler go together, and why others do not.

Importing this does not import torch.
"""

from typing import get_args

from dimr_model.config import LossWeight, Prediction, ProcessKind, SamplerKind

FLOW_SAMPLERS: tuple[SamplerKind, ...] = (
    "dpm_solver_multistep",
    "unipc",
    "euler",
    "heun",
    "flow_match_euler",
    "flow_match_heun",
)
DIFFUSION_SAMPLERS: tuple[SamplerKind, ...] = (
    "released",
    "dpm_solver_multistep",
    "unipc",
    "ddim",
    "ddpm",
    "heun",
)


def check_prediction(process: ProcessKind, prediction: Prediction) -> None:
    """Refuse what a network cannot well predict.

    Raises:
        ValueError: the message says why, and what to take instead.
    """
    for value, kind in ((process, ProcessKind), (prediction, Prediction)):
        if value not in get_args(kind):
            raise ValueError(f"{value!r} is unknown; use one of {', '.join(get_args(kind))}")
    if (process, prediction) == ("diffusion", "velocity"):
        raise ValueError(
            "diffusion.prediction velocity belongs to diffusion.process flow. With process diffusion the "
            "velocity along the path is v, but for a factor that depends on time: use v"
        )
    if (process, prediction) == ("flow", "epsilon"):
        raise ValueError(
            "diffusion.prediction epsilon is not possible with diffusion.process flow: where sampling "
            "starts, at t = 1, the input is the noise, and x = (x_t - t epsilon) / (1 - t) divides by zero. "
            "Use velocity, v or x"
        )


def check_loss_weight(prediction: Prediction, weight: LossWeight) -> None:
    """Refuse a weight that has no bound.

    Raises:
        ValueError: the message says why, and what to take instead.
    """
    if weight != "edm" or prediction in ("v", "velocity"):
        return
    place = {
        "epsilon": "the noise (it is 1 + (sigma / alpha)^2 / edm_sigma_data^2)",
        "x": "the clean image (it is (alpha / sigma)^2 + 1 / edm_sigma_data^2)",
    }[prediction]
    raise ValueError(
        f"diffusion.loss_weight edm has no bound near {place} for diffusion.prediction {prediction}. EDM's "
        "network predicts a mixture of image and noise: use v or velocity, or another weight"
    )


def check_time_shift(process: ProcessKind, shift: float) -> None:
    """Refuse a shift that means nothing.

    Raises:
        ValueError: the message says why.
    """
    if not shift > 0:
        raise ValueError(f"diffusion.time_shift {shift} must be positive; 1 is none")
    if process == "diffusion" and shift != 1:
        raise ValueError(
            "diffusion.time_shift moves the times of diffusion.process flow. With process diffusion the "
            "schedule decides the noise: leave time_shift at 1, and choose another diffusion.schedule"
        )


def check_sampler(process: ProcessKind, kind: SamplerKind) -> None:
    """Refuse a solver that is made for the other process.

    Raises:
        ValueError: the message names those that are possible.
    """
    possible = FLOW_SAMPLERS if process == "flow" else DIFFUSION_SAMPLERS
    if kind not in possible:
        raise ValueError(
            f"sampling.sampler.kind {kind} does not sample diffusion.process {process}; "
            f"use one of {', '.join(possible)}"
        )
