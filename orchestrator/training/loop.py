"""The training loop, which is the same with Ray and without.

Its caller brings the batches and takes the reports.
"""

import math
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from orchestrator.checkpoints.outputs import crossed
from orchestrator.checkpoints.saving import CheckpointWriter
from orchestrator.checkpoints.selection import Checkpoint
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import DatasetInfo
from orchestrator.data.stream import Batch
from orchestrator.errors import UserError
from orchestrator.stalls import InTime
from orchestrator.training.hooks import DivergenceError, Hooks, PreemptedError
from orchestrator.training.interval import Interval, mean_losses
from orchestrator.training.profile import Profiler
from orchestrator.training.state import TrainState
from orchestrator.training.step import Draws, draw, forward_losses, train_step
from orchestrator.training.timing import Stopwatch

MAX_SKIPPED_STEPS = 10
NOTICE_SECONDS = 5.0
"""Time between two looks for nodes that are about to leave; Ray Train itself looks as often."""


def run_loop(
    config: ExperimentConfig,
    info: DatasetInfo,
    state: TrainState,
    batches: Iterator[Batch],
    hooks: Hooks,
    held_out: Batch | None = None,
) -> None:
    """Train from ``state.images_seen`` to ``train.images``, or until asked to stop.

    Metrics are reported and checkpoints written on the way. The last checkpoint is written where training
    ends. That is at ``train.images``, rounded up to whole batches, unless it was stopped earlier.

    This is collective: every rank calls it with its own batches, the whole of ``held_out`` and the same
    position.

    Raises:
        UserError: the last checkpoint could not be written.
        DivergenceError: ``MAX_SKIPPED_STEPS`` steps in a row had a gradient that is not finite.
        PreemptedError: nodes are about to leave. There is a checkpoint, from which others can go on.
    """
    loop = _Loop(config, info, state, hooks, held_out)
    loop.run(batches)
    loop.end()


class _Loop:
    """The parts of :func:`run_loop`."""

    def __init__(
        self,
        config: ExperimentConfig,
        info: DatasetInfo,
        state: TrainState,
        hooks: Hooks,
        held_out: Batch | None,
    ) -> None:
        self._config, self._info, self._state = config, info, state
        self._hooks, self._held_out = hooks, held_out
        self._schedule = config.diffusion.make_process()
        self._rank, self._share = dist.get_rank(), config.train.batch_size // dist.get_world_size()
        self._interval = Interval(config, info.num_images, state.device)
        self._stopwatch = Stopwatch(state.device)
        self._stop = _StopForAll(hooks)
        self._writer = CheckpointWriter(config, state.device)
        self._profiler = Profiler(config, self._rank)
        self._newest_metrics: dict[str, float] = {}
        self._skipped_in_a_row = 0
        self._is_last = False

    def run(self, batches: Iterator[Batch]) -> None:
        """Train step by step, to the last one."""
        # A thread makes the next draws: a GPU would wait for them after every step.
        stall_seconds = self._config.cluster.stall_seconds
        with closing(InTime(self._drawn(batches), "batch of images", stall_seconds)) as draws:
            self._steps(draws)

    def _drawn(self, batches: Iterator[Batch]) -> Iterator[Draws]:
        """What this rank draws for each global batch from here on."""
        first, attempt = self._state.images_seen + self._rank * self._share, self._state.attempt
        for batch in batches:
            yield draw(self._config, self._info, batch, first, attempt)
            first += self._config.train.batch_size

    def _steps(self, draws: Iterator[Draws]) -> None:
        train, state = self._config.train, self._state
        while state.images_seen < train.images and not self._is_last:
            before = state.images_seen
            self._step(draws)
            self._is_last = state.images_seen >= train.images or self._stop.is_asked(state.images_seen)
            self._hooks.on_step(self._is_last)
            is_saved = self._is_last or crossed(before, state.images_seen, train.checkpoint_every_images)
            # Also at a checkpoint, so that a run that goes on from there reports the same means as this one.
            if is_saved or crossed(before, state.images_seen, train.log_every_images):
                self._report(self._interval.close(state, self._stopwatch))
            self._announce(self._writer.completed())
            if is_saved:
                self._save()

    def end(self) -> None:
        """Wait for the last checkpoint, and raise what calls for other workers."""
        # Without a step there is no checkpoint to write.
        is_written = not self._is_last or self._announce(self._writer.finish())
        self._writer.close()
        seen = self._state.images_seen
        if not is_written:
            raise UserError(
                f"The last checkpoint, at {seen} images, could not be written to {self._config.directory}; "
                "the log says why. Make room and run the same command again: it goes on from the newest "
                "complete one."
            )
        if self._stop.leaving_nodes and seen < self._config.train.images:
            raise PreemptedError(seen, self._stop.leaving_nodes)

    def _step(self, draws: Iterator[Draws]) -> None:
        state = self._state
        with self._stopwatch.part("data"):
            drawn = next(draws)
        result = train_step(self._config, state, drawn, self._schedule, self._stopwatch)
        self._interval.add(result)
        self._profiler.step()
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if result.skipped else 0
        if self._skipped_in_a_row >= MAX_SKIPPED_STEPS:
            self._announce(self._writer.finish())
            self._writer.close()
            raise DivergenceError(state.images_seen, state.attempt)

    def _save(self) -> None:
        """Compute the held-out loss, then write a checkpoint in the background."""
        state = self._state
        if self._held_out is not None:
            with self._interval.pause():
                self._report(held_out_losses(self._config, self._info, state, self._held_out))
        with self._interval.pause(for_checkpoint=True):
            # The last one waits until the one before it is written.
            if self._is_last or self._writer.is_free(state.images_seen):
                self._announce(self._writer.finish())
                self._writer.start(state.images_seen, state.state_dict(), dict(self._newest_metrics))

    def _report(self, metrics: dict[str, float]) -> None:
        self._newest_metrics.update(metrics)
        if self._rank == 0:
            self._hooks.on_metrics(metrics, self._state.images_seen)

    def _announce(self, checkpoint: Checkpoint | None) -> bool:
        if checkpoint is not None and self._rank == 0:
            self._hooks.on_checkpoint(checkpoint)
        return checkpoint is not None


