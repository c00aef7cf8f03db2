"""Exponential moving average of the weights, the ones to sample with."""

import math

import torch
from torch import Tensor, nn


def ema_decay(images: int, horizon_images: float) -> float:
    """Decay for an update after ``images`` more images: exp(-images / horizon).

    A horizon of 10.24 million images is the released code's 0.9999 per batch of 1024, to 5e-9.
    """
    return math.exp(-images / horizon_images)


class EMA:
    """A copy of every parameter that trails the model, starting as the model is (as released).

    It is sharded as the parameters are: plain tensors or DTensors.
    """

    def __init__(self, model: nn.Module) -> None:
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        """``ema = decay * ema + (1 - decay) * parameter`` for all parameters, in place."""
        torch._foreach_lerp_(list(self.weights.values()), [p.detach() for p in model.parameters()], 1 - decay)
