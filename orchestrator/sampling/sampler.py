"""Sampling actors: they sample images by index, and every actor samples the same image for an index."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dimr_model import DiMR
from dimr_model.sampling import balanced_labels, initial_noise, random_labels, step_noise
from dimr_model.sampling import sample as solve
from orchestrator.compilation import compile_units
from orchestrator.config.schema import ExperimentConfig
from orchestrator.images import to_uint8
from orchestrator.precision import compute_device, compute_precision
from orchestrator.sampling.decoder import Decoder


def labels_of(config: ExperimentConfig, indices: list[int]) -> Tensor:
    """The class of each image, ``[len(indices)]`` int64."""
    if config.sampling.labels == "balanced":
        return balanced_labels(indices, config.model.num_classes)
    return random_labels(config.run.seed, indices, config.model.num_classes)


class ImageSampler:
    """Samples images; image i depends on (``run.seed``, i) and the weights alone."""

    def __init__(self, config: ExperimentConfig, model: DiMR, scaling_factor: float | None) -> None:
        self._device = compute_device(config.sampling.use_gpu)
        if self._device.type == "cpu":
            torch.set_num_threads(1)  # an actor holds one CPU
        self._config = config
        self._model = model.to(self._device)
        if config.sampling.compile:
            compile_units(self._model)
        self._decoder = Decoder(
            config.sampling.vae, config.prepare.vae_revision, scaling_factor, self._device
        )

    def sample(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Sample the images of ``indices``: (uint8 images ``[N, C, H, W]``, labels ``[N]``).

        Raises:
            UserError: an image is not finite.
        """
        return self._decoder.decode(self._solve(indices)), labels_of(self._config, indices)

    def estimates(self, indices: list[int]) -> list[list[Tensor]]:
        """Of each network call, what each branch takes the clean images for, coarse to fine.

        They are uint8 ``[N, C, h, w]`` on the CPU. The network must sample pixels.

        Raises:
            UserError: an image is not finite.
        """
        seen: list[list[Tensor]] = []
        clean = self._solve(indices, lambda estimates: seen.append([to_uint8(image) for image in estimates]))
        self._decoder.decode(clean)  # It refuses what is not finite.
        return seen

    def _solve(self, indices: list[int], on_step: Callable[[list[Tensor]], None] | None = None) -> Tensor:
        config, model = self._config, self._config.model
        shape = (model.channels, model.input_size, model.input_size)
        with compute_precision(config.sampling.precision, self._device):
            return solve(
                self._model,
                noise=initial_noise(config.run.seed, indices, shape).to(self._device),
                labels=labels_of(config, indices).to(self._device),
                schedule=config.diffusion.make_process(),
                prediction=config.diffusion.prediction,
                sampler=config.sampling.sampler,
                guidance=config.sampling.guidance,
                clip=config.sampling.vae is None,
                fresh_noise=step_noise(config.run.seed, indices, shape),
                on_step=on_step,
            )

    def __call__(self, indices: list[int]) -> dict[str, npt.NDArray[Any]]:
        """Sample the images of ``indices``, into ``index`` int64, ``image`` uint8 and ``label`` int64."""
        images, labels = self.sample(indices)
        return {"index": np.array(indices), "image": images.numpy(), "label": labels.numpy()}
