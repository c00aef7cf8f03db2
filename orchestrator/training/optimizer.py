"""AdamW with the released model's parameter groups, and the schedules that count images."""

import math
from typing import Any

import torch
from torch import nn

from orchestrator.config import TrainConfig

NO_DECAY_SUFFIXES = (".time_weight", ".time_bias")


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW in two groups: everything decays except the slopes and offsets of time-dependent norms, as released."""
    decayed = [p for name, p in model.named_parameters() if not name.endswith(NO_DECAY_SUFFIXES)]
    undecayed = [p for name, p in model.named_parameters() if name.endswith(NO_DECAY_SUFFIXES)]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": undecayed, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        eps=1e-8,
        weight_decay=config.weight_decay,
        foreach=True,
    )


def learning_rate(config: TrainConfig, images_seen: int) -> float:
    """Learning rate of the update after ``images_seen`` images; the very first one is 0 where there is a warm-up."""
    rate = config.learning_rate
    if images_seen < config.warmup_images:
        rate *= images_seen / config.warmup_images
    if config.learning_rate_decay == "cosine":
        rate *= (1 + math.cos(math.pi * min(images_seen / config.images, 1.0))) / 2
    return rate


def ema_horizon(config: TrainConfig, images_seen: int) -> float:
    """Images over which the weights' average forgets by 1/e, after ``images_seen`` images."""
    if config.ema_rampup is None:
        return config.ema_horizon_images
    return min(config.ema_horizon_images, config.ema_rampup * max(images_seen, 1))
