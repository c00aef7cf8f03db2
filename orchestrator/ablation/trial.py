"""A trial: the very code of jobs/train_g.py, run by Ray Tune, which hears of every score beside training."""

import json
import re
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from rich.console import Console

from orchestrator import storage
from orchestrator.config import ExperimentConfig
from orchestrator.experiment import run_experiment
from orchestrator.runs import read_metrics
from orchestrator.tracking.journal import JOURNAL_FILE

PRUNED_FILE = "pruned.json"
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Trials:
    """What all trials of a sweep share."""

    configs: dict[str, ExperimentConfig]
    """Name of a cell -> its config."""
    parent: str
    """Folder of the sweep."""
    side_by_side: int
    """How many share the cluster."""


def run_trial(point: dict[str, Any], trials: Trials) -> None:
    """Run or continue the experiment of ``point["cell"]``; reports images_seen, distance and loss at every score.

    What was scored before is reported again, so that a scheduler knows it after a restart. A trial that was pruned stays so.
    """
    config = trials.configs[point["cell"]]
    reported: set[int] = set()

    def report() -> None:
        for images_seen, distance in scores_of(config.directory):
            # The last report of all comes when the numbers at the end are there: a scheduler may stop a trial at any report.
            if images_seen not in reported and images_seen < config.train.images:
                reported.add(images_seen)
                _report(config, images_seen, distance)

    report()
    if storage.is_file(storage.join(config.directory, PRUNED_FILE)):
        return
    # A process of its own: Ray Train's contexts are not to be had in Tune's, and what is started here would look for room in
    # the little that Tune has set apart for a trial's driver. It ends with this one.
    experiment = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy="DEFAULT")(_run)
    running = experiment.remote(config, trials.parent, trials.side_by_side)
    while not ray.wait([running], timeout=POLL_SECONDS)[0]:
        report()
    ray.get(running)
    report()
    _report(config, config.train.images, final_distance(config.directory))


def _run(config: ExperimentConfig, parent: str, side_by_side: int) -> None:
    run_experiment(config, parent, side_by_side, Console(quiet=True))


def _report(config: ExperimentConfig, images_seen: int, distance: float) -> None:
    before = [loss for images, loss in losses_of(config.directory) if images <= images_seen]
    tune.report(
        {"images_seen": images_seen, "distance": distance, "loss": before[-1] if before else float("nan")}
    )


def scores_of(directory: str) -> list[tuple[int, float]]:
    """(images seen, distance) of the scores made beside a run's training."""
    folder = storage.join(directory, "scores")
    found = []
    for name in storage.sizes(folder):
        if re.fullmatch(r"\d+\.json", name):
            scores = json.loads(storage.read_bytes(storage.join(folder, name)))
            found.append((int(name.removesuffix(".json")), distance_of(scores)))
    return sorted(found)


def final_distance(directory: str) -> float:
    """Distance of a finished run."""
    return distance_of(read_metrics(directory)["metrics"])


def distance_of(scores: dict[str, Any]) -> float:
    """Of metrics by name, what an ablation makes small: FID of the samples, or the embedded extractor's distance."""
    return float(
        next(entry["value"] for name, entry in scores.items() if re.fullmatch(r"f(i)?d\d+k?_.*_ema", name))
    )


def losses_of(directory: str) -> list[tuple[int, float]]:
    """(images seen, training loss) of a run, as its journal has them."""
    path = storage.join(directory, JOURNAL_FILE)
    if not storage.is_file(path):
        return []
    complete = storage.read_bytes(path).rpartition(b"\n")[0].splitlines()
    records = (json.loads(line) for line in complete)
    return [
        (record["step"], record["values"]["loss/total"])
        for record in records
        if record["kind"] == "metrics" and "loss/total" in record["values"]
    ]