class _StopForAll:
    """Tells all ranks, at the same step, that the first one wishes to stop or that nodes will leave."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._looked_at = time.monotonic()
        self.leaving_nodes: list[str] = []
        # On the CPU, and apart from the collectives of training and of the checkpoint thread.
        self._group: Any = dist.new_group(backend="gloo") if dist.get_world_size() > 1 else None

    def is_asked(self, images_seen: int) -> bool:
        """Whether training ends with this step; collective."""
        is_first, is_time = dist.get_rank() == 0, time.monotonic() - self._looked_at > NOTICE_SECONDS
        wishes = torch.tensor([is_first and self._hooks.should_stop(images_seen), is_first and is_time])
        if self._group is not None:
            dist.broadcast(wishes, src=0, group=self._group)
        is_asked, is_time = wishes.tolist()
        if is_time:
            self._looked_at = time.monotonic()
            self.leaving_nodes = self._hooks.leaving_nodes()
        return is_asked or bool(self.leaving_nodes)


@torch.no_grad()
def held_out_losses(
    config: ExperimentConfig, info: DatasetInfo, state: TrainState, held_out: Batch
) -> dict[str, float]:
    """Losses of rows that are never trained on, at noise and diffusion steps that never change.

    The steps are uniform and the losses unweighted, whatever training's are. They compare networks of the
    same process, schedule and prediction.

    This is collective: every rank must call it.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    places = np.array_split(np.arange(len(held_out.labels)), world_size)[rank]
    # Every rank runs as many forward passes as every other: they gather weights together. All have the size
    # of training's, because a compiled network is compiled anew for each size, and only so often.
    size = max(1, config.train.batch_size // world_size // config.train.micro_batches)
    largest_share = math.ceil(len(held_out.labels) / world_size)
    schedule, dtype = config.diffusion.make_process(), next(state.model.parameters()).dtype
    losses, steps = [], []
    for number in range(math.ceil(largest_share / size)):
        part = places[number * size : (number + 1) * size]
        # A rank that has no rows left computes its first for nothing.
        first, count = (int(part[0]), len(part)) if len(part) else (int(places[0]) if len(places) else 0, 1)
        draws = draw(config, info, held_out[first : first + count], first, held_out=True)
        draws = draws.to(state.device, dtype).repeated(size)
        losses.append(forward_losses(config, state, draws, schedule)[:, : len(part)])
        steps.append(draws.step[: len(part)])
    return mean_losses(
        torch.cat(losses, dim=1), torch.cat(steps), config.diffusion.multi_scale_loss, "held_out/"
    )
