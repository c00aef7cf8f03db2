"""Which rank reads what: Ray Train's data configuration over the deterministic stream."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray.data
import ray.train

from orchestrator.checkpoints.selection import newest_valid
from orchestrator.config import ExperimentConfig
from orchestrator.latents.format import LatentDataset
from orchestrator.latents.stream import StreamPlan, make_order, rank_dataset
from orchestrator.training.hooks import Hooks


@dataclass(frozen=True)
class TrainJob:
    """What every worker is told; pickled to it."""

    config: ExperimentConfig
    dataset: LatentDataset
    make_hooks: Callable[[], Hooks]
    """Called in every worker; the first rank's are used."""


def plan_stream(job: TrainJob) -> StreamPlan:
    """What is left to read, from where the newest checkpoint stands."""
    config = job.config
    newest = newest_valid(config.directory)
    order = make_order(
        job.dataset, seed=config.run.seed, lanes=config.data.lanes, window=config.data.shuffle_window
    )
    return StreamPlan(
        job.dataset, order, config.train.batch_size, newest.images_seen if newest else 0, config.train.images
    )


class DeterministicOrder(ray.train.DataConfig):  # type: ignore[misc]
    """Hands every Ray Train worker the dataset of its own lanes, from where the newest checkpoint stands.

    ``plan`` is called at every (re)start of the worker group.
    """

    def __init__(self, plan: Callable[[], StreamPlan], data_cpus: float) -> None:
        super().__init__()
        self._plan = plan
        self._data_cpus = data_cpus

    def configure(
        self, datasets: Any, world_size: int, worker_handles: Any, worker_node_ids: Any, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """One iterator per rank, each with its share of the CPUs for reading."""
        plan = self._plan()
        shards = []
        for rank in range(world_size):
            dataset = rank_dataset(plan, rank, world_size)
            limits = ray.data.ExecutionResources(cpu=max(1.0, self._data_cpus / world_size))
            dataset.context.execution_options.resource_limits = limits
            shards.append({"train": dataset.iterator()})
        return shards
