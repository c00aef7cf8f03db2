"""Which folder a sweep may go on in, and what of it is over."""

import dataclasses
import json

from orchestrator import storage
from orchestrator.config.plain import flat
from orchestrator.config.saved import CONFIG_FILE, read_plain
from orchestrator.config.schema import ExperimentConfig
from orchestrator.config.training import TrainConfig
from orchestrator.errors import UserError
from orchestrator.run.folder import METRICS_FILE, SUITE_FILE, write_text
from orchestrator.sweeps.pruning import PRUNED_FILE
from orchestrator.sweeps.suites import Suite


def is_over(directory: str) -> bool:
    """Whether a trial is finished or pruned, so that it needs no more of the cluster."""
    return not {METRICS_FILE, PRUNED_FILE}.isdisjoint(storage.sizes(directory))


def refuse_a_run(config: ExperimentConfig) -> None:
    """Refuse a run's own folder: the sweep's journal would be the run's."""
    if storage.is_file(storage.join(config.directory, CONFIG_FILE)):
        raise UserError(
            f"{config.directory} is the folder of a run. Give the sweep another --run.name. Nothing was "
            "changed."
        )


def refuse_other_suite(directory: str, suite: Suite) -> None:
    """Refuse a folder that belongs to another suite.

    Each trial's own run decides what else may change when a sweep goes on.
    """
    path = storage.join(directory, SUITE_FILE)
    now = json.dumps(dataclasses.asdict(suite), indent=1)
    if storage.is_file(path) and storage.read_bytes(path).decode() != now:
        raise UserError(
            f"The sweep {directory} was started with another suite, kept in its {SUITE_FILE}. "
            "Give this one its own --run.name. Nothing was changed."
        )
    write_text(directory, SUITE_FILE, now)


def refuse_other_lengths(trials: dict[str, ExperimentConfig]) -> None:
    """Refuse to mix trials, or scores, of different lengths in one table.

    A run may be made longer. In a sweep, the trials that are finished would stay as they are.
    """
    for name, config in trials.items():
        if not storage.is_file(storage.join(config.directory, CONFIG_FILE)):
            continue
        before = flat(read_plain(config.directory))
        for key in ("images", "score_images", "score_every_images"):
            then = before.get(f"train.{key}", getattr(TrainConfig, key, None))
            now = getattr(config.train, key)
            if then != now:
                raise UserError(
                    f"The sweep's trial {name} was begun with train.{key} {then}, and it is {now} now. Give "
                    "another length its own sweep with --run.name, or use the same to continue this one. "
                    "Nothing was changed."
                )
