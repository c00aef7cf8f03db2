"""Pruning: Tune's scheduler stops a trial whose distance is in the worse half of those that came as far."""

import json
from collections.abc import Iterable
from typing import Any

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler

from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError
from orchestrator.run.folder import METRICS_FILE, write_text

PRUNED_FILE = "pruned.json"
REDUCTION = 2
SHOWN = 4


def scheduler(configs: list[ExperimentConfig], prune: bool) -> Any:
    """Tune's scheduler for trials of ``configs``.

    Raises:
        UserError: as :func:`refuse_unlike_scores` does.
    """
    refuse_unlike_scores(configs, prune)
    if not _is_compared(configs, prune):
        return FIFOScheduler()
    every, longest = configs[0].train.score_every_images, max(config.train.images for config in configs)
    return AsyncHyperBandScheduler(
        # Not Tune's own iterations, which do not begin anew when a trial is started again.
        time_attr="images_seen",
        metric="distance",
        mode="min",
        grace_period=every,
        reduction_factor=REDUCTION,
        # More than any trial reports. So a trial that is not pruned ends by itself, with its numbers written.
        max_t=longest + 1,
    )


def refuse_unlike_scores(configs: list[ExperimentConfig], prune: bool) -> None:
    """Refuse to compare trials by scores that do not compare.

    Raises:
        UserError: they are to be pruned, and are scored at other points, or by other numbers of samples.
    """
    cadences = {(config.train.score_every_images, config.train.score_images) for config in configs}
    if len(cadences) > 1 and _is_compared(configs, prune):
        raise UserError(
            "The suite's trials differ in train.score_every_images or train.score_images, and pruning "
            "compares scores of as many samples after as many images. Give them the same, or set --prune "
            "false. Nothing was changed."
        )


def _is_compared(configs: list[ExperimentConfig], prune: bool) -> bool:
    """Whether a trial is scored before the longest one ends, and is stopped if others are better."""
    longest = max((config.train.images for config in configs), default=0)
    return prune and any(0 < config.train.score_every_images < longest for config in configs)


class Pruned(tune.Callback):
    """Notes in a trial's folder that the scheduler stopped it, and which others it was compared with.

    The scheduler compares a trial with those that came to the same rung before it. So the order in which
    trials run has a part in what is pruned, and whoever reads the table must see it.
    """

    def __init__(self, configs: dict[str, ExperimentConfig]) -> None:
        self._configs = configs
        self._rungs: dict[int, dict[str, float]] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note in which order trials come to a rung, and with which distance."""
        if "images_seen" in result:
            name = trial.config["cell"]
            rung = self._rungs.setdefault(self._rung_of(name, int(result["images_seen"])), {})
            rung.setdefault(name, float(result["distance"]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Write the note where a trial ended before its end, so that no later call runs it again."""
        name = trial.config["cell"]
        directory, last = self._configs[name].directory, trial.last_result.get("images_seen")
        if pruned_at(directory) is not None:
            return  # It was pruned in an earlier call; in this one its scores were only reported again.
        if not storage.is_file(storage.join(directory, METRICS_FILE)) and last is not None:
            rung = self._rungs.get(self._rung_of(name, int(last)), {})
            earlier = list(rung.items())[: list(rung).index(name)] if name in rung else []
            note = {"images_seen": last, "distance": rung.get(name), "compared_with": dict(earlier)}
            write_text(directory, PRUNED_FILE, json.dumps(note, indent=1))

    def _rung_of(self, name: str, images_seen: int) -> int:
        rung = self._configs[name].train.score_every_images
        if not rung:
            return images_seen  # Nothing is scored on the way, and nothing is pruned.
        while rung * REDUCTION <= images_seen:
            rung *= REDUCTION
        return rung


def pruned_at(directory: str) -> int | None:
    """Images seen at the score that a trial was stopped for, or None if it was not."""
    note = _note_of(directory)
    return int(note["images_seen"]) if note else None


def unprune(configs: Iterable[ExperimentConfig]) -> None:
    """Have trials that were pruned go on, from their checkpoints."""
    for config in configs:
        storage.delete_file(storage.join(config.directory, PRUNED_FILE))


def why_pruned(directory: str) -> str:
    """What a pruned trial was compared with, in words."""
    note = _note_of(directory)
    compared = note.get("compared_with") if note else None
    if not note or not compared:
        return "its distance was in the worse half at a score"
    shown = [f"{name} {value:.4g}" for name, value in sorted(compared.items(), key=lambda one: one[1])]
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return (
        f"distance {note['distance']:.4g} at {note['images_seen']:,} images, above the median of the "
        f"{len(shown)} that had come as far: {', '.join(shown[:SHOWN])}{more}"
    )


def _note_of(directory: str) -> dict[str, Any]:
    file = storage.join(directory, PRUNED_FILE)
    note: dict[str, Any] = json.loads(storage.read_bytes(file)) if storage.is_file(file) else {}
    return note
