"""One training step: the random numbers that are drawn for it, and what it does to the state."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from dimr_model import randomness
from dimr_model.diffusion import Process, branch_losses, multi_scale_loss, noise_level
from dimr_model.ema import ema_decay
from dimr_model.times import time_weights, training_steps
from orchestrator.config.schema import ExperimentConfig
from orchestrator.config.training import DiffusionConfig
from orchestrator.data.format import DatasetInfo
from orchestrator.data.stream import Batch
from orchestrator.precision import compute_precision
from orchestrator.training.optimizer import clip_gradients, ema_horizon, learning_rate, set_learning_rate
from orchestrator.training.state import TrainState
from orchestrator.training.timing import Stopwatch


@dataclass(frozen=True)
class Draws:
    """A rank's part of a global batch, ready for the network."""

    clean: Tensor
    """``[B, C, H, W]`` float32."""
    noise: Tensor
    """``[B, C, H, W]`` float32."""
    step: Tensor
    """``[B]`` diffusion steps: int64 in 1..1000, or float64 where training's times are continuous."""
    labels: Tensor
    """``[B]`` int64; dropped ones are the null class."""

    def to(self, device: torch.device, dtype: torch.dtype) -> "Draws":
        """The same draws on a device, floating-point ones as ``dtype``."""
        return Draws(
            clean=self.clean.to(device, dtype, non_blocking=True),
            noise=self.noise.to(device, dtype, non_blocking=True),
            step=self.step.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
        )

    def repeated(self, count: int) -> "Draws":
        """``count`` draws: these, again and again."""
        rows = torch.arange(count, device=self.step.device) % len(self.step)
        return Draws(self.clean[rows], self.noise[rows], self.step[rows], self.labels[rows])

    def split(self, parts: int) -> list["Draws"]:
        """Cut the draws into ``parts`` equal parts."""
        columns = (
            self.clean.chunk(parts),
            self.noise.chunk(parts),
            self.step.chunk(parts),
            self.labels.chunk(parts),
        )
        return [Draws(*part) for part in zip(*columns, strict=True)]


@dataclass(frozen=True)
class StepResult:
    """What a training step measured."""

    losses: Tensor
    """``[R, B]`` unweighted branch losses of this rank's samples."""
    steps: Tensor
    """``[B]`` diffusion steps of these samples."""
    gradient_norm: float
    """The gradient's global norm before clipping."""
    skipped: bool
    """True where the gradient was not finite, so that nothing was updated."""


def draw(
    config: ExperimentConfig,
    info: DatasetInfo,
    batch: Batch,
    first: int,
    attempt: int = 0,
    held_out: bool = False,
) -> Draws:
    """Draw everything that is random about a batch, on the CPU.

    The numbers are a function of the seed, their purpose, the images seen before the sample, and the attempt.

    Args:
        first: images seen before this rank's first sample. They are the images seen before the global batch,
            plus the sample's place in it.
        attempt: another attempt draws other numbers.
        held_out: whether this is for the held-out loss. It has other numbers than training, no image is
            flipped, no label is dropped, and times are uniform whatever training's are.
    """
    seed, places = config.run.seed, list(range(first, first + len(batch.labels)))
    use = "held-out/" if held_out else ""
    stored = torch.from_numpy(np.require(batch.arrays, requirements="W"))
    if info.kind == "pixels":
        clean = _pixels(config, stored, places, attempt, held_out)
    else:
        latent_noise = randomness.normal(seed, f"{use}latent-sampling", places, info.diffusion_shape, attempt)
        clean = _latents(info, stored, torch.from_numpy(latent_noise))
    labels = torch.from_numpy(batch.labels.astype(np.int64))
    dropout = 0.0 if held_out else config.diffusion.class_dropout
    dropped = randomness.uniform(seed, "class-dropout", places, attempt) < dropout
    uniform = torch.from_numpy(randomness.uniform(seed, f"{use}diffusion-step", places, attempt))
    return Draws(
        clean=clean,
        noise=torch.from_numpy(
            randomness.normal(seed, f"{use}training-noise", places, info.diffusion_shape, attempt)
        ),
        step=_steps(DiffusionConfig() if held_out else config.diffusion, uniform),
        labels=torch.where(torch.from_numpy(dropped), config.model.null_class, labels),
    )


