"""AdaLN-Zero (Peebles and Xie, 2023; the paper's Eqs. 3 and 4), and the sinusoids of time.

Both AdaLN-Zero's embedding of time and U-ViT's time token start from these sinusoids.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimr_model.functional import per_sample
from dimr_model.normalization import Condition, layer_norm

FREQUENCIES = 256


def sinusoids(tau: Tensor, width: int) -> Tensor:
    """Cosines and sines of the diffusion step: ``[B]`` -> ``[B, width]``.

    Their wavelengths go from 2 pi to 10,000 * 2 pi.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, device=tau.device, dtype=tau.dtype))
    # The diffusion step is n = 500 (tau + 1).
    angles = (tau[:, None] + 1) * 500 * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, width % 2))


class TimeEmbedding(nn.Module):
    """Embed(t) of Eq. 3: sinusoids through two layers, ``[B]`` -> ``[B, width]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(FREQUENCIES, width)
        self.out = nn.Linear(width, width)

    def forward(self, tau: Tensor) -> Tensor:
        """``tau [B]`` -> ``[B, width]``."""
        return self.out(F.silu(self.hidden(sinusoids(tau, FREQUENCIES))))


class Modulation(nn.Module):
    """The MLP of Eq. 3, from the embedding to ``outputs`` vectors, which are all zero at first.

    With ``hidden``, a layer of the embedding's width comes before. The paper publishes sizes, not this
    structure. This comes nearest: such a layer in every block of a single branch (Table 2, row 2: 202.4M),
    and none where there are several branches, each with its own time embedding (row 3: 217.9M).
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
        # Eq. 3.
        return self.out(F.silu(embedding)).chunk(self.outputs, dim=-1)  # type: ignore[no-any-return]


class AdaLNZero(nn.Module):
    """Scale, shift and gate for each of a block's two sub-layers (paper, Figure 4, left)."""

    def __init__(self, width: int, hidden: bool) -> None:
        super().__init__()
        self.modulation = Modulation(width, 6, hidden)

    def forward(self, condition: Condition) -> tuple[Condition, Condition]:
        """The block's condition -> the conditions of its two sub-layers."""
        assert condition.embedding is not None
        # (gamma_i, beta_i, alpha_i) of Section 4.2, i = 1, 2.
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(condition.embedding)
        return (
            condition._replace(modulation=(scale1, shift1, gate1)),
            condition._replace(modulation=(scale2, shift2, gate2)),
        )


def gated(update: Tensor, condition: Condition) -> Tensor:
    """A sub-layer's output times its gate, where there is one."""
    if condition.modulation is None:
        return update
    # alpha of Section 4.2, zero at first, so that the block begins as the identity.
    return update * per_sample(condition.modulation[2], update).to(update.dtype)


class AdaptiveOutput(nn.Module):
    """The norm after the last block: LayerNorm, scaled and shifted by the embedding, as in DiT."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = Modulation(width, 2, hidden=False)

    def forward(self, features: Tensor, condition: Condition) -> Tensor:
        """``features [B, ..., width]`` -> same shape and dtype."""
        assert condition.embedding is not None
        scale, shift = self.modulation(condition.embedding)
        # Eq. 4, with gamma_1 = 1 + scale and a LayerNorm that has no scale and shift of its own.
        return layer_norm(features, 1 + scale, shift)
