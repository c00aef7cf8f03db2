"""What runs in every Ray Train worker."""

import logging
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray.data
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from orchestrator.checkpoints.selection import newest_valid
from orchestrator.checkpoints.storage import load
from orchestrator.latents.stream import batches
from orchestrator.training.loop import run_loop
from orchestrator.training.shards import TrainJob, plan_stream
from orchestrator.training.state import fresh_state


def run_worker(job: TrainJob) -> None:
    """Train from the newest valid checkpoint; where ``train.workers`` is 0, in the calling process."""
    config = job.config
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
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
        plan = plan_stream(job)
        stream = batches(plan, _tables(ray.train.get_dataset_shard("train")), rank, world_size)
        run_loop(config, job.dataset.info, state, stream, job.make_hooks())
    finally:
        if alone:
            dist.destroy_process_group()


def _tables(shard: Any) -> Iterator[pa.Table]:
    """A Ray Data shard's Arrow blocks, in order, one or more read ahead."""
    iterator = shard if isinstance(shard, ray.data.DataIterator) else shard.iterator()
    yield from iterator.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)
