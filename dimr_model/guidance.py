"""Classifier-free guidance (Ho and Salimans, 2022; paper, Section 3).

Its strength is :class:`dimr_model.config.Guidance`.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def guided(
    predict: Callable[[Tensor, Tensor], Tensor], noisy: Tensor, labels: Tensor, null_class: int, weight: float
) -> Tensor:
    """Conditional and unconditional predictions in one batch, combined.

    A weight of 1 costs one prediction only.
    ``predict(noisy [B, C, H, W], labels [B]) -> [B, C, H, W]`` at one fixed diffusion step.
    """
    if weight == 1:
        return predict(noisy, labels)
    both = predict(torch.cat([noisy, noisy]), torch.cat([labels, torch.full_like(labels, null_class)]))
    # A network that computes in bf16 predicts in it, and a scale of 4 would make its rounding four times as
    # large.
    conditional, unconditional = both.to(noisy.dtype).chunk(2)
    # Section 3: eps(x_t, none) + s (eps(x_t, c) - eps(x_t, none)).
    return torch.lerp(unconditional, conditional, weight)
