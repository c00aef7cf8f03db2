"""Operators that keep less for the backward pass than PyTorch's expressions would, with equal results.

Each recomputes what is cheap: a scaling or a gate, never a matrix product. Inside ``torch.compile`` the plain
expressions are used, because the compiler makes the same choice by itself and fuses what is left.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

RMS_EPSILON = 1e-8


def at_least_float32(features: Tensor) -> Tensor:
    """Half precision is widened to float32, for statistics that would overflow or round."""
    return features.float() if features.dtype in (torch.bfloat16, torch.float16) else features


def per_sample(value: Tensor, features: Tensor) -> Tensor:
    """``[B, width]`` -> ``[B, 1, ..., width]``, to broadcast over the positions of ``features``.

    A ``value`` of shape ``[width]`` is returned as it is.
    """
    return (
        value if value.dim() == 1 else value.view(value.shape[0], *[1] * (features.dim() - 2), value.shape[1])
    )


def rms_norm(features: Tensor, gain: Tensor) -> Tensor:
    """Divide by (root mean square over channels + 1e-8), then multiply by ``gain``.

    The epsilon is outside the root, as released.
    ``features [B, ..., width]``, ``gain [B, width]`` or ``[width]`` -> same shape and dtype as the features.
    """
    if torch.compiler.is_compiling():
        return plain_rms_norm(features, gain)
    result: Tensor = _RMSNorm.apply(features, gain)
    return result


def plain_rms_norm(features: Tensor, gain: Tensor) -> Tensor:
    """:func:`rms_norm` as PyTorch's operators compute it, which keep two more copies of the features."""
    return _normalize(features, _rms(features)) * per_sample(gain, features).to(features.dtype)


def gated_linear(gate: Tensor, value: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``linear(GELU(gate) * value)`` with exact GELU: ``[..., hidden]`` twice -> ``[..., out]``.

    It is the second half of a GeGLU MLP (paper, Section 4.3).
    """
    if torch.compiler.is_compiling():
        return F.linear(F.gelu(gate) * value, weight, bias)
    result: Tensor = _GatedLinear.apply(gate, value, weight.to(gate.dtype), bias.to(gate.dtype))
    return result


def scaled_linear(features: Tensor, gain: Tensor, weight: Tensor) -> Tensor:
    """``linear(features * gain)``, ``[B, ..., out]``.

    ``features`` are ``[B, ..., width]``, ``gain`` is ``[B, width]`` or ``[width]``, and ``weight`` is
    ``[out, width]``.
    """
    if torch.compiler.is_compiling():
        return F.linear(features * per_sample(gain, features).to(features.dtype), weight)
    result: Tensor = _ScaledLinear.apply(features, gain, weight.to(_compute_dtype(features)))
    return result


def _compute_dtype(features: Tensor) -> torch.dtype:
    device = features.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return features.dtype


def without_autocast(features: Tensor) -> AbstractContextManager[Any]:
    """A context in which operators on the device of ``features`` keep their inputs' dtype."""
    device = features.device.type
    # Not on the meta device; torch.compile cannot ask.
    available = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if available else nullcontext()


def _rms(features: Tensor) -> Tensor:
    wide = at_least_float32(features)
    return torch.linalg.vector_norm(wide, dim=-1, keepdim=True) / math.sqrt(features.shape[-1])


def _normalize(features: Tensor, rms: Tensor) -> Tensor:
    return (at_least_float32(features) / (rms + RMS_EPSILON)).to(features.dtype)


def _rows(tensor: Tensor, gain: Tensor) -> Tensor:
    """``[B, ..., width]`` as ``[B, N, width]`` if each sample has its gain, else as ``[N, width]``."""
    width = tensor.shape[-1]
    return tensor.reshape(-1, width) if gain.dim() == 1 else tensor.reshape(tensor.shape[0], -1, width)


# What follows works in place on what it has made itself: fresh memory costs as much as the arithmetic.


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, gain: Tensor) -> Tensor:
        rms = _rms(features)
        ctx.save_for_backward(features, gain, rms)
        return _normalize(features, rms).mul_(per_sample(gain, features).to(features.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        features, gain, rms = ctx.saved_tensors
        wide, toward, inverse = (
            at_least_float32(features),
            at_least_float32(gradient),
            1 / (rms + RMS_EPSILON),
        )
        product, wide_gain = _rows(toward * wide, gain), gain.to(wide.dtype)
        toward_gain = (_rows(inverse, gain).transpose(-1, -2) @ product).squeeze(-2)
        # d rms / d features is features / (width * rms); at rms = 0 it meets features of 0.
        slope = (product @ wide_gain.unsqueeze(-1)).view_as(rms) / (wide.shape[-1] * rms).clamp_min(1e-30)
        toward_features = toward * per_sample(wide_gain, features)
        toward_features.addcmul_(wide, slope * inverse, value=-1).mul_(inverse)
        return toward_features.to(features.dtype), toward_gain.to(gain.dtype)


class _GatedLinear(Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, value: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(gate, value, weight)
        return F.linear(F.gelu(gate).mul_(value), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        gate, value, weight = ctx.saved_tensors
        activated = F.gelu(gate)
        rows = gradient.reshape(-1, gradient.shape[-1])
        toward_weight = rows.t() @ (activated * value).reshape(-1, gate.shape[-1])
        toward_hidden = gradient @ weight
        toward_value = activated.mul_(toward_hidden)
        toward_gate = torch.ops.aten.gelu_backward(toward_hidden.mul_(value), gate)
        return toward_gate, toward_value, toward_weight, rows.sum(0)


class _ScaledLinear(Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, gain: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(features, gain, weight)
        return F.linear((features * per_sample(gain, features)).to(weight.dtype), weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, gain, weight = ctx.saved_tensors
        spread = per_sample(gain, features)
        scaled = (features * spread).to(weight.dtype)
        toward_weight = gradient.reshape(-1, gradient.shape[-1]).t() @ scaled.reshape(-1, scaled.shape[-1])
        toward_scaled = at_least_float32(gradient @ weight)
        toward_gain = _rows(toward_scaled * features, gain).sum(-2).to(gain.dtype)
        return toward_scaled.mul_(spread).to(features.dtype), toward_gain, toward_weight
