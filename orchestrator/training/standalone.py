"""The training loop without Ray, to profile or debug it.

``torchrun --nproc-per-node N -m orchestrator.training.standalone`` takes the settings of ``jobs/train_g.py``.
The number of processes is torchrun's, not ``train.workers``. The dataset must be there already. The job
prints metrics, and writes the same checkpoints.
"""

import dataclasses
import os

from orchestrator.checkpoints.selection import Checkpoint
from orchestrator.config.command_line import run_job
from orchestrator.config.plain import with_absolute_paths
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import open_dataset
from orchestrator.run.folder import open_run
from orchestrator.training.hooks import Hooks
from orchestrator.training.shards import TrainJob
from orchestrator.training.worker import run_process

SHOWN = ("loss/total", "train/images_per_second", "train/mfu", "train/data_wait_fraction")


def train_standalone(config: ExperimentConfig) -> None:
    """Train to ``train.images`` from the newest valid checkpoint of the run.

    Raises:
        UserError: there is no dataset, or the run has other settings.
    """
    config = with_absolute_paths(config)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    # Nothing is made of checkpoints here, so none is kept for it.
    train = dataclasses.replace(
        config.train, workers=world_size, preview_every_images=0, export_every_images=0, score_every_images=0
    )
    config = dataclasses.replace(config, train=train)
    dataset = open_dataset(config.data.path)
    if os.environ.get("RANK", "0") == "0":
        open_run(config, dataset.fingerprint)
    run_process(TrainJob(config, dataset, _printing_hooks))


def _printing_hooks() -> Hooks:
    return Hooks(on_metrics=_print_metrics, on_checkpoint=_print_checkpoint)


def _print_metrics(metrics: dict[str, float], images_seen: int) -> None:
    shown = ", ".join(f"{name} {metrics[name]:.4g}" for name in SHOWN)
    spent = ", ".join(
        f"{name.removeprefix('time/').removesuffix('_fraction')} {value:.0%}"
        for name, value in metrics.items()
        if name.startswith("time/")
    )
    print(f"{images_seen} images: {shown}; {spent}", flush=True)


def _print_checkpoint(checkpoint: Checkpoint) -> None:
    print(f"checkpoint {checkpoint.path}", flush=True)


if __name__ == "__main__":
    run_job(train_standalone, "Train without Ray, to profile or debug.", default="imagenet256_g2r")
