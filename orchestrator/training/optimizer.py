"""AdamW with the released model's parameter groups, Muon for matrices, and schedules that count images."""

import math

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from dimr_model.ema import own_parts
from orchestrator.config.training import TrainConfig
from orchestrator.training.adamw import ShardAdamW
from orchestrator.training.muon import ShardMuon

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
