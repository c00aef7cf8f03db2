"""One training step: what is drawn for it, and what it does to the state."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from dimr_model import randomness
from dimr_model.config import NUM_STEPS
from dimr_model.diffusion import NoiseSchedule, branch_losses, multi_scale_loss, noise_level
from dimr_model.ema import ema_decay
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import DatasetInfo
from orchestrator.data.stream import Batch
from orchestrator.precision import compute_precision
from orchestrator.training.optimizer import ema_horizon, learning_rate, set_learning_rate
from orchestrator.training.state import TrainState
from orchestrator.training.timing import Stopwatch


@dataclass(frozen=True)
class Draws:
    """A rank's part of a global batch, ready for the network: clean input, noise, diffusion step and label."""

    clean: Tensor
    """``[B, C, H, W]`` float32."""
    noise: Tensor
    """``[B, C, H, W]`` float32."""
    step: Tensor
    """``[B]`` int64 in 1..1000."""
    labels: Tensor
    """``[B]`` int64; dropped ones are the null class."""

    def to(self, device: torch.device, dtype: torch.dtype) -> "Draws":
        """On a device, the floating-point ones as ``dtype``."""
        return Draws(
            clean=self.clean.to(device, dtype, non_blocking=True),
            noise=self.noise.to(device, dtype, non_blocking=True),
            step=self.step.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
        )

    def split(self, parts: int) -> list["Draws"]:
        """In equal parts."""
        columns = (
            self.clean.chunk(parts),
            self.noise.chunk(parts),
            self.step.chunk(parts),
            self.labels.chunk(parts),
        )
        return [Draws(*part) for part in zip(*columns, strict=True)]


@dataclass(frozen=True)
class StepResult:
    """What a step measured."""

    losses: Tensor
    """``[R, B]`` unweighted branch losses of this rank's samples."""
    steps: Tensor
    """``[B]`` their diffusion steps."""
    gradient_norm: float
    """Global norm before clipping."""
    skipped: bool
    """The gradient was not finite, so nothing was updated."""


def draw(
    config: ExperimentConfig,
    info: DatasetInfo,
    batch: Batch,
    first: int,
    attempt: int = 0,
    held_out: bool = False,
) -> Draws:
    """Everything random about a batch, on the CPU, from (seed, purpose, count of images before the sample, attempt).

    Args:
        first: images seen before this rank's first sample: images seen before the global batch, plus the sample's place.
        attempt: another one draws other numbers.
        held_out: draw for the held-out loss: other numbers than training's, no flips, and no label dropped.
    """
    seed, places = config.run.seed, list(range(first, first + len(batch.labels)))
    use = "held-out/" if held_out else ""
    stored = torch.from_numpy(np.require(batch.arrays, requirements="W"))
    if info.kind == "pixels":
        clean = stored.float() / 127.5 - 1
        if config.data.random_flip and not held_out:
            mirrored = torch.from_numpy(randomness.uniform(seed, "random-flip", places, attempt) < 0.5)
            clean = torch.where(mirrored[:, None, None, None], clean.flip(-1), clean)
    else:
        mean, log_variance = stored.float().chunk(2, dim=1)
        spread = torch.exp(0.5 * log_variance.clamp(-30, 20))
        latent_noise = torch.from_numpy(
            randomness.normal(seed, f"{use}latent-sampling", places, info.diffusion_shape, attempt)
        )
        assert info.scaling_factor is not None
        clean = info.scaling_factor * (mean + spread * latent_noise)
    labels = torch.from_numpy(batch.labels.astype(np.int64))
    dropout = 0.0 if held_out else config.diffusion.class_dropout
    dropped = randomness.uniform(seed, "class-dropout", places, attempt) < dropout
    step = 1 + np.floor(randomness.uniform(seed, f"{use}diffusion-step", places, attempt) * NUM_STEPS).astype(
        np.int64
    )
    return Draws(
        clean=clean,
        noise=torch.from_numpy(
            randomness.normal(seed, f"{use}training-noise", places, info.diffusion_shape, attempt)
        ),
        step=torch.from_numpy(step),
        labels=torch.where(torch.from_numpy(dropped), config.model.null_class, labels),
    )


def forward_losses(
    config: ExperimentConfig, state: TrainState, draws: Draws, schedule: NoiseSchedule
) -> Tensor:
    """Unweighted branch losses ``[R, B]`` of what was drawn."""
    noisy = schedule.add_noise(draws.clean, draws.noise, draws.step)
    with compute_precision(config.train.precision, state.device):
        predictions = state.model(noisy, noise_level(draws.step).to(noisy.dtype), draws.labels)
    target = schedule.target(draws.clean, draws.noise, draws.step, config.diffusion.prediction)
    return branch_losses(predictions, target)


def train_step(
    config: ExperimentConfig, state: TrainState, draws: Draws, schedule: NoiseSchedule, stopwatch: Stopwatch
) -> StepResult:
    """Forward, backward, clipped AdamW update, EMA; advances ``images_seen`` by the global batch in any case."""
    draws = draws.to(state.device, next(state.model.parameters()).dtype)
    parts = draws.split(config.train.micro_batches)
    losses = []
    for number, part in enumerate(parts):
        # Gradients add up in place and are reduced over the ranks once, with the last part.
        cast(FSDPModule, state.model).set_requires_gradient_sync(number == len(parts) - 1)
        with stopwatch.part("forward"):
            part_losses = forward_losses(config, state, part, schedule)
            loss = multi_scale_loss(part_losses, config.diffusion.multi_scale_loss).mean() / len(parts)
        with stopwatch.part("backward"):
            loss.backward()
        losses.append(part_losses.detach())

    with stopwatch.part("optimizer"):
        norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.train.clip_gradient_norm)
        gradient_norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        skipped = not np.isfinite(gradient_norm)
        if not skipped:
            set_learning_rate(state.optimizer, learning_rate(config.train, state.images_seen))
            state.optimizer.step()
        state.optimizer.zero_grad()
    state.images_seen += config.train.batch_size
    if skipped:
        state.skipped_steps += 1
    else:
        with stopwatch.part("ema"):
            horizon = ema_horizon(config.train, state.images_seen)
            state.ema.update(state.model, ema_decay(config.train.batch_size, horizon))
    return StepResult(torch.cat(losses, dim=1), draws.step, gradient_norm, skipped)
