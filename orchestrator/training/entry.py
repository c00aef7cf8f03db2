"""Training as a Ray Train job: worker group, data shards, restarts."""

import os
from functools import partial
from typing import Any

import ray.train
import ray.train.torch

from orchestrator.latents.stream import rank_dataset
from orchestrator.training.shards import DeterministicOrder, TrainJob, plan_stream


def train(job: TrainJob, data_cpus: float) -> None:
    """Train to ``train.images`` from the newest valid checkpoint of the run, with ``train.workers`` Ray Train workers.

    Args:
        data_cpus: CPUs that Ray Data may use for reading, over all workers.

    Raises:
        ray.train.TrainingFailedError: the workers failed more often than ``train.max_restarts``.
    """
    train_config = job.config.train
    plan = partial(plan_stream, job)
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(
            num_workers=train_config.workers, use_gpu=train_config.use_gpu
        ),
        run_config=ray.train.RunConfig(
            # Ray Train's own state is not used to resume, so every call is a Ray Train run of its own.
            name=f"from-{plan().images_seen}-{os.getpid()}",
            storage_path=str(job.config.directory / "ray_train"),
            failure_config=ray.train.FailureConfig(max_failures=train_config.max_restarts),
        ),
        datasets={"train": lambda: rank_dataset(plan(), rank=0, world_size=1)},
        dataset_config=DeterministicOrder(plan, data_cpus),
    )
    trainer.fit()


def _worker(loop_config: dict[str, Any]) -> None:
    # Imported here, so that the job's own process need not load the network.
    from orchestrator.training.worker import run_worker

    run_worker(loop_config["job"])
