"""One training step: what is drawn for it, and what it does to the state."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from dimr_model import randomness
from dimr_model.config import NUM_STEPS
from dimr_model.diffusion import NoiseSchedule, branch_losses, multi_scale_loss, noise_level
from dimr_model.ema import ema_decay
from orchestrator.config import ExperimentConfig
from orchestrator.latents.format import DatasetInfo
from orchestrator.latents.stream import Batch
from orchestrator.precision import compute_precision
from orchestrator.training.optimizer import ema_horizon, learning_rate, set_learning_rate
from orchestrator.training.state import TrainState


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


@dataclass(frozen=True)
class StepResult:
    """What a step measured."""

    losses: Tensor
    """``[R]`` unweighted branch losses, means over this rank's samples."""
    gradient_norm: float
    """Global norm before clipping."""
    skipped: bool
    """The gradient was not finite, so nothing was updated."""


def draw(config: ExperimentConfig, info: DatasetInfo, batch: Batch, first: int, attempt: int) -> Draws:
    """Everything random about a batch, on the CPU, from (seed, purpose, count of images before the sample, attempt).

    Args:
        first: images seen before this rank's first sample: images seen before the global batch, plus the sample's place.
    """
    seed, places = config.run.seed, list(range(first, first + len(batch.labels)))
    stored = torch.from_numpy(np.array(batch.arrays))
    if info.kind == "pixels":
        clean = stored.float() / 127.5 - 1
        if config.data.random_flip:
            mirrored = torch.from_numpy(randomness.uniform(seed, "random-flip", places, attempt) < 0.5)
            clean = torch.where(mirrored[:, None, None, None], clean.flip(-1), clean)
    else:
        mean, log_variance = stored.float().chunk(2, dim=1)
        spread = torch.exp(0.5 * log_variance.clamp(-30, 20))
        latent_noise = torch.from_numpy(
            randomness.normal(seed, "latent-sampling", places, info.diffusion_shape, attempt)
        )
        assert info.scaling_factor is not None
        clean = info.scaling_factor * (mean + spread * latent_noise)
    labels = torch.from_numpy(batch.labels.astype(np.int64))
    dropped = randomness.uniform(seed, "class-dropout", places, attempt) < config.diffusion.class_dropout
    step = 1 + np.floor(randomness.uniform(seed, "diffusion-step", places, attempt) * NUM_STEPS).astype(
        np.int64
    )
    return Draws(
        clean=clean,
        noise=torch.from_numpy(
            randomness.normal(seed, "training-noise", places, info.diffusion_shape, attempt)
        ),
        step=torch.from_numpy(step),
        labels=torch.where(torch.from_numpy(dropped), config.model.null_class, labels),
    )


def train_step(
    config: ExperimentConfig, state: TrainState, draws: Draws, schedule: NoiseSchedule
) -> StepResult:
    """Forward, backward, clipped AdamW update, EMA; advances ``images_seen`` by the global batch in any case."""
    device = state.device
    clean, noise = draws.clean.to(device, non_blocking=True), draws.noise.to(device, non_blocking=True)
    step, labels = draws.step.to(device, non_blocking=True), draws.labels.to(device, non_blocking=True)
    noisy = schedule.add_noise(clean, noise, step)
    with compute_precision(config.train.precision, device):
        predictions = state.model(noisy, noise_level(step).to(noisy.dtype), labels)
    losses = branch_losses(predictions, schedule.target(clean, noise, step, config.diffusion.prediction))
    multi_scale_loss(losses, config.diffusion.multi_scale_loss).mean().backward()

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
        horizon = ema_horizon(config.train, state.images_seen)
        state.ema.update(state.model, ema_decay(config.train.batch_size, horizon))
    return StepResult(losses.detach().mean(dim=1), gradient_norm, skipped)
