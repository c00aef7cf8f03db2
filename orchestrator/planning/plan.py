"""A run's plan: memory, time and cost by number of workers, storage, and what sampling costs."""

import math
from dataclasses import dataclass, replace

from orchestrator.checkpoints.retention import to_keep
from orchestrator.checkpoints.selection import Checkpoint
from orchestrator.config.schema import ExperimentConfig
from orchestrator.planning.machine import Machine
from orchestrator.planning.memory import Memory, worker_memory
from orchestrator.planning.options import PlanOptions
from orchestrator.planning.speed import evaluations_per_second, training_images_per_second
from orchestrator.planning.trace import StepTrace
from orchestrator.training.parallelize import count_shards

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Scale:
    """The run with one number of workers."""

    workers: int
    images_per_worker: int
    """A worker's images of a global batch, in all micro-batches."""
    memory: Memory
    """Memory of a worker."""
    fits: bool
    """Whether it fits with the config's own train.micro_batches."""
    fitting_micro_batches: int | None
    """The fewest train.micro_batches with which it fits; None where it fits already, and where none helps."""
    images_per_second: float
    hours: float

    @property
    def worker_hours(self) -> float:
        """Hours of all GPUs, or of all CPU workers, together."""
        return self.workers * self.hours


@dataclass(frozen=True)
class Storage:
    """What a finished run has on disk, in bytes."""

    parameters: int
    checkpoint: int
    checkpoints_kept: int
    """Checkpoints that are there at the end; there is one more while the next is written."""
    checkpoints_written: int
    export: int
    exports: int

    @property
    def total(self) -> int:
        """The most that checkpoints and exports take at a time."""
        return (self.checkpoints_kept + 1) * self.checkpoint + self.exports * self.export


def with_workers(
    config: ExperimentConfig, workers: int, micro_batches: int | None = None
) -> ExperimentConfig:
    """The config for another number of workers.

    Raises:
        ValueError: they cannot divide the lanes or the batch.
    """
    parts = micro_batches or config.train.micro_batches
    return replace(config, train=replace(config.train, workers=workers, micro_batches=parts))


def scale(
    config: ExperimentConfig, workers: int, trace: StepTrace, machine: Machine, options: PlanOptions
) -> Scale:
    """Plan the run with ``workers`` workers.

    Raises:
        ValueError: it cannot run with so many.
    """
    scaled = with_workers(config, workers)
    shards = count_shards(scaled.train, workers, min(workers, options.gpus_per_node))
    memory = worker_memory(scaled, trace, shards)
    share = scaled.train.batch_size // workers
    compiled = config.train.compile
    fits, parts = machine.fits(memory.total, compiled), None
    if not fits:
        choices = [n for n in range(scaled.train.micro_batches + 1, share + 1) if share % n == 0]
        totals = ((n, worker_memory(with_workers(config, workers, n), trace, shards).total) for n in choices)
        parts = next((n for n, total in totals if machine.fits(total, compiled)), None)
    speed = workers * training_images_per_second(scaled, trace, shards, machine, options)
    return Scale(workers, share, memory, fits, parts, speed, config.train.images / speed / SECONDS_PER_HOUR)


def scales(
    config: ExperimentConfig, trace: StepTrace, machine: Machine, options: PlanOptions
) -> tuple[list[Scale], list[str]]:
    """Plan every number of workers that is possible, and say why other divisors of ``data.lanes`` are not."""
    possible, refused = [], []
    for workers in range(1, config.data.lanes + 1):
        if config.data.lanes % workers:
            continue
        try:
            possible.append(scale(config, workers, trace, machine, options))
        except ValueError as error:
            refused.append(f"{workers}: {error}")
    return possible, refused


def storage_of(config: ExperimentConfig, trace: StepTrace) -> Storage:
    """What checkpoints take, by the run's own rule of which ones stay, and what exported weights take."""
    train = config.train
    points = [
        *range(train.checkpoint_every_images, train.images, train.checkpoint_every_images),
        train.images,
    ]
    # Which checkpoint is the best is not known yet; it may be one more than the others that stay.
    kept = to_keep([Checkpoint("", images) for images in points], replace(train, keep_best_by=None))
    best = int(train.keep_best_by is not None and len(kept) < len(points))
    weights = sum(trace.unit_sizes)
    exports = train.images // train.export_every_images if train.export_every_images else 0
    return Storage(
        parameters=trace.parameters,
        checkpoint=2 * weights + trace.moments,  # weights and moving average
        checkpoints_kept=len(kept) + best,
        checkpoints_written=len(points),
        export=weights,
        exports=exports + 1,
    )


def sampling_hours(
    config: ExperimentConfig, trace: StepTrace, machine: Machine, used: float, options: PlanOptions
) -> float:
    """Hours of one GPU (or CPU worker) to sample an image with the config's sampler and guidance."""
    speed = evaluations_per_second(config, trace, used, machine, options)
    return network_evaluations(config) / speed / SECONDS_PER_HOUR


def network_evaluations(config: ExperimentConfig) -> int:
    """Images that go through the network for each that is sampled: two for a step with guidance."""
    from dimr_model.sampling import evaluations_per_image

    sampling = config.sampling
    return evaluations_per_image(config.diffusion.make_process(), sampling.sampler, sampling.guidance)


def previews(config: ExperimentConfig) -> int:
    """Number of preview grids that are made while training goes on."""
    every = config.train.preview_every_images
    return math.ceil(config.train.images / every) if every else 0
