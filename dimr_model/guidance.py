"""Classifier-free guidance (Ho and Salimans, 2022): how strongly the class counts at each diffusion step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dimr_model.diffusion import NUM_STEPS

GuidanceKind = Literal["none", "constant", "power_cosine"]


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """The weight w(n) in ``unconditional + w(n) * (conditional - unconditional)``, the paper's s; 1 is no guidance.

    The released code's ``scale: 0.4`` is the increment, w = 1.4 here.
    """

    kind: GuidanceKind = "constant"
    """``power_cosine`` rises from 1 at full noise to ``scale`` at the clean end."""
    scale: float = 1.4
    """The weight; for ``power_cosine`` its value at the clean end."""
    power: float = 2.0
    """Exponent of ``power_cosine``: larger keeps guidance away longer."""

    def __post_init__(self) -> None:
        if self.kind not in ("none", "constant", "power_cosine"):
            raise ValueError(f"guidance kind {self.kind!r} is unknown; use none, constant or power_cosine")
        if self.kind != "none" and not (math.isfinite(self.scale) and self.scale >= 1):
            raise ValueError(f"guidance scale {self.scale} must be at least 1 (1 is no guidance; the paper's 0.4 is 1.4)")
        if self.power <= 0:
            raise ValueError(f"guidance power {self.power} must be positive")

    def weight(self, step: float) -> float:
        """w(n) at diffusion step n in 0..1000."""
        if self.kind == "none":
            return 1.0
        if self.kind == "constant":
            return self.scale
        ramp = (1 - math.cos(math.pi * (1 - step / NUM_STEPS) ** self.power)) / 2
        return 1 + (self.scale - 1) * ramp


def guided(
    predict: Callable[[Tensor, Tensor], Tensor], noisy: Tensor, labels: Tensor, null_class: int, weight: float
) -> Tensor:
    """Conditional and unconditional predictions in one batch, combined; a weight of 1 costs one prediction only.

    ``predict(noisy [B, C, H, W], labels [B]) -> [B, C, H, W]`` at one fixed diffusion step.
    """
    if weight == 1:
        return predict(noisy, labels)
    both = predict(torch.cat([noisy, noisy]), torch.cat([labels, torch.full_like(labels, null_class)]))
    conditional, unconditional = both.chunk(2)
    return torch.lerp(unconditional, conditional, weight)
