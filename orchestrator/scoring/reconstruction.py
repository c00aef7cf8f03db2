"""Real images after they went through a VAE, and how much of them is left."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.vae import load_vae
from orchestrator.errors import UserError
from orchestrator.images import to_rgb, to_uint8
from orchestrator.precision import compute_device
from orchestrator.sampling.parts import Columns, Range
from orchestrator.scoring.real_images import ImageReader, RealImages

METHOD = "each image by itself, in float32: the mean of its latents, decoded, clamped and rounded to uint8"
WINDOW, DEVIATION = 11, 1.5
"""Pixels of SSIM's window, and its Gaussian's standard deviation."""
SMALLEST_ERROR = 1 / 12
"""The mean squared error that rounding to whole grey levels makes; PSNR takes no smaller one."""


@dataclass(frozen=True)
class Reconstructions:
    """Real images, each after it went through the VAE."""

    of: RealImages

    @property
    def count(self) -> int:
        """The number of images."""
        return self.of.count


class Reconstructor:
    """Reads real images, and encodes and decodes them one by one: no image depends on those beside it."""

    def __init__(self, images: Reconstructions, config: ExperimentConfig, use_gpu: bool) -> None:
        self._reader = ImageReader(images.of, config, use_gpu)
        self._device = compute_device(use_gpu)
        vae = config.sampling.vae
        assert vae is not None
        self._vae = load_vae(vae, config.prepare.vae_revision, self._device)

    def read(self, piece: Range) -> Columns:
        """Read the columns of :meth:`ImageReader.read` with reconstructed images, and their psnr and ssim.

        Raises:
            UserError: an image cannot be read, or what the VAE makes of it is not finite.
        """
        columns = self._reader.read(piece)
        originals = to_rgb(torch.from_numpy(np.array(columns["image"])))
        images = torch.cat([self._through_vae(one) for one in originals.split(1)])
        return {
            **columns,
            "image": images.numpy(),
            "psnr": psnr(originals, images).numpy(),
            "ssim": ssim(originals, images).numpy(),
        }

    @torch.no_grad()
    def _through_vae(self, image: Tensor) -> Tensor:
        pixels = image.to(self._device).float() / 127.5 - 1
        found = self._vae.decode(self._vae.encode(pixels).latent_dist.mode()).sample
        if not torch.isfinite(found).all():
            raise UserError("The VAE makes NaN or infinity of an image: sampling.vae is broken, or no VAE.")
        return to_uint8(found)


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels of uint8 images ``[B, C, H, W]``: ``[B]`` float64."""
    error = (first.double() - second.double()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(255**2 / error.clamp_min(SMALLEST_ERROR))


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity of uint8 images ``[B, C, H, W]``, the mean over channels: ``[B]`` float64.

    Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity": a Gaussian
    window, only where it lies within the image.
    """
    one, two = first.double(), second.double()
    means = _blurred(one), _blurred(two)
    variances = [
        _blurred(x * y) - mean * other
        for (x, mean), (y, other) in (
            ((one, means[0]), (one, means[0])), ((two, means[1]), (two, means[1])),
            ((one, means[0]), (two, means[1])),
        )
    ]  # fmt: skip
    luminance, contrast = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    above = (2 * means[0] * means[1] + luminance) * (2 * variances[2] + contrast)
    below = (means[0] ** 2 + means[1] ** 2 + luminance) * (variances[0] + variances[1] + contrast)
    return (above / below).mean(dim=(1, 2, 3))


def _blurred(images: Tensor) -> Tensor:
    places = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    line = torch.exp(-places.square() / (2 * DEVIATION**2))
    line = (line / line.sum()).expand(images.shape[1], 1, 1, WINDOW)
    across = F.conv2d(images, line, groups=images.shape[1])
    return F.conv2d(across, line.mT, groups=images.shape[1])
