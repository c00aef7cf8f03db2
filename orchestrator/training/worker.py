"""One rank of training: in a Ray Train worker, in a process of torchrun, or in a process alone."""

import dataclasses
import logging
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any

import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from orchestrator.checkpoints.loading import load
from orchestrator.data.stream import batches, read_directly
from orchestrator.precision import refuse_tf32
from orchestrator.stalls import InTime, Watchdog
from orchestrator.training.hooks import DivergenceError, PreemptedError
from orchestrator.training.loop import run_loop
from orchestrator.training.parallelize import make_mesh
from orchestrator.training.process_group import backend_of, of_this_process
from orchestrator.training.shards import Shard, Start, TrainJob, find_start, make_shards
from orchestrator.training.state import TrainState, fresh_state


def run_ray_worker(job: TrainJob, data_cpus: float) -> DivergenceError | PreemptedError | None:
    """Train in a Ray Train worker, or in the calling process where ``train.workers`` is 0.

    An interruption that calls for other workers is returned, not raised. Ray Train would count it as a
    failure, and start the same workers again.
    """
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    shard = ray.train.get_dataset_shard("train")
    if isinstance(shard, Start):
        # Ray Train configures no data where it starts no workers.
        (shard,) = make_shards(shard, 1, data_cpus)
    device = ray.train.torch.get_device() if job.config.train.use_gpu else torch.device("cpu")
    per_node = ray.train.get_context().get_local_world_size()
    make_hooks, stall_seconds = job.make_hooks, job.config.cluster.stall_seconds
    # In the job's own process it would end the job.
    watchdog = Watchdog(stall_seconds) if job.config.train.workers else None
    job = dataclasses.replace(
        job,
        make_hooks=lambda: dataclasses.replace(
            make_hooks(), leaving_nodes=_leaving_nodes, on_step=watchdog.step if watchdog else lambda _: None
        ),
    )
    try:
        with watchdog or nullcontext(), _reading(shard, stall_seconds) as tables:
            run_rank(job, ray.get(shard.start), tables, device, per_node)
    except (DivergenceError, PreemptedError) as interruption:
        return interruption.with_traceback(None)
    return None


def _leaving_nodes() -> list[str]:
    """Nodes with workers that are being drained, for example because of a preemption.

    All ranks must ask together.
    """
    preemption = ray.train.get_preemption_info()
    return preemption.preempted_node_ids if preemption is not None else []


def run_process(job: TrainJob) -> TrainState:
    """Train without Ray, alone or as one of the processes that torchrun started.

    The process reads the dataset's files itself.
    """
    logging.basicConfig(level=logging.WARNING)
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if job.config.train.use_gpu:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    is_launched = "WORLD_SIZE" in os.environ and not dist.is_initialized()
    if is_launched:
        on_gpu = device.type == "cuda"
        dist.init_process_group(backend_of(on_gpu), device_id=device if on_gpu else None)
    try:
        start = _same_everywhere(job)
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        return run_rank(job, start, read_directly(start.plan, rank, world_size), device, per_node)
    finally:
        if is_launched:
            dist.destroy_process_group()


def run_rank(
    job: TrainJob, start: Start, tables: Iterator[pa.Table], device: torch.device, workers_per_node: int
) -> TrainState:
    """Train from ``start`` to ``train.images``.

    Where there is no process group, one of a single process is made.
    """
    config = job.config
    refuse_tf32()
    if not config.train.use_gpu:
        torch.set_num_threads(config.train.threads_per_worker)
    with of_this_process(device):
        rank, world_size = dist.get_rank(), dist.get_world_size()
        mesh = make_mesh(config.train, device.type, world_size, workers_per_node)
        state = fresh_state(config, mesh, device, resumes=start.checkpoint is not None)
        if start.checkpoint is not None:
            saved = state.state_dict()
            load(start.checkpoint, saved)
            state.load_state_dict(saved)
        hooks = job.make_hooks()
        if job.attempt > state.attempt:
            state.attempt = job.attempt
            if rank == 0:
                hooks.on_rewound(state.images_seen)
        stream = batches(start.plan, tables, rank, world_size)
        run_loop(config, job.dataset.info, state, stream, hooks, start.held_out)
        return state


def _same_everywhere(job: TrainJob) -> Start:
    """Where the first rank chose to start; the same on all ranks."""
    if not dist.is_initialized():
        return find_start(job)
    choice: list[Start | None] = [find_start(job) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(choice, src=0)
    assert choice[0] is not None
    return choice[0]


@contextmanager
def _reading(shard: Shard, stall_seconds: float) -> Iterator[Iterator[pa.Table]]:
    """A shard's Arrow blocks, in order, some read ahead.

    Reading begins at once, while the network is still being built.
    """
    # AdamW loads torch._dynamo, which takes the module _operator away from all threads for a moment
    # (torch/_dynamo/polyfills/operator.py). Ray Data's thread could not pickle its readers then.
    import torch._dynamo  # noqa: F401

    blocks: Any = iter(shard.data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2))
    with closing(InTime(blocks, "block of data", stall_seconds)) as tables:
        yield tables
