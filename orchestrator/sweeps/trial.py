"""A trial: the very code of jobs/train_g.py, run by Ray Tune, which hears of every score during training."""

import json
import re
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from rich.console import Console

from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.run.experiment import run_experiment
from orchestrator.run.folder import read_metrics
from orchestrator.scoring.protocol import is_distance
from orchestrator.stalls import StalledError
from orchestrator.sweeps.pruning import pruned_at
from orchestrator.sweeps.watch import SignsOfLife
from orchestrator.tracking.journal import FollowedJournal, read_records

POLL_SECONDS = 1.0
LOSS = "loss/total"


@dataclass(frozen=True)
class Trials:
    """What all trials of a sweep share."""

    configs: dict[str, ExperimentConfig]
    """Name of a cell -> its config."""
    parent: str
    """The sweep's folder."""
    side_by_side: int
    """How many trials share the cluster."""


def run_trial(point: dict[str, Any], trials: Trials) -> None:
    """Run or continue the experiment of ``point["cell"]``.

    It reports images_seen, distance and loss at every score. What was scored before is reported again, so
    that a scheduler knows it after a restart. A trial that was pruned stays pruned.
    """
    config = trials.configs[point["cell"]]
    pruned = pruned_at(config.directory)
    # A scheduler may stop a trial at any report, so the last one comes when the final numbers are there.
    last = config.train.images - 1 if pruned is None else pruned
    reported: set[int] = set()

    journal = FollowedJournal(config.directory, LOSS)

    def report() -> None:
        for images_seen in sorted(_scored_at(config.directory) - reported):
            if images_seen <= last:
                reported.add(images_seen)
                _report(journal, images_seen, _score_at(config.directory, images_seen))

    report()
    if pruned is not None:
        return
    # A process of its own, because Ray Train's contexts cannot be had in Tune's. What is started here would
    # also look for room in the little that Tune has set apart for a trial's driver. The process ends with
    # this one.
    experiment = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy="DEFAULT")(_run)
    running = experiment.remote(config, trials.parent, trials.side_by_side)
    signs = SignsOfLife(config)
    while not ray.wait([running], timeout=POLL_SECONDS)[0]:
        report()
        try:
            signs.check()
        except StalledError:
            ray.cancel(running, force=True)
            raise  # Tune starts the trial again.
    ray.get(running)
    report()
    _report(journal, config.train.images, final_distance(config.directory))


def _run(config: ExperimentConfig, parent: str, side_by_side: int) -> None:
    run_experiment(config, parent, side_by_side, Console(quiet=True))


def _report(journal: FollowedJournal, images_seen: int, distance: float) -> None:
    journal.read()
    before = [loss for images, loss in losses_in(journal.records) if images <= images_seen]
    tune.report(
        {"images_seen": images_seen, "distance": distance, "loss": before[-1] if before else float("nan")}
    )


def scores_of(directory: str) -> list[tuple[int, float]]:
    """(images seen, distance) of the scores made during a run's training.

    A trial may have gone on for a while before it learned that it is pruned. The score at which it was pruned
    is the one that others were compared with, and the last that counts.
    """
    pruned = pruned_at(directory)
    counted = (n for n in sorted(_scored_at(directory)) if pruned is None or n <= pruned)
    return [(images_seen, _score_at(directory, images_seen)) for images_seen in counted]


def newest_score(directory: str) -> tuple[int, float] | None:
    """The last of :func:`scores_of`, without reading those before it."""
    pruned = pruned_at(directory)
    counted = [n for n in _scored_at(directory) if pruned is None or n <= pruned]
    return (max(counted), _score_at(directory, max(counted))) if counted else None


def _scored_at(directory: str) -> set[int]:
    names = storage.sizes(storage.join(directory, "scores"))
    return {int(name.removesuffix(".json")) for name in names if re.fullmatch(r"\d+\.json", name)}


def _score_at(directory: str, images_seen: int) -> float:
    return distance_of(
        json.loads(storage.read_bytes(storage.join(directory, "scores", f"{images_seen}.json")))
    )


def final_distance(directory: str) -> float:
    """The distance of a finished run."""
    return distance_of(read_metrics(directory)["metrics"])


def distance_of(scores: dict[str, Any]) -> float:
    """The metric that an ablation makes small: the samples' distance by the first extractor."""
    return float(next(entry["value"] for name, entry in scores.items() if is_distance(name)))


def losses_of(directory: str) -> list[tuple[int, float]]:
    """(images seen, training loss) of a run, by its journal."""
    return losses_in(read_records(directory, LOSS))


def losses_in(records: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """(images seen, training loss) in a journal's records."""
    return [(r["step"], r["values"][LOSS]) for r in records if r["kind"] == "metrics" and LOSS in r["values"]]
