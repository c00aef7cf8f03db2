"""Noise schedules, the forward process and the multi-scale loss (paper, Section 3 and Eq. 8)."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from dimr_model.config import NUM_STEPS, Prediction, Schedule


def noise_level(step: Tensor) -> Tensor:
    """What the network is told about step n (fractional ones too): n / 1000 * 8 - 4, which rises with noise.

    The released code calls this log_snr, which it is not. The network's own tau is a quarter of it,
    n / 500 - 1.
    """
    return step / NUM_STEPS * 8 - 4


@dataclass(frozen=True)
class NoiseSchedule:
    """Variance-preserving schedule over steps n = 1..1000: ``x_n = alpha_n x_0 + sigma_n eps``.

    It is the noise injection of the paper's Section 3, whose product of all alphas up to n is alpha_n^2 here.
    ``scaled_linear`` is Stable Diffusion's and the released model's, for 256 and 512. ``vp_linear`` is the
    VP-SDE with beta from 0.1 to 20, used at 64. ``cosine`` is Nichol and Dhariwal's (2021), for short runs on
    small images.
    """

    kind: Schedule = "scaled_linear"
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

    def add_noise(self, clean: Tensor, noise: Tensor, step: Tensor) -> Tensor:
        """The forward process: ``clean``, ``noise`` ``[B, C, H, W]``, ``step [B]`` -> ``x_n``, same dtype."""
        alpha, sigma = (scale.to(clean.dtype) for scale in self.alpha_sigma(step))
        # Section 3: all steps of the Markov chain up to n at once (Ho et al., 2020, Eq. 4).
        return alpha * clean + sigma * noise

    def target(self, clean: Tensor, noise: Tensor, step: Tensor, prediction: Prediction) -> Tensor:
        """What the finest branch should output: the noise, or v = alpha eps - sigma x_0.

        The paper predicts the noise (Section 3); v is from Salimans and Ho (2022).
        """
        if prediction == "epsilon":
            return noise
        alpha, sigma = (scale.to(clean.dtype) for scale in self.alpha_sigma(step))
        return alpha * noise - sigma * clean

    def to_clean(self, noisy: Tensor, output: Tensor, step: Tensor, prediction: Prediction) -> Tensor:
        """The x_0 that a network output ``[B, C, H, W]`` at steps ``[B]`` stands for."""
        alpha, sigma = (scale.to(noisy.dtype) for scale in self.alpha_sigma(step))
        if prediction == "epsilon":
            return (noisy - sigma * output) / alpha
        return alpha * noisy - sigma * output


def branch_targets(target: Tensor, num_branches: int) -> list[Tensor]:
    """Targets coarse to fine: k times the average over k x k blocks.

    The factor k is the released code's, not the paper's; it keeps white noise at unit variance.
    """
    factors = [2 ** (num_branches - 1 - r) for r in range(num_branches)]
    # Downsample(eps, r) of Eq. 8, times k.
    return [target if k == 1 else k * F.avg_pool2d(target, k) for k in factors]


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
    # The sum over r of Eq. 8.
    return losses.new_tensor(loss_weights(losses.shape[0], multi_scale)) @ losses
