"""What is made of checkpoints while training goes on: sample grids, exported weights, and scores."""

import dataclasses
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from orchestrator import storage
from orchestrator.checkpoints.outputs import FILES, Output, failure_of, file_of
from orchestrator.checkpoints.retention import to_keep
from orchestrator.checkpoints.selection import MARKER, Checkpoint, marked
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
        self._is_late = False

    def preview(self, checkpoint: Checkpoint) -> None:
        """Write ``previews/<images_seen>.png``, always from the same noise, and log it.

        It is left out where the work is so late that only exports and scores still hold the checkpoint.
        """
        self._attempt("preview", self._preview, checkpoint)

    def export(self, checkpoint: Checkpoint) -> None:
        """Write the EMA weights into ``exports/<images_seen>/``."""
        self._attempt("export", self._export, checkpoint)

    def score(self, checkpoint: Checkpoint) -> None:
        """Score ``train.score_images`` samples, write ``scores/<images_seen>.json`` and log the numbers."""
        self._attempt("score", self._score, checkpoint)

    def wait(self) -> None:
        """Return when everything that was asked for before is done."""

    def _attempt(self, kind: Output, work: Callable[[Checkpoint], None], checkpoint: Checkpoint) -> None:
        directory, images_seen = self._config.directory, checkpoint.images_seen
        try:
            if storage.is_file(file_of(directory, kind, images_seen)):
                return
            if kind == "preview" and self._comes_late(checkpoint):
                return
            if not storage.is_file(storage.join(checkpoint.path, MARKER)):
                raise FileNotFoundError("its checkpoint is gone")
            work(checkpoint)
            storage.delete_file(failure_of(directory, kind, images_seen))
        except Exception as error:  # Whatever sampling or storage raises, it must not stop a run.
            problem = f"{type(error).__name__}: {error}"
            logger.warning("There is no %s of %s: %s", kind, checkpoint.path, problem)
            with suppress(OSError):
                storage.write_bytes(failure_of(directory, kind, images_seen), problem.encode())

    def _comes_late(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint would be gone by now, were nothing else to be made of it. It is said once."""
        checkpoints, train = marked(self._config.directory), self._config.train
        is_late = checkpoint not in to_keep(checkpoints, train)
        if is_late and not self._is_late:
            self._is_late = True
            behind = sum(other.images_seen > checkpoint.images_seen for other in checkpoints)
            logger.warning(
                "What is made of checkpoints is %d checkpoints behind training. Those to export or score are "
                "kept until then, and previews are left out meanwhile. Raise the cadences "
                "train.score_every_images and preview_every_images, or lower train.score_images.",
                behind,
            )
        return is_late

    def _preview(self, checkpoint: Checkpoint) -> None:
        # Imported at the first preview, not while the training workers start.
        from orchestrator.images import save_grid
        from orchestrator.sampling.sampler import ImageSampler
        from orchestrator.scoring.model_under_test import checkpoint_under_test

        columns = grid_columns(self._config)
        model = checkpoint_under_test(checkpoint, self._config).model
        sampler = ImageSampler(self._config, model, self._dataset.info.scaling_factor)
        images, _ = sampler.sample(list(range(PREVIEW_ROWS * columns)))
        file = FILES["preview"].format(checkpoint.images_seen)
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
        file = file_of(config.directory, "score", checkpoint.images_seen)
        storage.write_bytes(file, json.dumps(plain(scores.measurements), indent=1).encode())
