"""Inception-v3 for FID.

It is torch-fidelity's port of the TensorFlow network, with the layers that ADM's evaluator reads.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from orchestrator.images import to_rgb
from orchestrator.scoring.weights import Published, read_tensors, require_tensors

LAYER = "2048"
DIMENSIONS = 2048
INPUT_SIZE: int = FeatureExtractorInceptionV3.INPUT_IMAGE_SIZE
WEIGHTS = Published(
    name="Inception",
    url=URL_INCEPTION_V3,
    # The published file's name ends with the beginning of its hash.
    sha256=Path(URL_INCEPTION_V3).stem.rpartition("-")[2],
    setting="evaluation.extractor_weights",
)
TELLING = {
    "Conv2d_1a_3x3.conv.weight": torch.Size((32, 3, 3, 3)),
    "Mixed_6d.branch1x1.conv.weight": torch.Size((192, 768, 1, 1)),
    "fc.weight": torch.Size((1008, DIMENSIONS)),
}
"""Tensors that tell FID's Inception from torchvision's and others."""


class Inception:
    """The extractor on a device."""

    SPATIAL_CHANNELS = 7
    """The first so many channels of a layer make sFID's features. With 17x17 positions these are 2,023
    numbers, channels last."""

    def __init__(self, weights: Path, device: torch.device) -> None:
        check_file(weights)
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


def check_file(weights: Path) -> None:
    """Refuse a file of anything but Inception's tensors: torch-fidelity unpickles whatever a file says.

    Raises:
        UserError: it is damaged, holds more than tensors, or is of another network.
    """
    require_tensors(read_tensors(weights, WEIGHTS), TELLING, weights, WEIGHTS)
