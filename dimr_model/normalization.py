"""Norms: time-dependent RMSNorm and LayerNorm (paper, Section 4.2), AdaLN-Zero's, and plain ones.

Every norm is called as ``norm(features, condition)``, with features ``[B, ..., width]``, channels last. It
takes from the condition what it needs. Statistics are computed in float32 at least.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimr_model.config import TimeConditioning
from dimr_model.functional import at_least_float32, per_sample, plain_rms_norm, rms_norm

LAYER_NORM_EPSILON = 1e-5


class Condition(NamedTuple):
    """What a block is told beside its features."""

    tau: Tensor
    """``[B]``, n / 500 - 1 for diffusion step n."""
    embedding: Tensor | None = None
    """``[B, width]``, Embed(t) or Embed(t) + Embed(c) of Eq. 3; for AdaLN-Zero."""
    modulation: tuple[Tensor, Tensor, Tensor] | None = None
    """Scale, shift and gate of one sub-layer, each ``[B, width]``; for AdaLN-Zero."""


class TimeDependentParameter(nn.Module):
    """A vector that moves along a learned sigmoid of time.

    It goes from ``param1`` at the clean end to ``param0`` at the noise end. These are the paper's Eqs. 5 and
    6, with slope and offset per channel as in the released model:
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
        # s(t), Eq. 5, where w = 1 + time_weight, b = time_bias and t is tau.
        gate = torch.sigmoid(self.time_bias + tau[:, None] * (1 + self.time_weight))
        # gamma(t), Eq. 6, where p_1 = param0 and p_2 = param1; beta(t) in the same way.
        return torch.lerp(self.param1.expand_as(gate), self.param0.expand_as(gate), gate)


class TimeDependentRMSNorm(nn.Module):
    """RMSNorm with a time-dependent scale: the norm inside the blocks of both released models."""

    as_released = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = TimeDependentParameter(width, initial=1.0)

    def forward(self, features: Tensor, condition: Condition) -> Tensor:
        """``features [B, ..., width]`` -> same shape and dtype."""
        norm = plain_rms_norm if self.as_released else rms_norm
        return norm(features, self.scale(condition.tau))


class RMSNorm(nn.Module):
    """RMSNorm with a learned scale that ignores time; inside the blocks, or of queries and keys."""

    as_released = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, features: Tensor, condition: Condition | None = None) -> Tensor:
        """``features [B, ..., width]`` -> same shape and dtype."""
        norm = plain_rms_norm if self.as_released else rms_norm
        return norm(features, self.scale)


class TimeDependentLayerNorm(nn.Module):
    """The paper's TD-LN (Eq. 7): LayerNorm with time-dependent scale and shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = TimeDependentParameter(width, initial=1.0)
        self.bias = TimeDependentParameter(width, initial=0.0)

    def affine(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Scale gamma(t) and shift beta(t), each ``[B, width]``."""
        return self.weight(condition.tau), self.bias(condition.tau)

    def forward(self, features: Tensor, condition: Condition) -> Tensor:
        """``features [B, ..., width]`` -> same shape and dtype."""
        # Eq. 7.
        return layer_norm(features, *self.affine(condition))


class LayerNorm(nn.Module):
    """LayerNorm with a learned scale and shift that ignore time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def affine(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Scale and shift, each ``[width]``."""
        return self.weight, self.bias

    def forward(self, features: Tensor, condition: Condition) -> Tensor:
        """``features [B, ..., width]`` -> same shape and dtype."""
        return layer_norm(features, self.weight, self.bias)


class ModulatedLayerNorm(nn.Module):
    """LayerNorm scaled and shifted by the block's AdaLN-Zero (see :class:`dimr_model.adaln.AdaLNZero`)."""

    def forward(self, features: Tensor, condition: Condition) -> Tensor:
        """``features [B, ..., width]`` -> same shape and dtype."""
        assert condition.modulation is not None
        scale, shift, _ = condition.modulation
        # Eq. 4, with gamma_1 = 1 + scale and a LayerNorm that has no scale and shift of its own, as in DiT.
        return layer_norm(features, 1 + scale, shift)


def layer_norm(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm with a scale and shift, each ``[B, width]`` or ``[width]``; keeps shape and dtype."""
    normalized = F.layer_norm(at_least_float32(features), (features.shape[-1],), eps=LAYER_NORM_EPSILON)
    scale, shift = (per_sample(value, features).to(features.dtype) for value in (weight, bias))
    return normalized.to(features.dtype) * scale + shift


def block_norm(kind: TimeConditioning, width: int) -> nn.Module:
    """The norm that ``DiMRConfig.time_conditioning`` asks for inside a block."""
    if kind == "adaln_zero":
        return ModulatedLayerNorm()
    norms = {
        "td_rmsnorm": TimeDependentRMSNorm,
        "td_layernorm": TimeDependentLayerNorm,
        "rmsnorm": RMSNorm,
        "token": LayerNorm,
    }
    return norms[kind](width)


def branch_norm(kind: TimeConditioning, width: int) -> TimeDependentLayerNorm | LayerNorm:
    """The norm around the blocks: TD-LN, as released, also where the norm inside the blocks is an RMSNorm.

    With AdaLN-Zero and with U-ViT's time token it is a plain LayerNorm.
    """
    return LayerNorm(width) if kind in ("adaln_zero", "token") else TimeDependentLayerNorm(width)
