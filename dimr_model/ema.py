"""Exponential moving average of the weights, the ones to sample with."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def ema_decay(images: int, horizon_images: float) -> float:
    """Decay for an update after ``images`` more images: exp(-images / horizon).

    A horizon of 10.24 million images is the released code's 0.9999 per batch of 1024, to 5e-9.
    """
    return math.exp(-images / horizon_images)


@torch.no_grad()
def own_parts(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The parts of DTensors that this process holds, in their own memory; plain tensors as they are.

    An update of each element alone is the same on these, and need not ask each DTensor how it is sharded.
    """
    return [tensor.to_local() if hasattr(tensor, "to_local") else tensor.detach() for tensor in tensors]


class EMA:
    """A copy of every parameter that trails the model, starting as the model is (as released).

    It is sharded as the parameters are: plain tensors or DTensors.
    """

    def __init__(self, model: nn.Module) -> None:
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        """``ema = decay * ema + (1 - decay) * parameter`` for all parameters, in place."""
        torch._foreach_lerp_(own_parts(self.weights.values()), own_parts(model.parameters()), 1 - decay)
