"""Training as a Ray Train job: worker group, data shards, restarts."""

import dataclasses
import logging
import os
import re
import time
from collections.abc import Collection
from functools import partial
from typing import Any

import ray.train
import ray.train.torch
from ray.exceptions import OutOfMemoryError, RayActorError

from orchestrator import cluster, logs, storage
from orchestrator.errors import UserError
from orchestrator.memory import memory_advice
from orchestrator.stalls import Life, call_in_time
from orchestrator.training.hooks import DivergenceError, PreemptedError
from orchestrator.training.placement import free_places
from orchestrator.training.process_group import backend_of
from orchestrator.training.shards import DeterministicOrder, TrainJob, find_start

MAX_ROLLBACKS = 2
logger = logging.getLogger(__name__)


def train(job: TrainJob, data_cpus: float, life: Life | None = None, gpus_beside: int = 0) -> None:
    """Train to ``train.images`` from the newest valid checkpoint of the run, with ``train.workers`` workers.

    Workers that fail are started again, ``train.max_restarts`` times, and fewer of them where
    ``train.min_workers`` allows it. Where gradients stop being finite, training goes back to the newest
    checkpoint and on with other noise, twice at most. Where nodes are about to be taken away, training goes
    on elsewhere from a checkpoint at that point.

    Args:
        data_cpus: CPUs that Ray Data may use for reading, over all workers.
        life: is told of the steps by the caller; without it, a group that hangs is waited for.
        gpus_beside: GPUs that others of this run hold while it trains, such as the one that scores.

    Raises:
        UserError: the workers failed more often than ``train.max_restarts``, or training diverged after every
            rollback, or nothing is heard of it any more.
    """
    rollbacks, leaving = 0, set[str]()
    while interruption := _fit_with_restarts(job, data_cpus, leaving, life, gpus_beside):
        if isinstance(interruption, PreemptedError):
            leaving |= set(interruption.nodes)
            logger.warning(
                "Nodes are about to be taken away (%s): going on elsewhere from a checkpoint at %d images.",
                ", ".join(interruption.nodes),
                interruption.images_seen,
            )
            continue
        if rollbacks == MAX_ROLLBACKS:
            raise _explained(job, interruption)
        rollbacks += 1
        logger.warning(
            "Gradients were not finite for many steps up to %d images: "
            "going back to the newest checkpoint, and on with other noise.",
            interruption.images_seen,
        )
        job = dataclasses.replace(job, attempt=interruption.attempt + 1)


def _explained(job: TrainJob, divergence: DivergenceError) -> UserError:
    train_config = job.config.train
    return UserError(
        f"Training diverges at about {divergence.images_seen} images, also from the newest checkpoint with "
        f"other noise ({MAX_ROLLBACKS} times). The weights there are sound; the steps after it are not. Look "
        "at train/gradient_norm and loss_by_noise before it in MLflow, verify the dataset (python "
        f"jobs/prepare_latents.py verify {job.config.data.path}), and start a run from an older checkpoint "
        f"(--run.name NEW --train.init_from {job.config.directory}/checkpoints/N) with a lower "
        f"--train.learning_rate (now {train_config.learning_rate:g}) or "
        f"--train.clip_gradient_norm (now {train_config.clip_gradient_norm:g})"
        + (", or in fp32." if train_config.precision == "bf16" else ".")
    )


def _fit_with_restarts(
    job: TrainJob, data_cpus: float, leaving: Collection[str], life: Life | None, gpus_beside: int
) -> DivergenceError | PreemptedError | None:
    restarts, max_restarts = 0, job.config.train.max_restarts
    while True:
        try:
            if restarts:
                free_places()
            workers = cluster.wait_for_workers(job.config, leaving, restarts > 0, gpus_beside)
            return _fit(job, data_cpus, workers, life)
        # The latter two are of Ray Train's controller, which may die as well as a worker.
        except (ray.train.TrainingFailedError, RayActorError, OutOfMemoryError) as error:
            if restarts == max_restarts:
                raise UserError(_last_word(job, error)) from error
            restarts += 1
            logger.warning(
                "Training failed and is started again from the newest checkpoint (%d of %d times). %s",
                restarts,
                max_restarts,
                _reason(error),
            )


def _fit(
    job: TrainJob, data_cpus: float, workers: int, life: Life | None
) -> DivergenceError | PreemptedError | None:
    on_gpu = job.config.train.use_gpu
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={"job": job, "data_cpus": data_cpus},
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=on_gpu),
        # By itself Ray makes a group of NCCL alone, which cannot send what is on the CPU.
        torch_config=ray.train.torch.TorchConfig(backend=backend_of(on_gpu)),
        run_config=ray.train.RunConfig(
            # Ray Train's own state is not used to resume, so every call is a Ray Train run of its own.
            name=f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{job.attempt}",
            storage_path=storage.join(job.config.directory, "ray_train"),
            # Where there is a choice of world sizes, another is chosen when one cannot be placed.
            failure_config=ray.train.FailureConfig(
                max_failures=0, controller_failure_limit=-1 if len(job.config.world_sizes) == 1 else 0
            ),
        ),
        # Ray Train calls it in its controller, so that all ranks start from one choice.
        datasets={"train": partial(find_start, job)},
        dataset_config=DeterministicOrder(data_cpus),
    )
    seconds = job.config.cluster.stall_seconds
    result = call_in_time(trainer.fit, "step of training", life, seconds) if life else trainer.fit()
    interruption: DivergenceError | PreemptedError | None = result.return_value
    return interruption


def _last_word(job: TrainJob, error: Exception) -> str:
    said = logs.last_lines(_pid_of(error) or "")
    words = "".join(f"\n    {line}" for line in said)
    return (
        f"Training failed and is not started again: it was {job.config.train.max_restarts} times "
        f"(train.max_restarts). What failed last:\n  {_reason(error)}"
        + (f"\n  Its last lines:{words}" if said else "")
        + "\nEverything up to the newest checkpoint is kept: mend the cause and run the same command again."
    )


def _reason(error: Exception) -> str:
    """Why training failed, on one line."""
    if (advice := memory_advice(str(error))) is not None:
        return advice
    if pid := _pid_of(error):
        return f"A process of training, {pid}, ended without a word: it was killed, or it crashed."
    return [line.strip() for line in str(error).splitlines() if line.strip()][-1]


def _pid_of(error: Exception) -> str | None:
    """The process that died, by Ray's description of an actor that did."""
    found = re.search(r"The actor died unexpectedly[^\n]*\n(?:\t[^\n]*\n)*?\tpid: (\d+)", str(error))
    return found[1] if found else None


def _worker(loop_config: dict[str, Any]) -> DivergenceError | PreemptedError | None:
    # Imported here, so that the job's own process need not load the network.
    from orchestrator.training.worker import run_ray_worker

    return run_ray_worker(loop_config["job"], loop_config["data_cpus"])
