"""Sampling actors: images by index, the same whoever draws them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dimr_model.diffusion import NoiseSchedule
from dimr_model.sampling import balanced_labels, initial_noise, sample
from orchestrator.checkpoints.loading import load_ema
from orchestrator.checkpoints.selection import Checkpoint
from orchestrator.config import ExperimentConfig
from orchestrator.evaluation.images import Decoder
from orchestrator.precision import compute_precision


class ImageSampler:
    """Draws images with a checkpoint's EMA weights; the class of a Ray Data actor pool, and usable by itself."""

    def __init__(
        self, config: ExperimentConfig, checkpoint: Checkpoint, scaling_factor: float | None
    ) -> None:
        use_gpu = config.sampling.use_gpu and torch.cuda.is_available()
        self._device = torch.device("cuda" if use_gpu else "cpu")
        if not use_gpu:
            torch.set_num_threads(1)  # an actor holds one CPU
        self._config = config
        self._model = load_ema(checkpoint).to(self._device)
        self._decoder = Decoder(config.sampling.vae, scaling_factor, self._device)

    def draw(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """(uint8 images ``[N, C, H, W]``, labels ``[N]``); image i depends on (``run.seed``, i) and the weights alone."""
        config, model = self._config, self._config.model
        shape = (model.channels, model.input_size, model.input_size)
        labels = balanced_labels(indices, model.num_classes)
        with compute_precision(config.sampling.precision, self._device):
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
