"""EfficientNet-Lite0, the embedded extractor: its weights ship in a package, so that it works offline."""

from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.images import to_rgb

LAYER = "blocks"
DIMENSIONS = 320
INPUT_SIZE = 64


def embedded_network(weights: Path) -> Any:
    """EfficientNet-Lite0 in eval mode, from the file that ships in a package.

    It is a classifier of ImageNet's thousand classes.
    """
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    given = [
        tensor
        for name, tensor in torch.load(weights, map_location="cpu", weights_only=True).items()
        if not name.endswith("num_batches_tracked")
    ]
    names = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    # The two implementations name their layers differently and list them in the same order.
    network.load_state_dict(dict(zip(names, given, strict=True)), strict=False)
    return network.eval()


class EfficientNetLite0Features(nn.Module):
    """The mean over positions of the 320 channels before its last convolution.

    An early, small layer: a covariance of 1,280 dimensions could not be estimated from a thousand images.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.network = embedded_network(weights)
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """``images [B, 3, H, W]`` uint8 -> features ``[B, 320]`` float32."""
        size = (INPUT_SIZE, INPUT_SIZE)
        resized = F.interpolate(images.float(), size, mode="bilinear", antialias=True, align_corners=False)
        hidden = self.network.bn1(self.network.conv_stem(resized / 127.5 - 1))
        return self.network.blocks(hidden).mean(dim=(2, 3))  # type: ignore[no-any-return]


class EfficientNetLite0:
    """The extractor on a device."""

    def __init__(self, weights: Path, device: torch.device) -> None:
        # CPUs compute it in two thirds of the time so. Features differ by rounding alone.
        layout = torch.channels_last if device.type == "cpu" else torch.contiguous_format
        self._network = EfficientNetLite0Features(weights).to(device).to(memory_format=layout)
        self._device = device

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 ``[B, C, H, W]`` -> ``features [B, 320]`` float32 on the CPU."""
        return {"features": self._network(to_rgb(images).to(self._device)).cpu()}