def _steps(diffusion: DiffusionConfig, uniform: Tensor) -> Tensor:
    """Training's diffusion steps, of uniform numbers ``[B]``."""
    return training_steps(
        uniform,
        diffusion.make_process(),
        diffusion.time,
        diffusion.time_mean,
        diffusion.time_std,
        diffusion.is_continuous,
    )


def _pixels(
    config: ExperimentConfig, stored: Tensor, places: list[int], attempt: int, held_out: bool
) -> Tensor:
    """Stored bytes as clean pixels in [-1, 1], some of them flipped."""
    clean = stored.float() / 127.5 - 1
    if config.data.random_flip and not held_out:
        is_flipped = randomness.uniform(config.run.seed, "random-flip", places, attempt) < 0.5
        clean = torch.where(torch.from_numpy(is_flipped)[:, None, None, None], clean.flip(-1), clean)
    return clean


def _latents(info: DatasetInfo, stored: Tensor, noise: Tensor) -> Tensor:
    """Stored moments of the VAE and noise, combined to clean latents."""
    mean, log_variance = stored.float().chunk(2, dim=1)
    spread = torch.exp(0.5 * log_variance.clamp(-30, 20))
    assert info.scaling_factor is not None
    return info.scaling_factor * (mean + spread * noise)


def forward_losses(config: ExperimentConfig, state: TrainState, draws: Draws, schedule: Process) -> Tensor:
    """Unweighted branch losses ``[R, B]`` of the draws."""
    noisy = schedule.add_noise(draws.clean, draws.noise, draws.step)
    with compute_precision(config.train.precision, state.device):
        predictions = state.model(noisy, noise_level(draws.step).to(noisy.dtype), draws.labels)
    target = schedule.target(draws.clean, draws.noise, draws.step, config.diffusion.prediction)
    return branch_losses(predictions, target)


def _weights(diffusion: DiffusionConfig, draws: Draws, process: Process) -> Tensor:
    """What the draws' losses count, ``[B]`` float64."""
    return time_weights(
        process,
        draws.step,
        diffusion.prediction,
        diffusion.loss_weight,
        diffusion.min_snr_gamma,
        diffusion.edm_sigma_data,
    )


def train_step(
    config: ExperimentConfig, state: TrainState, draws: Draws, schedule: Process, stopwatch: Stopwatch
) -> StepResult:
    """Do one step: forward, backward, clipped AdamW update, EMA.

    ``images_seen`` advances by the global batch, also where the update is skipped.
    """
    draws = draws.to(state.device, next(state.model.parameters()).dtype)
    parts = draws.split(config.train.micro_batches)
    losses = []
    for number, part in enumerate(parts):
        # Gradients add up in place. With the last part they are reduced over the ranks, and gathered weights
        # are freed.
        sharded, is_last = cast(FSDPModule, state.model), number == len(parts) - 1
        sharded.set_requires_gradient_sync(is_last)
        sharded.set_reshard_after_backward(is_last)
        with stopwatch.part("forward"):
            part_losses = forward_losses(config, state, part, schedule)
            sums = multi_scale_loss(part_losses, config.diffusion.multi_scale_loss)
            loss = (sums * _weights(config.diffusion, part, schedule).to(sums)).mean() / len(parts)
        with stopwatch.part("backward"):
            loss.backward()
        losses.append(part_losses.detach())

    with stopwatch.part("optimizer"):
        gradient_norm = clip_gradients(state.model, config.train.clip_gradient_norm)
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
