"""Processes from image to noise, what is predicted, and the multi-scale loss (paper, Section 3 and Eq. 8).

Time is stated in diffusion steps n everywhere, whatever the process: in what the network is told, in guidance
and in metrics. A flow's time t in [0, 1] is n / 1000, and 1 is noise.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from dimr_model.config import NUM_STEPS, Prediction, ProcessKind, Schedule

SMALLEST_DIVISOR = 1e-6
"""Scales of image and noise are at least this where they are divided by: at the ends of a flow one is 0."""


def noise_level(step: Tensor) -> Tensor:
    """What the network is told about step n (fractional ones too): n / 1000 * 8 - 4, which rises with noise.

    The released code calls this log_snr, which it is not. The network's own tau is a quarter of it,
    n / 500 - 1.
    """
    return step / NUM_STEPS * 8 - 4


class Process(ABC):
    """``x_n = alpha_n x_0 + sigma_n eps``, and what a network can predict of it.

    ============  =======================  ====================================
    prediction    the target               the image that an output stands for
    ============  =======================  ====================================
    ``epsilon``   eps                      (x_n - sigma eps) / alpha
    ``v``         alpha eps - sigma x_0    (alpha x_n - sigma v) / (alpha^2 + sigma^2)
    ``x``         x_0                      x
    ``velocity``  eps - x_0                (x_n - sigma velocity) / (alpha + sigma)
    ============  =======================  ====================================
    """

    first_step: int
    """The step with the least noise."""

    @abstractmethod
    def alpha_sigma(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise scales at steps ``[B]``, whole or not, shaped ``[B, 1, 1, 1]``, float64."""

    @abstractmethod
    def step_at(self, log_ratio: Tensor) -> Tensor:
        """The steps ``[B]``, float64, at which log(sigma / alpha) is ``log_ratio [B]``, or the nearest."""

    @abstractmethod
    def shifted(self, step: Tensor) -> Tensor:
        """Steps of any shape, moved for the resolution where the process has a shift."""

    def add_noise(self, clean: Tensor, noise: Tensor, step: Tensor) -> Tensor:
        """The forward process: ``clean``, ``noise`` ``[B, C, H, W]``, ``step [B]`` -> ``x_n``, same dtype."""
        alpha, sigma = self._scales(clean, step)
        # Section 3: all steps of the Markov chain up to n at once (Ho et al., 2020, Eq. 4).
        return alpha * clean + sigma * noise

    def target(self, clean: Tensor, noise: Tensor, step: Tensor, prediction: Prediction) -> Tensor:
        """What the finest branch should output.

        The paper predicts the noise (Section 3). v is from Salimans and Ho (2022), velocity from Lipman et
        al. and Liu et al. (2023).
        """
        if prediction == "epsilon":
            return noise
        if prediction == "x":
            return clean
        if prediction == "velocity":
            return noise - clean
        alpha, sigma = self._scales(clean, step)
        return alpha * noise - sigma * clean

    def to_clean(self, noisy: Tensor, output: Tensor, step: Tensor, prediction: Prediction) -> Tensor:
        """The x_0 that a network output ``[B, C, H, W]`` at steps ``[B]`` stands for."""
        if prediction == "x":
            return output.to(noisy.dtype)
        alpha, sigma = self._scales(noisy, step)
        if prediction == "epsilon":
            return (noisy - sigma * output) / alpha.clamp_min(SMALLEST_DIVISOR)
        if prediction == "velocity":
            return (noisy - sigma * output) / (alpha + sigma)
        return (alpha * noisy - sigma * output) / self._squares(alpha, sigma)

    def to_noise(self, noisy: Tensor, output: Tensor, step: Tensor, prediction: Prediction) -> Tensor:
        """The noise that a network output ``[B, C, H, W]`` at steps ``[B]`` stands for."""
        if prediction == "epsilon":
            return output.to(noisy.dtype)
        alpha, sigma = self._scales(noisy, step)
        if prediction == "x":
            return (noisy - alpha * output) / sigma.clamp_min(SMALLEST_DIVISOR)
        if prediction == "velocity":
            return (noisy + alpha * output) / (alpha + sigma)
        return (sigma * noisy + alpha * output) / self._squares(alpha, sigma)

    def convert(
        self, noisy: Tensor, output: Tensor, step: Tensor, given: Prediction, wanted: Prediction
    ) -> Tensor:
        """A network output that predicts ``given``, as one that predicts ``wanted``.

        Near the ends of a flow, what is divided by a vanishing scale is large, and never infinite.
        """
        if given == wanted:
            return output
        clean = self.to_clean(noisy, output, step, given)
        return self.target(clean, self.to_noise(noisy, output, step, given), step, wanted)

    def clean_per_output(self, step: Tensor, prediction: Prediction) -> Tensor:
        """By how much the x_0 of an output changes with the output, ``[B]`` float64, at steps ``[B]``."""
        alpha, sigma = (scale.flatten() for scale in self.alpha_sigma(step))
        if prediction == "x":
            return torch.ones_like(alpha)
        if prediction == "epsilon":
            return sigma / alpha.clamp_min(SMALLEST_DIVISOR)
        return sigma / (alpha + sigma if prediction == "velocity" else self._squares(alpha, sigma))

    def _scales(self, like: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.alpha_sigma(step)
        return alpha.to(like.dtype), sigma.to(like.dtype)

    def _squares(self, alpha: Tensor, sigma: Tensor) -> Tensor | float:
        return alpha**2 + sigma**2


@dataclass(frozen=True)
class NoiseSchedule(Process):
    """Variance-preserving schedule over steps n = 1..1000: ``x_n = alpha_n x_0 + sigma_n eps``.

    It is the noise injection of the paper's Section 3, whose product of all alphas up to n is alpha_n^2 here.
    ``scaled_linear`` is Stable Diffusion's and the released model's, for 256 and 512. ``vp_linear`` is the
    VP-SDE with beta from 0.1 to 20, used at 64. ``cosine`` is Nichol and Dhariwal's (2021), for short runs on
    small images.
    """

    kind: Schedule = "scaled_linear"
    first_step = 1
    _copies: dict[torch.device, Tensor] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def betas(self) -> Tensor:
        """``[1000]`` float64, beta_n of step n at index n - 1."""
        if self.kind == "scaled_linear":
            return torch.linspace(0.00085**0.5, 0.012**0.5, NUM_STEPS, dtype=torch.float64) ** 2
        edges = torch.linspace(0, 1, NUM_STEPS + 1, dtype=torch.float64)
        if self.kind == "vp_linear":
            log_alpha_bar = -0.1 * edges - (20 - 0.1) * edges**2 / 2
        elif self.kind == "cosine":
            log_alpha_bar = 2 * torch.log(torch.cos((edges + 0.008) / 1.008 * torch.pi / 2).clamp_min(1e-12))
        else:
            raise ValueError(f"unknown noise schedule {self.kind!r}; use scaled_linear, vp_linear or cosine")
        return (1 - torch.exp(log_alpha_bar[1:] - log_alpha_bar[:-1])).clamp(max=0.999)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """``[1000]`` float64, alpha_n^2."""
        # Section 3: alpha_t = 1 - beta_t.
        return torch.cumprod(1 - self.betas, dim=0)

    def _alphas_cumprod_on(self, device: torch.device) -> Tensor:
        """The table on a device, copied there once: each copy would wait for what the GPU is doing."""
        if device not in self._copies:
            self._copies[device] = self.alphas_cumprod.to(device)
        return self._copies[device]

    def alpha_sigma(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise scales at steps ``[B]`` in 1..1000, shaped ``[B, 1, 1, 1]``, float64.

        Between whole steps log alpha is linear, as in the released solver.
        """
        squared = self._alphas_cumprod_on(step.device)
        if not step.is_floating_point():
            alpha_squared = squared[step - 1]
        else:
            below = step.double().floor().clamp(1, NUM_STEPS - 1)
            at = below.long() - 1
            alpha_squared = torch.exp(
                torch.lerp(squared[at].log(), squared[at + 1].log(), step.double() - below)
            )
        alpha_squared = alpha_squared.view(-1, 1, 1, 1)
        return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()

    def step_at(self, log_ratio: Tensor) -> Tensor:
        """The steps ``[B]``, float64, at which log(sigma / alpha) is ``log_ratio [B]``, or the nearest."""
        falling = self._alphas_cumprod_on(log_ratio.device).log()
        wanted = torch.nn.functional.logsigmoid(-2 * log_ratio.double())  # log alpha^2
        above = torch.searchsorted(-falling, -wanted).clamp(1, NUM_STEPS - 1)
        before, after = falling[above - 1], falling[above]
        return (above + (wanted - before) / (after - before)).clamp(1, NUM_STEPS)

    def shifted(self, step: Tensor) -> Tensor:
        """The steps as they are: a schedule is chosen for its resolution."""
        return step

    def _squares(self, alpha: Tensor, sigma: Tensor) -> float:
        return 1.0


@dataclass(frozen=True)
class Flow(Process):
    """The straight line from image to noise, ``x_t = (1 - t) x_0 + t eps`` with t = n / 1000.

    It is rectified flow (Liu et al., 2023) and flow matching's conditional path (Lipman et al., 2023), with
    SiT's direction of time: the velocity d x_t / d t is eps - x_0.
    """

    shift: float = 1.0
    """Multiplies sigma / alpha at all times that are drawn or sampled at (Esser et al., 2024)."""

    first_step = 0

    def alpha_sigma(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """1 - t and t at steps ``[B]`` in 0..1000, shaped ``[B, 1, 1, 1]``, float64."""
        time = step.double().view(-1, 1, 1, 1) / NUM_STEPS
        return 1 - time, time

    def step_at(self, log_ratio: Tensor) -> Tensor:
        """The steps ``[B]``, float64, at which log(sigma / alpha) is ``log_ratio [B]``."""
        return NUM_STEPS * torch.sigmoid(log_ratio.double())

    def shifted(self, step: Tensor) -> Tensor:
        """t -> shift t / (1 + (shift - 1) t), for t = n / 1000, and never above 1 by the last bit."""
        return (self.shift * step / (1 + (self.shift - 1) * step / NUM_STEPS)).clamp(max=NUM_STEPS)


def make_process(kind: ProcessKind, schedule: Schedule, time_shift: float = 1.0) -> Process:
    """The process that the settings name; a flow has no schedule, a schedule no shift."""
    return Flow(time_shift) if kind == "flow" else NoiseSchedule(schedule)


def branch_targets(target: Tensor, num_branches: int) -> list[Tensor]:
    """Targets coarse to fine: k times the average over k x k blocks.

    The factor k is the released code's, not the paper's; it keeps white noise at unit variance. Averages are
    linear, so each branch's target is the same prediction of the image and the noise, both downsampled so.
    """
    # Downsample(eps, r) of Eq. 8, times k.
    return [target if k == 1 else k * F.avg_pool2d(target, k) for k in _factors(num_branches)]


def _factors(num_branches: int) -> list[int]:
    return [2 ** (num_branches - 1 - r) for r in range(num_branches)]


def branches_to_clean(
    process: Process, noisy: Tensor, outputs: list[Tensor], step: Tensor, prediction: Prediction
) -> list[Tensor]:
    """The clean image that each branch's output stands for, coarse to fine.

    A branch's target is the prediction of a downsampled image and noise. So its clean image follows from the
    noisy image, downsampled alike, by the same formula. A perfect branch gives the average of the clean image
    over k x k blocks.

    Args:
        noisy: ``[B, C, H, W]``.
        outputs: of all branches, ``[B, C, H / k, W / k]``, coarse to fine; or of the finest alone.
        step: ``[B]``.
    """
    images = []
    for output, seen, k in zip(
        outputs, branch_targets(noisy, len(outputs)), _factors(len(outputs)), strict=True
    ):
        clean = process.to_clean(seen, output, step, prediction)
        images.append(clean if k == 1 else clean / k)
    return images


def branch_losses(predictions: list[Tensor], target: Tensor) -> Tensor:
    """Mean squared error of every branch and sample: ``[R, B]``, unweighted, in float32 at least."""
    losses = []
    for prediction, branch_target in zip(predictions, branch_targets(target, len(predictions)), strict=True):
        wide = prediction.float() if prediction.dtype in (torch.bfloat16, torch.float16) else prediction
        # The squared norm of Eq. 8, as a mean over channels and positions.
        losses.append((wide - branch_target).square().flatten(1).mean(1))
    return torch.stack(losses)


def loss_weights(num_branches: int, multi_scale: bool = True) -> list[float]:
    """Weights alpha_r of Eq. 8, coarse to fine: 1 / 4^(R - r) for r = 1..R (paper, Section 4.3).

    Without ``multi_scale`` only the finest branch counts (Table 2, row 5).
    """
    base = 0.25 if multi_scale else 0.0
    return [base ** (num_branches - 1 - r) for r in range(num_branches)]


def multi_scale_loss(losses: Tensor, multi_scale: bool = True) -> Tensor:
    """Branch losses ``[R, B]`` -> weighted sum over branches ``[B]``; the training loss is its batch mean."""
    # Filled on the device: to copy them there would make the host wait for a GPU.
    weights = [losses.new_full((), weight) for weight in loss_weights(losses.shape[0], multi_scale)]
    # The sum over r of Eq. 8.
    return torch.stack(weights) @ losses
