"""Inception-v3 for FID.

It is torch-fidelity's port of the TensorFlow network, with the layers that ADM's evaluator reads.
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from orchestrator import storage
from orchestrator.errors import UserError
from orchestrator.images import to_rgb

LAYER = "2048"
DIMENSIONS = 2048
INPUT_SIZE: int = FeatureExtractorInceptionV3.INPUT_IMAGE_SIZE
SHA256_PREFIX = Path(URL_INCEPTION_V3).stem.rpartition("-")[2]
"""The published file's name ends with the beginning of its hash."""


class Inception:
    """The extractor on a device."""

    SPATIAL_CHANNELS = 7
    """The first so many channels of a layer make sFID's features. With 17x17 positions these are 2,023
    numbers, channels last."""

    def __init__(self, weights: Path, device: torch.device) -> None:
        self._check_file(weights)
        self._network = FeatureExtractorInceptionV3(
            "inception-v3-compat", [LAYER, "logits_unbiased"], feature_extractor_weights_path=str(weights)
        ).to(device)
        self._device = device
        self._network.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 ``[B, C, H, W]`` -> float32 ``features``, ``spatial`` and ``logits`` on the CPU."""
        features, logits = self._network(to_rgb(images).to(self._device))
        return {"features": features.cpu(), "spatial": self._spatial, "logits": logits.cpu()}

    def _keep_spatial(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        # The spatial features of sFID: Nash et al. 2021, "Generating images with sparse representations".
        self._spatial = output[:, : self.SPATIAL_CHANNELS].movedim(1, -1).flatten(1).cpu().contiguous()

    @staticmethod
    def _check_file(weights: Path) -> None:
        """Refuse a file of anything but tensors: torch-fidelity unpickles whatever a file says."""
        try:
            torch.load(weights, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # torch names what it refuses in errors of several kinds.
            raise UserError(
                f"{weights} cannot be read as Inception's weights ({type(error).__name__}). "
                f"Fetch {URL_INCEPTION_V3} again."
            ) from error


def published_weights() -> Path:
    """The published file in torch's cache, downloaded into it where it is not there.

    Raises:
        UserError: it cannot be downloaded, or the cached file is another.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(URL_INCEPTION_V3)
    if not cached.is_file():
        _download(cached)
    elif not storage.sha256_of(str(cached)).startswith(SHA256_PREFIX):
        raise UserError(
            f"{cached} is not the published file: its sha256 does not begin with {SHA256_PREFIX}. Delete it, "
            f"and it is fetched again, or fetch {URL_INCEPTION_V3} elsewhere and put it there."
        )
    return cached


def _download(cached: Path) -> None:
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            URL_INCEPTION_V3, str(cached), hash_prefix=SHA256_PREFIX, progress=False
        )
    except Exception as error:
        raise UserError(
            f"The Inception weights for FID are not on this machine and cannot be downloaded ({error}). "
            f"Fetch {URL_INCEPTION_V3} elsewhere and put it at {cached}, or give its path with "
            "--evaluation.extractor_weights. Without it, --evaluation.extractor efficientnet_lite0 scores "
            "with a network that ships in a package; that number is not FID and carries its own name."
        ) from error
