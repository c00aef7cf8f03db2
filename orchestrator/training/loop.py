"""The training loop: the same with or without Ray; whoever calls it brings the batches and takes the reports."""

import time
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from dimr_model.diffusion import NoiseSchedule, multi_scale_loss
from orchestrator.checkpoints.storage import save
from orchestrator.config import ExperimentConfig
from orchestrator.latents.format import DatasetInfo
from orchestrator.latents.stream import Batch
from orchestrator.training.hooks import Hooks
from orchestrator.training.optimizer import learning_rate
from orchestrator.training.state import TrainState
from orchestrator.training.step import StepResult, draw, train_step


class _Interval:
    """Sums over the steps since the last report."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.results: list[StepResult] = []
        self.data_wait = 0.0
        self.checkpoint_stall = 0.0

    def metrics(self, config: ExperimentConfig, state: TrainState, source_images: int) -> dict[str, float]:
        """Averages over the interval and all ranks; every rank must call this."""
        seconds = time.perf_counter() - self.started - self.checkpoint_stall
        losses = _mean_over_ranks(torch.stack([result.losses for result in self.results]).mean(dim=0))
        images_per_second = len(self.results) * config.train.batch_size / seconds
        named = {f"loss/branch{r}": float(loss) for r, loss in enumerate(losses)}
        return named | {
            "loss/total": float(multi_scale_loss(losses[:, None], config.diffusion.multi_scale_loss)),
            "train/gradient_norm": sum(r.gradient_norm for r in self.results) / len(self.results),
            "train/learning_rate": learning_rate(config.train, state.images_seen),
            "train/images_per_second": images_per_second,
            "train/images_per_second_per_worker": images_per_second / dist.get_world_size(),
            "train/data_wait_fraction": self.data_wait / seconds,
            "train/checkpoint_stall_seconds": self.checkpoint_stall,
            "train/skipped_steps": float(state.skipped_steps),
            "train/epoch": state.images_seen / source_images,
        }


def run_loop(
    config: ExperimentConfig, info: DatasetInfo, state: TrainState, batches: Iterator[Batch], hooks: Hooks
) -> None:
    """Train from ``state.images_seen`` to ``train.images``, reporting and checkpointing on the way.

    Collective: every rank calls it with its own batches. The last checkpoint is at or just past ``train.images``, which
    is rounded up to whole batches.
    """
    train, schedule = config.train, NoiseSchedule(config.diffusion.schedule)
    rank, share = dist.get_rank(), train.batch_size // dist.get_world_size()
    interval = _Interval()
    while state.images_seen < train.images:
        asked = time.perf_counter()
        batch = next(batches)
        interval.data_wait += time.perf_counter() - asked
        draws = draw(config, info, batch, state.images_seen + rank * share, state.attempt)
        before = state.images_seen
        interval.results.append(train_step(config, state, draws, schedule))

        is_last = state.images_seen >= train.images
        if is_last or _crossed(before, state.images_seen, train.log_every_images):
            metrics = interval.metrics(config, state, info.num_images)
            if rank == 0:
                hooks.on_metrics(metrics, state.images_seen)
            interval = _Interval()
        if is_last or _crossed(before, state.images_seen, train.checkpoint_every_images):
            started = time.perf_counter()
            checkpoint = save(config, state.images_seen, state.state_dict())
            interval.checkpoint_stall += time.perf_counter() - started
            if rank == 0:
                hooks.on_checkpoint(checkpoint)


def _crossed(before: int, after: int, every: int) -> bool:
    return before // every != after // every


def _mean_over_ranks(values: Tensor) -> Tensor:
    dist.all_reduce(values)
    return values / dist.get_world_size()
