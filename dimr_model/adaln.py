"""AdaLN-Zero (Peebles and Xie, 2023; the paper's Eq. 3) and the embedding of time that it, and U-ViT's token, start from."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimr_model.functional import per_sample
from dimr_model.normalization import Condition, layer_norm

FREQUENCIES = 256


def sinusoids(tau: Tensor, width: int) -> Tensor:
    """Cosines and sines of the diffusion step at wavelengths from 2 pi to 10,000 * 2 pi: ``[B]`` -> ``[B, width]``."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, device=tau.device, dtype=tau.dtype))
    angles = (tau[:, None] + 1) * 500 * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, width % 2))


class TimeEmbedding(nn.Module):
    """Embed(t): sinusoids through two layers, ``[B]`` -> ``[B, width]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(FREQUENCIES, width)
        self.out = nn.Linear(width, width)

    def forward(self, tau: Tensor) -> Tensor:
        """``tau [B]`` -> ``[B, width]``."""
        return self.out(F.silu(self.hidden(sinusoids(tau, FREQUENCIES))))


class Modulation(nn.Module):
    """From the embedding to ``outputs`` vectors, all zero at first: ``[B, width]`` -> ``outputs`` of ``[B, width]``.

    With ``hidden`` there is a layer of the embedding's width before. The paper publishes sizes, not this structure: a
    layer in every block of a single branch (Table 2, row 2: 202.4M), and none beside one time embedding per branch
    where there are several (row 3: 217.9M), are what comes nearest.
    """

    def __init__(self, width: int, outputs: int, hidden: bool) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width) if hidden else None
        self.out = nn.Linear(width, outputs * width)
        self.outputs = outputs

    def forward(self, embedding: Tensor) -> tuple[Tensor, ...]:
        """``[B, width]`` -> ``outputs`` tensors ``[B, width]``."""
        if self.hidden is not None:
            embedding = self.hidden(embedding)
        return self.out(F.silu(embedding)).chunk(self.outputs, dim=-1)  # type: ignore[no-any-return]


class AdaLNZero(nn.Module):
    """Scale, shift and gate for each of a block's two sub-layers."""

    def __init__(self, width: int, hidden: bool) -> None:
        super().__init__()
        self.modulation = Modulation(width, 6, hidden)

    def forward(self, condition: Condition) -> tuple[Condition, Condition]:
        """The block's condition -> the conditions of its two sub-layers."""
        assert condition.embedding is not None
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(condition.embedding)
        return (
            condition._replace(modulation=(scale1, shift1, gate1)),
            condition._replace(modulation=(scale2, shift2, gate2)),
        )


def gated(update: Tensor, condition: Condition) -> Tensor:
    """A sub-layer's output times its gate, where there is one."""
    if condition.modulation is None:
        return update
    return update * per_sample(condition.modulation[2], update).to(update.dtype)


class AdaptiveOutput(nn.Module):
    """The final norm of AdaLN: LayerNorm, scaled and shifted by the embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = Modulation(width, 2, hidden=False)

    def forward(self, features: Tensor, condition: Condition) -> Tensor:
        """``features [B, ..., width]`` -> same shape and dtype."""
        assert condition.embedding is not None
        scale, shift = self.modulation(condition.embedding)
        return layer_norm(features, 1 + scale, shift)
