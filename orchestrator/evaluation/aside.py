"""What is made of checkpoints while training goes on: sample grids and exported weights."""

import logging
from collections.abc import Callable
from typing import Any

from orchestrator import storage
from orchestrator.checkpoints.selection import Checkpoint
from orchestrator.config import ExperimentConfig

PREVIEW_ROWS = 3
MAX_GRID_COLUMNS = 10
logger = logging.getLogger(__name__)


class Aside:
    """Works through checkpoints one after another, away from the training workers; a Ray actor.

    What fails here is warned about and left out: training goes on.
    """

    def __init__(self, config: ExperimentConfig, scaling_factor: float | None, tracker: Any) -> None:
        self._config = config
        self._scaling_factor = scaling_factor
        self._tracker = tracker

    def draw(self, checkpoint: Checkpoint) -> None:
        """Write ``previews/<images_seen>.png``, always from the same noise, into the run's folder and log it."""
        self._attempt("preview", self._draw, checkpoint)

    def export(self, checkpoint: Checkpoint) -> None:
        """Write the EMA weights into ``exports/<images_seen>/``."""
        self._attempt("export", self._export, checkpoint)

    def wait(self) -> None:
        """Returns when everything asked for before is done."""

    def _attempt(self, what: str, work: Callable[[Checkpoint], None], checkpoint: Checkpoint) -> None:
        try:
            work(checkpoint)
        except Exception as error:  # Whatever sampling or storage raises, it must not stop a run.
            logger.warning("There is no %s of %s: %s: %s", what, checkpoint.path, type(error).__name__, error)

    def _draw(self, checkpoint: Checkpoint) -> None:
        # Imported at the first preview, not while the training workers start.
        from orchestrator.evaluation.images import save_grid
        from orchestrator.evaluation.sampling import ImageSampler

        columns = min(self._config.model.num_classes, MAX_GRID_COLUMNS)
        sampler = ImageSampler(self._config, checkpoint, self._scaling_factor)
        images, _ = sampler.draw(list(range(PREVIEW_ROWS * columns)))
        file = f"previews/{checkpoint.images_seen}.png"
        save_grid(images, storage.join(self._config.directory, file), columns)
        self._tracker.log_image.remote("samples", file, checkpoint.images_seen)

    def _export(self, checkpoint: Checkpoint) -> None:
        from orchestrator.checkpoints.loading import export

        export(checkpoint, storage.join(self._config.directory, "exports", str(checkpoint.images_seen)))
