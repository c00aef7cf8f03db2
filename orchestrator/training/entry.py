"""Training as a Ray Train job: worker group, data shards, restarts."""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from orchestrator.checkpoint import load, newest_valid
from orchestrator.config import ExperimentConfig
from orchestrator.latents.format import LatentDataset
from orchestrator.latents.stream import DeterministicOrder, StreamPlan, batches, make_order, rank_dataset
from orchestrator.training.loop import Hooks, run_loop
from orchestrator.training.state import fresh_state


@dataclass(frozen=True)
class TrainJob:
    """What every worker is told; pickled to it."""

    config: ExperimentConfig
    dataset: LatentDataset
    make_hooks: Callable[[], Hooks]
    """Called on the first rank."""


def train(job: TrainJob, data_cpus: float) -> None:
    """Train to ``train.images`` from the newest valid checkpoint of the run, with ``train.workers`` Ray Train workers.

    Args:
        data_cpus: CPUs that Ray Data may use for reading, over all workers.

    Raises:
        ray.train.TrainingFailedError: the workers failed more often than ``train.max_restarts``.
    """
    train_config = job.config.train
    # Ray Train's own state of the run is not used to resume, so every call is a Ray Train run of its own.
    storage = job.config.directory / "ray_train"
    plan = partial(_plan, job)
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(num_workers=train_config.workers, use_gpu=train_config.use_gpu),
        run_config=ray.train.RunConfig(
            name=f"from-{plan().images_seen}-{os.getpid()}",
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=train_config.max_restarts),
        ),
        datasets={"train": lambda: rank_dataset(plan(), rank=0, world_size=1)},
        dataset_config=DeterministicOrder(plan, data_cpus),
    )
    trainer.fit()


def _plan(job: TrainJob) -> StreamPlan:
    """What is left to read, from where the newest checkpoint stands."""
    config = job.config
    newest = newest_valid(config.directory)
    order = make_order(
        job.dataset, seed=config.run.seed, lanes=config.data.lanes, window=config.data.shuffle_window
    )
    return StreamPlan(job.dataset, order, config.train.batch_size, newest.images_seen if newest else 0, config.train.images)


def _worker(loop_config: dict[str, Any]) -> None:
    """What runs in every Ray Train worker (and in the calling process where ``train.workers`` is 0)."""
    job: TrainJob = loop_config["job"]
    config = job.config
    logging.basicConfig(level=logging.WARNING)
    if not config.train.use_gpu:
        torch.set_num_threads(config.train.threads_per_worker)
    alone = not dist.is_initialized()
    if alone:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        rank, world_size = dist.get_rank(), dist.get_world_size()
        device = ray.train.torch.get_device() if config.train.use_gpu else torch.device("cpu")
        state = fresh_state(config, init_device_mesh(device.type, (world_size,)), device)
        checkpoint = newest_valid(config.directory)
        if checkpoint is not None:
            saved = state.state_dict()
            load(checkpoint, saved)
            state.load_state_dict(saved)
        plan = _plan(job)
        stream = batches(plan, _tables(ray.train.get_dataset_shard("train")), rank, world_size)
        run_loop(config, job.dataset.info, state, stream, job.make_hooks())
    finally:
        if alone:
            dist.destroy_process_group()


def _tables(shard: Any) -> Iterator[pa.Table]:
    """A Ray Data shard's Arrow blocks, in order, one or more read ahead."""
    iterator = shard if isinstance(shard, ray.data.DataIterator) else shard.iterator()
    yield from iterator.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)
