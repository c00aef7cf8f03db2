"""Sampling actors: images by index, the same whoever draws them."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dimr_model.diffusion import NoiseSchedule
from dimr_model.sampling import balanced_labels, initial_noise, sample
from orchestrator.checkpoint import Checkpoint, load_ema
from orchestrator.config import ExperimentConfig
from orchestrator.evaluation.images import Decoder, save_grid

PREVIEW_ROWS = 3
MAX_GRID_COLUMNS = 10


class ImageSampler:
    """Draws images with a checkpoint's EMA weights; the class of a Ray Data actor pool, and usable by itself."""

    def __init__(
        self, config: ExperimentConfig, checkpoint: Checkpoint, scaling_factor: float | None, threads: int = 1
    ) -> None:
        use_gpu = config.sampling.use_gpu and torch.cuda.is_available()
        self._device = torch.device("cuda" if use_gpu else "cpu")
        if not use_gpu:
            torch.set_num_threads(threads)
        self._config = config
        self._model = load_ema(checkpoint).to(self._device)
        self._decoder = Decoder(config.sampling.vae, scaling_factor, self._device)

    def draw(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """(uint8 images ``[N, C, H, W]``, labels ``[N]``); image i depends on (``run.seed``, i) and the weights alone."""
        config, model = self._config, self._config.model
        shape = (model.channels, model.input_size, model.input_size)
        labels = balanced_labels(indices, model.num_classes)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=config.sampling.precision == "bf16"):
            clean = sample(
                self._model,
                noise=initial_noise(config.run.seed, indices, shape).to(self._device),
                labels=labels.to(self._device),
                schedule=NoiseSchedule(config.diffusion.schedule),
                prediction=config.diffusion.prediction,
                sampler=config.sampling.sampler,
                guidance=config.sampling.guidance,
                clip=config.sampling.vae is None,
            )
        return self._decoder.decode(clean), labels

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """A Ray Data batch of ``id`` -> the same with ``image`` and ``label``."""
        images, labels = self.draw([int(index) for index in batch["id"]])
        return {"id": np.asarray(batch["id"]), "image": images.numpy(), "label": labels.numpy()}


class PreviewSampler:
    """Draws one small grid per checkpoint, always from the same noise, while training goes on; a Ray actor."""

    def __init__(self, config: ExperimentConfig, scaling_factor: float | None, tracker: Any) -> None:
        self._config = config
        self._scaling_factor = scaling_factor
        self._tracker = tracker

    def draw(self, checkpoint: Checkpoint) -> None:
        """Write ``previews/<images_seen>.png`` into the run's folder and log it."""
        columns = min(self._config.model.num_classes, MAX_GRID_COLUMNS)
        sampler = ImageSampler(self._config, checkpoint, self._scaling_factor)
        images, _ = sampler.draw(list(range(PREVIEW_ROWS * columns)))
        file = Path("previews") / f"{checkpoint.images_seen}.png"
        save_grid(images, self._config.directory / file, columns)
        self._tracker.log_image.remote("samples", str(file), checkpoint.images_seen)

    def wait(self) -> None:
        """Returns when everything asked for before is drawn."""
