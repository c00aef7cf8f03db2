"""Norms that carry the time condition: time-dependent RMSNorm and LayerNorm (paper, Section 4.2), and a plain RMSNorm.

Every norm is called as ``norm(features, tau)``: features ``[B, ..., width]`` channels last, and the scaled time
``tau [B]`` (see :func:`dimr_model.diffusion.time_of`). Statistics are taken in float32 at least.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimr_model.config import TimeConditioning


class TimeDependentParameter(nn.Module):
    """A vector that moves from ``param1`` (clean end) to ``param0`` (noise end) along a learned sigmoid of time.

    The paper's Eq. 5, with slope and offset per channel as in the released model:
    ``param1 + sigmoid(time_bias + tau * (1 + time_weight)) * (param0 - param1)``.
    """

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.param0 = nn.Parameter(torch.full((width,), initial))
        self.param1 = nn.Parameter(torch.full((width,), initial))
        self.time_weight = nn.Parameter(torch.zeros(width))
        self.time_bias = nn.Parameter(torch.zeros(width))

    def forward(self, tau: Tensor) -> Tensor:
        """``tau [B]`` -> value ``[B, width]``."""
        gate = torch.sigmoid(self.time_bias + tau[:, None] * (1 + self.time_weight))
        return torch.lerp(self.param1.expand_as(gate), self.param0.expand_as(gate), gate)


def _per_sample(value: Tensor, features: Tensor) -> Tensor:
    """``[B, width]`` -> ``[B, 1, ..., width]``, to broadcast over positions."""
    return value.to(features.dtype).view(value.shape[0], *[1] * (features.dim() - 2), value.shape[1])


def _rms_normalize(features: Tensor) -> Tensor:
    """Divide by (root mean square over channels + 1e-8), the epsilon outside the root as in the released model."""
    wide = features.float() if features.dtype in (torch.bfloat16, torch.float16) else features
    rms = torch.linalg.vector_norm(wide, dim=-1, keepdim=True) / math.sqrt(features.shape[-1])
    return (wide / (rms + 1e-8)).to(features.dtype)


class TimeDependentRMSNorm(nn.Module):
    """RMSNorm with a time-dependent scale: the norm inside the blocks of both released models."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = TimeDependentParameter(width, initial=1.0)

    def forward(self, features: Tensor, tau: Tensor) -> Tensor:
        """``features [B, ..., width]``, ``tau [B]`` -> same shape and dtype as the features."""
        return _rms_normalize(features) * _per_sample(self.scale(tau), features)


class TimeDependentLayerNorm(nn.Module):
    """The paper's TD-LN (Eq. 4): LayerNorm with time-dependent scale and shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = TimeDependentParameter(width, initial=1.0)
        self.bias = TimeDependentParameter(width, initial=0.0)

    def forward(self, features: Tensor, tau: Tensor) -> Tensor:
        """``features [B, ..., width]``, ``tau [B]`` -> same shape and dtype as the features."""
        wide = features.float() if features.dtype in (torch.bfloat16, torch.float16) else features
        normalized = F.layer_norm(wide, (features.shape[-1],), eps=1e-5).to(features.dtype)
        return normalized * _per_sample(self.weight(tau), features) + _per_sample(self.bias(tau), features)


class RMSNorm(nn.Module):
    """RMSNorm with a learned scale that ignores time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, features: Tensor, tau: Tensor) -> Tensor:
        """``features [B, ..., width]``, ``tau [B]`` -> same shape and dtype as the features."""
        return _rms_normalize(features) * self.scale.to(features.dtype)


def block_norm(kind: TimeConditioning, width: int) -> nn.Module:
    """The norm that ``DiMRConfig.time_conditioning`` asks for inside a block."""
    norms = {"td_rmsnorm": TimeDependentRMSNorm, "td_layernorm": TimeDependentLayerNorm, "rmsnorm": RMSNorm}
    return norms[kind](width)
