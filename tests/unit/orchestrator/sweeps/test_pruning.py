"""A pruned trial's note says what it was compared with, which depends on the order of the trials."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError
from orchestrator.run.folder import METRICS_FILE, write_text
from orchestrator.sweeps.pruning import (
    Pruned,
    pruned_at,
    refuse_unlike_scores,
    scheduler,
    unprune,
    why_pruned,
)
from tests.configs import tiny


def configs(root: Path, *names: str) -> dict[str, ExperimentConfig]:
    train = {"images": 256, "score_every_images": 32}
    return {name: tiny(root, "data", run={"name": name, "root": str(root)}, train=train) for name in names}


def trial(name: str, images_seen: int, distance: float) -> Any:
    result = {"images_seen": images_seen, "distance": distance}
    return SimpleNamespace(trial_id=name, config={"cell": name}, last_result=result)


def report(told: Pruned, one: Any) -> None:
    told.on_trial_result(0, [], one, one.last_result)


def test_the_note_names_those_that_came_to_the_rung_before(tmp_path: Path) -> None:
    trials = configs(tmp_path, "first", "second", "third")
    told, asha = Pruned(trials), scheduler(list(trials.values()), prune=True)
    arrivals = [("first", 10.0), ("second", 30.0), ("third", 25.0)]
    decisions = []
    for name, distance in arrivals:
        one = trial(name, 40, distance)
        asha.on_trial_add(None, one)
        report(told, one)
        decisions.append(asha.on_trial_result(None, one, one.last_result))
        if decisions[-1] == TrialScheduler.STOP:
            told.on_trial_complete(0, [], one)
    assert isinstance(asha, AsyncHyperBandScheduler)
    assert decisions == [TrialScheduler.CONTINUE, TrialScheduler.STOP, TrialScheduler.STOP]
    assert pruned_at(trials["first"].directory) is None
    assert pruned_at(trials["third"].directory) == 40
    assert why_pruned(trials["second"].directory) == (
        "distance 30 at 40 images, above the median of the 1 that had come as far: first 10"
    )
    assert why_pruned(trials["third"].directory).endswith(
        "of the 2 that had come as far: first 10, second 30"
    )


def test_rungs_are_the_scheduler_s(tmp_path: Path) -> None:
    trials = configs(tmp_path, "first", "second")
    told = Pruned(trials)
    for images_seen in (32, 64, 96):
        report(told, trial("first", images_seen, float(images_seen)))
    one = trial("second", 64, 100.0)
    report(told, one)
    told.on_trial_complete(0, [], one)
    assert "first 64" in why_pruned(trials["second"].directory)


def test_a_finished_trial_and_one_that_was_pruned_before_keep_what_they_have(tmp_path: Path) -> None:
    trials = configs(tmp_path, "finished", "pruned")
    told = Pruned(trials)
    write_text(trials["finished"].directory, METRICS_FILE, "{}")
    told.on_trial_complete(0, [], trial("finished", 256, 1.0))
    assert pruned_at(trials["finished"].directory) is None
    write_text(trials["pruned"].directory, "pruned.json", '{"images_seen": 32}')  # As older code wrote it.
    told.on_trial_complete(0, [], trial("pruned", 64, 1.0))
    assert pruned_at(trials["pruned"].directory) == 32
    assert why_pruned(trials["pruned"].directory) == "its distance was in the worse half at a score"


def test_without_scores_during_training_nothing_is_pruned(tmp_path: Path) -> None:
    assert isinstance(scheduler([tiny(tmp_path, "data")], prune=True), FIFOScheduler)
    (scored,) = configs(tmp_path, "scored").values()
    assert isinstance(scheduler([scored], prune=False), FIFOScheduler)


def test_trials_that_are_scored_at_their_end_alone_are_not_pruned(tmp_path: Path) -> None:
    train = {"images": 256, "score_every_images": 0}
    config = tiny(tmp_path, "data", run={"name": "only", "root": str(tmp_path)}, train=train)
    told, one = Pruned({"only": config}), trial("only", 256, 10.0)
    assert isinstance(scheduler([config], prune=True), FIFOScheduler)
    report(told, one)
    write_text(config.directory, METRICS_FILE, "{}")
    told.on_trial_complete(0, [], one)
    assert pruned_at(config.directory) is None


def test_longer_trials_are_not_pruned_where_shorter_ones_end(tmp_path: Path) -> None:
    short, long = configs(tmp_path, "short", "long").values()
    long = dataclasses.replace(long, train=dataclasses.replace(long.train, images=2 * short.train.images))
    asha, one = scheduler([short, long], prune=True), trial("long", short.train.images + 16, 1.0)
    asha.on_trial_add(None, one)
    assert asha.on_trial_result(None, one, one.last_result) == TrialScheduler.CONTINUE


def test_scores_that_cannot_be_compared_are_refused_where_trials_are_pruned(tmp_path: Path) -> None:
    one, other = configs(tmp_path, "one", "other").values()
    other = dataclasses.replace(other, train=dataclasses.replace(other.train, score_images=24))
    for refuses in (scheduler, refuse_unlike_scores):
        with pytest.raises(UserError, match="--prune false"):
            refuses([one, other], prune=True)
    assert isinstance(scheduler([one, other], prune=False), FIFOScheduler)


def test_pruned_trials_go_on_when_nothing_is_to_be_pruned(tmp_path: Path) -> None:
    (one,) = configs(tmp_path, "one").values()
    write_text(one.directory, "pruned.json", '{"images_seen": 32}')
    unprune([one])
    assert pruned_at(one.directory) is None
