"""AdamW with the released model's parameter groups, Muon for matrices, and schedules that count images."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

# What torch.optim.Muon is made of: it takes neither shards nor three matrices in one parameter.
from torch.optim import _muon

from dimr_model.ema import own_parts
from orchestrator.config.training import TrainConfig

MOMENTUM = 0.95
"""Muon's, torch's default."""
NO_DECAY_SUFFIXES = (".time_weight", ".time_bias")
VECTOR_SUFFIXES = (
    ".param0",
    ".param1",
    ".time_weight",
    ".time_bias",
    ".scale",
    ".positions",
    ".class_embedding.weight",
)


class ShardAdamW(torch.optim.AdamW):
    """AdamW that computes on each worker's own shards, as plain tensors.

    Its numbers are those of AdamW on the sharded tensors, which would look up for each of them how to share
    the work. Its state stays sharded, under the same names. On a GPU one kernel does it all.
    """

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        has_complex = bool(super()._init_group(group, *lists))
        for tensors in lists:
            tensors[:] = own_parts(tensors)
        return has_complex


class ShardMuon(ShardAdamW):
    """Muon (Jordan et al., 2024) for the groups of matrices, AdamW for the others.

    Momentum is kept sharded. Newton and Schulz's iteration needs a whole matrix, so its update is put
    together on every worker and orthogonalized there, and each worker applies its own part. All compute the
    same bits. They are those of ``torch.optim.Muon(momentum=0.95, adjust_lr_fn="match_rms_adamw")``. The
    iteration computes in bf16, so the same gradients give the same update at any world size, but gradients
    that were summed in another order give one that differs more than AdamW's would.

    A group's ``matrices`` says into how many matrices, one below the other, each of its parameters is cut: 3
    for queries, keys and values; 0 for AdamW.
    """

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        # AdamW has nothing to do where its lists stay empty.
        return False if group["matrices"] else super()._init_group(group, *lists)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # AdamW's own would look for its moments in the state of every parameter.
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Do an update of all groups; collective where parameters are sharded."""
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"] if group["matrices"] else ():
                if parameter.grad is not None:
                    self._update(group, parameter)
        return loss

    def _update(self, group: dict[str, Any], parameter: Tensor) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        own, gradient, momentum = own_parts([parameter, parameter.grad, state["momentum_buffer"]])
        momentum.lerp_(gradient, 1 - MOMENTUM)
        whole = _whole(gradient.lerp(momentum, MOMENTUM), parameter)
        parts = whole.chunk(group["matrices"])
        direction = torch.cat([_orthogonalized(part) for part in parts])
        own.mul_(1 - group["lr"] * group["weight_decay"])
        rate = _muon._adjust_lr(group["lr"], "match_rms_adamw", parts[0].shape)
        own.add_(_own_part(direction, parameter), alpha=-rate)


def _orthogonalized(matrix: Tensor) -> Tensor:
    coefficients = (_muon.DEFAULT_A, _muon.DEFAULT_B, _muon.DEFAULT_C)
    return _muon._zeropower_via_newtonschulz(matrix, coefficients, _muon.DEFAULT_NS_STEPS, _muon.EPS)


def _whole(part: Tensor, like: Tensor) -> Tensor:
    """The tensor of which every worker holds a part as it does of ``like``; collective."""
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(
        part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    ).full_tensor()


def _own_part(whole: Tensor, like: Tensor) -> Tensor:
    """This worker's part of a tensor that all workers hold, as it is of ``like``."""
    if not isinstance(like, DTensor):
        return whole
    everywhere = [Replicate()] * like.device_mesh.ndim
    return (
        DTensor.from_local(whole, like.device_mesh, everywhere)
        .redistribute(placements=like.placements)
        .to_local()
    )


def clip_gradients(model: nn.Module, largest: float) -> float:
    """Scale gradients in place so that their global norm is at most ``largest``; returns what it was."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    torch._foreach_mul_(own_parts(gradients), torch.clamp(largest / (norm + 1e-6), max=1.0))
    return float(norm)


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Make AdamW, with decay on everything but the slopes and offsets of time-dependent norms, as released.

    Norms and embeddings are groups of their own where ``vector_learning_rate_scale`` is not 1. With Muon the
    matrices of linear layers are, too.
    """
    uses_muon = config.optimizer == "muon"
    matrices = _matrices(model) if uses_muon else {}
    groups: dict[tuple[float, float, int], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decay = 0.0 if name.endswith(NO_DECAY_SUFFIXES) else config.weight_decay
        scale = config.vector_learning_rate_scale if name.endswith(VECTOR_SUFFIXES) else 1.0
        groups.setdefault((decay, scale, matrices.get(name, 0)), []).append(parameter)
    on_gpu = next(model.parameters()).device.type == "cuda"
    return (ShardMuon if uses_muon else ShardAdamW)(
        [
            {"params": p, "weight_decay": decay, "lr_scale": scale}
            | ({"matrices": count} if uses_muon else {})
            for (decay, scale, count), p in groups.items()
        ],
        lr=config.learning_rate,
        betas=config.betas,
        eps=1e-8,
        foreach=not on_gpu,
        fused=on_gpu,
    )


def _matrices(model: nn.Module) -> dict[str, int]:
    """Name of each linear layer's weight -> the number of matrices in it, one below the other."""
    return {
        f"{name}.weight": 3 if name.endswith(".qkv") else 1
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of ``rate`` for the next update."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def learning_rate(config: TrainConfig, images_seen: int) -> float:
    """The learning rate of the update after ``images_seen`` images.

    With a warm-up, the very first one is 0.
    """
    rate = config.learning_rate
    if images_seen < config.warmup_images:
        rate *= images_seen / config.warmup_images
    if config.learning_rate_decay == "cosine":
        rate *= (1 + math.cos(math.pi * min(images_seen / config.images, 1.0))) / 2
    return rate


def ema_horizon(config: TrainConfig, images_seen: int) -> float:
    """Images over which the average of the weights forgets all but 1/e, after ``images_seen`` images."""
    if config.ema_rampup is None:
        return config.ema_horizon_images
    return min(config.ema_horizon_images, config.ema_rampup * max(images_seen, 1))
