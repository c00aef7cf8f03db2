"""Where a worker group starts, and which rank reads what.

This is Ray Train's data configuration over the deterministic stream.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
import ray.train

from orchestrator.checkpoints.selection import Checkpoint, newest_valid
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.data.stream import Batch, StoredRows, StreamPlan, make_order, rank_dataset, read_spread
from orchestrator.training.hooks import Hooks

HELD_OUT_ROWS = 512


@dataclass(frozen=True)
class TrainJob:
    """What every worker is told; it is pickled on the way."""

    config: ExperimentConfig
    dataset: LatentDataset
    make_hooks: Callable[[], Hooks]
    """Called in every worker; the first rank's hooks are used."""
    held_out: LatentDataset | None = None
    """Rows that are never trained on."""
    attempt: int = 0
    """The smallest attempt to train with; after a rollback it grows, so that training sees other noise."""


@dataclass(frozen=True)
class Start:
    """Where training goes on from, chosen once for a whole worker group."""

    checkpoint: Checkpoint | None
    plan: StreamPlan
    held_out: Batch | None
    """Rows for the held-out loss, the same ones every time."""


@dataclass(frozen=True)
class Shard:
    """A rank's share of what is read."""

    start: ray.ObjectRef
    """The :class:`Start` in Ray's object store: once for all ranks, because it holds the held-out rows."""
    data: ray.data.DataIterator
    """The windows of the rank's lanes, in order."""


def find_start(job: TrainJob) -> Start:
    """Find the newest valid checkpoint, and what is left to read from there."""
    config = job.config
    newest = newest_valid(config.directory)
    order = make_order(
        job.dataset, seed=config.run.seed, lanes=config.data.lanes, window=config.data.shuffle_window
    )
    images_seen = newest.images_seen if newest else 0
    plan = StreamPlan(
        StoredRows.of(job.dataset), order, config.train.batch_size, images_seen, config.train.images
    )
    held_out = read_spread(job.held_out, HELD_OUT_ROWS) if job.held_out else None
    return Start(newest, plan, held_out)


def make_shards(start: Start, world_size: int, cpus: float) -> list[Shard]:
    """Make the share of every rank, which is read with ``cpus`` CPUs."""
    everything, plan = ray.put(start), ray.put(start.plan)
    shards = []
    for rank in range(world_size):
        dataset = rank_dataset(start.plan, rank, world_size, plan)
        dataset.context.execution_options.resource_limits = ray.data.ExecutionResources(cpu=cpus)
        shards.append(Shard(everything, dataset.iterator()))
    return shards


class DeterministicOrder(ray.train.DataConfig):  # type: ignore[misc]
    """Hands every Ray Train worker its :class:`Shard`, at every start of the worker group."""

    def __init__(self, data_cpus: float) -> None:
        super().__init__()
        self._data_cpus = data_cpus

    def configure(
        self, datasets: Any, world_size: int, worker_handles: Any, worker_node_ids: Any, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """Return a shard per worker, of the :class:`Start` in ``datasets["train"]``."""
        cpus = max(1.0, self._data_cpus / world_size)
        return [{"train": shard} for shard in make_shards(datasets["train"], world_size, cpus)]
