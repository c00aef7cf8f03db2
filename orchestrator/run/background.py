"""What is made of checkpoints while training goes on: sample grids, exported weights, and scores."""

import dataclasses
import json
import logging
from collections.abc import Callable
from typing import Any

from orchestrator import storage
from orchestrator.checkpoints.selection import MARKER, Checkpoint
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.sampling.grids import PREVIEW_ROWS, grid_columns

logger = logging.getLogger(__name__)


class Background:
    """Works through checkpoints one after another, away from the training workers; a Ray actor.

    What fails here is warned about and left out: training goes on. What is there already, from before a
    crash, is not made again; what a crash has cut off is.
    """

    def __init__(self, config: ExperimentConfig, dataset: LatentDataset, tracker: Any) -> None:
        self._config = config
        self._dataset = dataset
        self._tracker = tracker

    def preview(self, checkpoint: Checkpoint) -> None:
        """Write ``previews/<images_seen>.png``, always from the same noise, and log it."""
        self._attempt("preview", self._preview, checkpoint, f"previews/{checkpoint.images_seen}.png")

    def export(self, checkpoint: Checkpoint) -> None:
        """Write the EMA weights into ``exports/<images_seen>/``."""
        self._attempt("export", self._export, checkpoint, f"exports/{checkpoint.images_seen}/config.json")

    def score(self, checkpoint: Checkpoint) -> None:
        """Score ``train.score_images`` samples, write ``scores/<images_seen>.json`` and log the numbers."""
        self._attempt("score", self._score, checkpoint, f"scores/{checkpoint.images_seen}.json")

    def wait(self) -> None:
        """Return when everything that was asked for before is done."""

    def _attempt(
        self, what: str, work: Callable[[Checkpoint], None], checkpoint: Checkpoint, file: str
    ) -> None:
        try:
            if storage.is_file(storage.join(self._config.directory, file)):
                return
            if not storage.is_file(storage.join(checkpoint.path, MARKER)):
                raise FileNotFoundError("it was deleted before its turn came; raise train.keep_checkpoints")
            work(checkpoint)
        except Exception as error:  # Whatever sampling or storage raises, it must not stop a run.
            logger.warning("There is no %s of %s: %s: %s", what, checkpoint.path, type(error).__name__, error)

    def _preview(self, checkpoint: Checkpoint) -> None:
        # Imported at the first preview, not while the training workers start.
        from orchestrator.images import save_grid
        from orchestrator.sampling.sampler import ImageSampler
        from orchestrator.scoring.model_under_test import checkpoint_under_test

        columns = grid_columns(self._config)
        model = checkpoint_under_test(checkpoint, self._config).model
        sampler = ImageSampler(self._config, model, self._dataset.info.scaling_factor)
        images, _ = sampler.sample(list(range(PREVIEW_ROWS * columns)))
        file = f"previews/{checkpoint.images_seen}.png"
        save_grid(images, storage.join(self._config.directory, file), columns)
        self._tracker.log_image.remote("samples", file, checkpoint.images_seen)

    def _export(self, checkpoint: Checkpoint) -> None:
        from orchestrator.checkpoints.loading import export
        from orchestrator.scoring.model_card import write_card

        folder = storage.join(self._config.directory, "exports", str(checkpoint.images_seen))
        export(checkpoint, folder)
        write_card(folder, self._config, self._dataset.info, checkpoint.images_seen)

    def _score(self, checkpoint: Checkpoint) -> None:
        from rich.console import Console

        from orchestrator.scoring.evaluate import Evaluation, evaluate, plain
        from orchestrator.scoring.model_under_test import checkpoint_under_test

        config = dataclasses.replace(
            self._config,
            sampling=dataclasses.replace(self._config.sampling, actors=0),  # in this process
            evaluation=dataclasses.replace(
                self._config.evaluation, images=self._config.train.score_images, save=(), grid_classes=()
            ),
        )
        tested = checkpoint_under_test(checkpoint, config)
        silent = Console(quiet=True)
        scores = evaluate(Evaluation(config, tested, self._dataset, silent))
        values = {f"eval/{m.name}": m.value for m in scores.measurements}
        self._tracker.log_scores.remote(values, checkpoint.images_seen)
        self._tracker.log_tags.remote(
            {f"protocol.{m.name}": json.dumps(m.protocol) for m in scores.measurements}
        )
        file = storage.join(config.directory, "scores", f"{checkpoint.images_seen}.json")
        storage.write_bytes(file, json.dumps(plain(scores.measurements), indent=1).encode())
