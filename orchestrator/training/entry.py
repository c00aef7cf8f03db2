"""Training as a Ray Train job: worker group, data shards, restarts."""

import os
import time
from functools import partial
from typing import Any

import ray.train
import ray.train.torch

from orchestrator import storage
from orchestrator.training.shards import DeterministicOrder, TrainJob, find_start


def train(job: TrainJob, data_cpus: float) -> None:
    """Train to ``train.images`` from the newest valid checkpoint of the run, with ``train.workers`` Ray Train workers.

    Args:
        data_cpus: CPUs that Ray Data may use for reading, over all workers.

    Raises:
        ray.train.TrainingFailedError: the workers failed more often than ``train.max_restarts``.
    """
    train_config = job.config.train
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={"job": job, "data_cpus": data_cpus},
        scaling_config=ray.train.ScalingConfig(
            num_workers=train_config.workers, use_gpu=train_config.use_gpu
        ),
        run_config=ray.train.RunConfig(
            # Ray Train's own state is not used to resume, so every call is a Ray Train run of its own.
            name=f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
            storage_path=storage.join(job.config.directory, "ray_train"),
            failure_config=ray.train.FailureConfig(max_failures=train_config.max_restarts),
        ),
        # Ray Train calls it in its controller at every (re)start, so that all ranks start from one choice.
        datasets={"train": partial(find_start, job)},
        dataset_config=DeterministicOrder(data_cpus),
    )
    trainer.fit()


def _worker(loop_config: dict[str, Any]) -> None:
    # Imported here, so that the job's own process need not load the network.
    from orchestrator.training.worker import run_ray_worker

    run_ray_worker(loop_config["job"], loop_config["data_cpus"])
