"""What samples will be compared with, made while training goes on, of processor time that is left over."""

import dataclasses
import logging
import os
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from rich.console import Console

from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.stalls import Patience

MOST_IMAGES = 20_000
"""Of a larger dataset, the pools of actors that come after training make it."""
SOON_SECONDS = 2.0
logger = logging.getLogger(__name__)


def is_small(dataset: LatentDataset) -> bool:
    """Whether one process may look at all images of the dataset, which are pixels."""
    return dataset.info.kind == "pixels" and dataset.info.num_images <= MOST_IMAGES


def is_made_early(config: ExperimentConfig, dataset: LatentDataset) -> bool:
    """Whether the statistics of real images, and their classifier, are made beside training."""
    evaluation = config.evaluation
    on_cpus = config.sampling.actors > 0 and not evaluation.extractor_use_gpu
    return is_small(dataset) and on_cpus and evaluation.reference is None


def start_making(config: ExperimentConfig, dataset: LatentDataset) -> Any:
    """Start a process of the lowest priority that makes them; returns Ray's reference to its end.

    What it has made is found by the evaluation, which makes the rest.
    """
    return ray.remote(num_cpus=0, max_retries=0)(_make).remote(config, dataset)


def _make(config: ExperimentConfig, dataset: LatentDataset) -> None:
    # Ray runs its workers at a low priority already. Linux gives this class what they leave.
    with suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    from orchestrator.scoring.evaluate import make_judges

    # In this process alone: actors would take the CPUs of training.
    sampling = dataclasses.replace(config.sampling, actors=0, use_gpu=False)
    try:
        make_judges(dataclasses.replace(config, sampling=sampling), dataset, Console(quiet=True))
    except Exception as error:  # The evaluation meets it again, and says it.
        logger.warning("What samples are compared with could not be made beside training: %s", error)


def wait_for(making: Any, console: Console, stall_seconds: float) -> None:
    """Wait until the process of :func:`start_making` has ended, by itself or not."""
    if not ray.wait([making], timeout=SOON_SECONDS)[0]:
        console.print("Waiting for the statistics of the real images.")
    try:
        ray.get(making, timeout=Patience(stall_seconds).longest)
    except GetTimeoutError:
        ray.cancel(making, force=True)
    except RayError as error:
        logger.warning("The process that made statistics of the real images ended: %s", error)
