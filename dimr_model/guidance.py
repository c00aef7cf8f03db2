"""Classifier-free guidance (Ho and Salimans, 2022; paper, Section 3).

Its strength is :class:`dimr_model.config.Guidance`.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def guided(
    predict: Callable[[Tensor, Tensor], list[Tensor]],
    noisy: Tensor,
    labels: Tensor,
    null_class: int,
    weight: float,
) -> list[Tensor]:
    """Conditional and unconditional predictions in one batch, combined.

    A weight of 1 costs one prediction only.
    ``predict(noisy [B, C, H, W], labels [B])`` gives what some branches output, each ``[B, C, h, w]``, at one
    fixed diffusion step. Each is combined alike.
    """
    if weight == 1:
        return predict(noisy, labels)
    both = predict(torch.cat([noisy, noisy]), torch.cat([labels, torch.full_like(labels, null_class)]))
    combined = []
    for output in both:
        # A network that computes in bf16 predicts in it, and a scale of 4 would make its rounding four times
        # as large.
        conditional, unconditional = output.to(noisy.dtype).chunk(2)
        # Section 3: eps(x_t, none) + s (eps(x_t, c) - eps(x_t, none)).
        combined.append(torch.lerp(unconditional, conditional, weight))
    return combined
