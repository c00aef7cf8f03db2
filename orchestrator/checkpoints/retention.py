"""Which checkpoints stay."""

import logging

from orchestrator.checkpoints.selection import Checkpoint, discard, marked
from orchestrator.config import ExperimentConfig, TrainConfig

logger = logging.getLogger(__name__)


def prune(config: ExperimentConfig) -> None:
    """Delete what need not stay; what cannot be deleted is warned about. Folders without a marker are left alone."""
    checkpoints = marked(config.directory)
    kept = to_keep(checkpoints, config.train)
    for checkpoint in checkpoints:
        if checkpoint in kept:
            continue
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
            # The first at or past each multiple: a batch need not end on it.
            first.setdefault(checkpoint.images_seen // every, checkpoint)
        kept |= {checkpoint for multiple, checkpoint in first.items() if multiple}
    if config.keep_best_by:
        name = config.keep_best_by
        scored = [checkpoint for checkpoint in checkpoints if name in checkpoint.marker.metrics]
        if scored:
            kept.add(min(scored, key=lambda checkpoint: checkpoint.marker.metrics[name]))
    return sorted(kept, key=lambda checkpoint: checkpoint.images_seen)
