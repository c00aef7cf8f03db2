"""AdamW with the released model's parameter groups, and schedules that count images."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dimr_model.ema import own_parts
from orchestrator.config.schema import TrainConfig

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


def clip_gradients(model: nn.Module, largest: float) -> float:
    """Scale gradients in place so that their global norm is at most ``largest``; returns what it was."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    torch._foreach_mul_(own_parts(gradients), torch.clamp(largest / (norm + 1e-6), max=1.0))
    return float(norm)


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Make AdamW, with decay on everything but the slopes and offsets of time-dependent norms, as released.

    Norms and embeddings are groups of their own where ``vector_learning_rate_scale`` is not 1.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decay = 0.0 if name.endswith(NO_DECAY_SUFFIXES) else config.weight_decay
        scale = config.vector_learning_rate_scale if name.endswith(VECTOR_SUFFIXES) else 1.0
        groups.setdefault((decay, scale), []).append(parameter)
    on_gpu = next(model.parameters()).device.type == "cuda"
    return ShardAdamW(
        [{"params": p, "weight_decay": decay, "lr_scale": scale} for (decay, scale), p in groups.items()],
        lr=config.learning_rate,
        betas=config.betas,
        eps=1e-8,
        foreach=not on_gpu,
        fused=on_gpu,
    )


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
