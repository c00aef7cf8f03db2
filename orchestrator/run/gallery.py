"""The pictures at the end of a run: what training brought, coarse to fine, and what is nearest to samples."""

import logging
from collections.abc import Callable
from typing import Any

from dimr_model import DiMR
from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.run.beside_training import is_small
from orchestrator.run.folder import BRANCHES_FILE, FILM_FILE, NEAREST_FILE, STRIP_FILE
from orchestrator.sampling.grids import grid_columns
from orchestrator.stalls import answer

logger = logging.getLogger(__name__)


def write_gallery(
    config: ExperimentConfig,
    dataset: LatentDataset,
    model: DiMR,
    samples: str,
    images_seen: int,
    tracker: Any,
) -> None:
    """Write the pictures that there can be into the run's folder, and log them.

    ``progress.png`` and ``progress.webp`` are made of the previews; a film takes two. ``branches.png`` is of
    networks of pixels, and so is ``nearest.png``, where the dataset is small. What fails is warned about and
    left out: no run ends for want of a picture.

    Args:
        samples: file of the grid of the first samples.
    """

    def write(file: str, make: Callable[[], bytes]) -> None:
        try:
            storage.write_bytes(storage.join(config.directory, file), make())
        except Exception as error:  # Whatever sampling or storage raises, the scores must still be logged.
            logger.warning("There is no %s: %s: %s", file, type(error).__name__, error)
            return
        if file.endswith(".png"):
            tracker.log_image.remote(file.removesuffix(".png"), file, images_seen)
        else:
            tracker.log_artifact.remote(file)

    from orchestrator.sampling.nearest import nearest_sheet
    from orchestrator.sampling.progress import film, film_strip, read_previews

    previews, columns = read_previews(config.directory), grid_columns(config)
    if previews:
        write(STRIP_FILE, lambda: film_strip(previews, columns))
    if len(previews) > 1:
        write(FILM_FILE, lambda: film(previews, columns))
    if config.sampling.vae is None:
        write(BRANCHES_FILE, lambda: _branches(config, dataset, model))
    if is_small(dataset):
        write(NEAREST_FILE, lambda: nearest_sheet(storage.read_bytes(samples), columns, dataset))


def _branches(config: ExperimentConfig, dataset: LatentDataset, model: DiMR) -> bytes:
    """The sheet of all branches, made here; where the GPUs are elsewhere, on one of them."""
    from orchestrator.sampling.branches import branches_sheet, shown_labels

    labels, names = shown_labels(config.model.num_classes), dataset.info.class_names
    if config.sampling.actors == 0 or not config.sampling.use_gpu:
        return branches_sheet(config, model, labels, names)
    import ray

    from orchestrator.sampling.sent_model import SentModel

    def draw(sent: SentModel) -> bytes:
        return branches_sheet(config, sent.load(), labels, names)

    drawn = ray.remote(num_gpus=1)(draw).remote(SentModel.of(model))
    return bytes(answer(drawn, BRANCHES_FILE, config.cluster.stall_seconds))
