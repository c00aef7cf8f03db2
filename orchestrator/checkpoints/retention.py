"""Which checkpoints stay, and deleting the others."""

import difflib
import logging
import math
from collections.abc import Collection

from orchestrator.checkpoints.outputs import holds
from orchestrator.checkpoints.selection import Checkpoint, discard, marked, unfinished
from orchestrator.config.schema import ExperimentConfig
from orchestrator.config.training import TrainConfig

logger = logging.getLogger(__name__)


def prune(config: ExperimentConfig) -> None:
    """Delete checkpoints that need not stay; warn about what cannot be looked at or deleted now.

    One of which an export or a score is still to be made stays until that is done.
    """
    try:
        checkpoints = marked(config.directory)
        kept = to_keep(checkpoints, config.train)
        old = [checkpoint for checkpoint in checkpoints if checkpoint not in kept]
        _delete([checkpoint for checkpoint in old if not holds(config, checkpoint.images_seen)])
    except OSError as error:
        logger.warning("Old checkpoints in %s could not be looked for: %s", config.directory, error)


def warn_of_unknown_metric(config: TrainConfig, metrics: Collection[str]) -> None:
    """Say so where ``keep_best_by`` names none of the metrics that training logs."""
    wanted = config.keep_best_by
    if wanted is not None and wanted not in metrics:
        known = sorted(key for key in metrics if key.startswith(("loss/", "held_out/loss/", "train/")))
        nearest = difflib.get_close_matches(wanted, known, n=1, cutoff=0.0)
        logger.warning(
            "No checkpoint is kept as the best: train.keep_best_by names %s, which is not logged. "
            "Did you mean %s? There are: %s.",
            wanted, nearest[0] if nearest else "none", ", ".join(known),
        )  # fmt: skip


def discard_unfinished(run_directory: str) -> None:
    """Delete the folders without a marker; whoever wrote them is gone or gave up."""
    _delete(unfinished(run_directory))


def _delete(checkpoints: list[Checkpoint]) -> None:
    for checkpoint in checkpoints:
        try:
            discard(checkpoint)
        except OSError as error:
            logger.warning("The checkpoint %s could not be deleted: %s", checkpoint.path, error)


def to_keep(checkpoints: list[Checkpoint], config: TrainConfig) -> list[Checkpoint]:
    """The newest ``keep_checkpoints``, one every ``keep_every_images``, and the best by ``keep_best_by``."""
    kept = set(checkpoints[-config.keep_checkpoints :])
    every = config.keep_every_images
    if every:
        first: dict[int, Checkpoint] = {}
        for checkpoint in checkpoints:
            # The first one at or past each multiple stays, because a batch need not end on the multiple.
            first.setdefault(checkpoint.images_seen // every, checkpoint)
        kept |= {checkpoint for multiple, checkpoint in first.items() if multiple}
    if config.keep_best_by:
        name = config.keep_best_by
        values = {checkpoint: checkpoint.marker.metrics.get(name, math.nan) for checkpoint in checkpoints}
        measured = [checkpoint for checkpoint, value in values.items() if not math.isnan(value)]
        if measured:
            kept.add(min(measured, key=values.__getitem__))
    return sorted(kept, key=lambda checkpoint: checkpoint.images_seen)
