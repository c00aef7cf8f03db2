"""Which classifier judges images: one of timm's, the one that ships in a package, or the dataset's own."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.config.evaluation import EvaluationConfig, ExtractorKind
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.errors import UserError
from orchestrator.images import to_rgb
from orchestrator.precision import compute_device
from orchestrator.scoring.classifier import Classifier, Classify
from orchestrator.scoring.dataset_classifier import load_classifier
from orchestrator.scoring.extractors import weights_file

IMAGENET_CLASSES = 1000
VISION_TRANSFORMER = "vit_base_patch16_224.augreg_in21k_ft_in1k"
"""The paper (Section 5.3) says a pretrained Vision Transformer, and not which."""
EMBEDDED: ExtractorKind = "efficientnet_lite0"
"""The classifier that ships in a package."""
OWN = "dataset"
"""The classifier that is trained on the dataset."""


@dataclass(frozen=True)
class Judge:
    """A classifier together with what one must know of it."""

    classifier: Classifier
    about: dict[str, Any]
    """Part of the study's protocol: the classifier's name, the sha256 of its weights, and the size of its
    input."""


@dataclass(frozen=True)
class PretrainedClassifier:
    """A network of timm's by name; every process loads it for itself."""

    name: str
    weights: str | None
    """File with its weights; None: the package's for the embedded one, timm's download for others."""
    sha256: str | None = None
    """Hash that the parameters must have; None: any."""

    def load(self, use_gpu: bool) -> Classify:
        """Load the network; on this process's GPU if ``use_gpu`` and it has one.

        Raises:
            UserError: the weights cannot be had, or are others than expected.
        """
        network = self.network()
        if self.sha256 is not None and weights_sha256(network) != self.sha256:
            raise UserError(
                f"The weights of {self.name} on this machine are not those that the study began with. Put "
                "the same file on all machines and name it with --classifier_weights."
            )
        device = compute_device(use_gpu)
        return _NetworkWithTransform(network.to(device), device)

    def network(self) -> Any:
        """Load the network, in eval mode on the CPU.

        Raises:
            UserError: timm does not know the name, or the weights cannot be had.
        """
        import timm

        if self.name == EMBEDDED:
            from orchestrator.scoring.efficientnet import embedded_network

            return embedded_network(Path(weights_file(EvaluationConfig(), EMBEDDED)))
        try:
            network = timm.create_model(
                self.name, pretrained=self.weights is None, checkpoint_path=self.weights or ""
            )
        except Exception as error:  # timm, the hub and safetensors raise errors of several kinds.
            raise UserError(
                f"The classifier {self.name} cannot be loaded ({error}). Any model that "
                "`timm.list_models(pretrained=True)` lists will do; without a network, fetch its weights "
                "elsewhere and name the file with --classifier_weights, or use "
                f"--classifier {EMBEDDED}, which ships in a package."
            ) from error
        return network.eval()


class _NetworkWithTransform:
    """A network with the resizing and normalization that it was trained with."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        import timm.data

        known = timm.data.resolve_model_data_config(network)
        mode = known["interpolation"]
        self._network, self._device = network, device
        self._size = known["input_size"][-2:]
        # The shorter side becomes so long that the central crop takes crop_pct of it.
        self._resized = [round(side / known["crop_pct"]) for side in self._size]
        self._mode = mode if mode in ("bilinear", "bicubic") else "bicubic"
        self._mean, self._deviation = (
            torch.tensor(known[name], device=device).view(1, -1, 1, 1) for name in ("mean", "std")
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        pixels = to_rgb(images).to(self._device).float() / 255
        pixels = F.interpolate(
            pixels, self._resized, mode=self._mode, antialias=True, align_corners=False
        ).clamp(0, 1)
        top, left = ((have - want) // 2 for have, want in zip(self._resized, self._size, strict=True))
        pixels = pixels[..., top : top + self._size[0], left : left + self._size[1]]
        return self._network((pixels - self._mean) / self._deviation).softmax(dim=1).cpu()


def weights_sha256(network: nn.Module) -> str:
    """The hash of a network's parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def default_name(config: ExperimentConfig) -> str:
    """The default: a Vision Transformer for ImageNet's classes, one trained on the dataset for others."""
    # The paper's Section 5.3 has a Vision Transformer and ImageNet only.
    return VISION_TRANSFORMER if config.model.num_classes == IMAGENET_CLASSES else OWN


def load_judge(
    name: str, weights: str | None, config: ExperimentConfig, dataset: LatentDataset | None
) -> Judge:
    """Load the classifier called ``name``: ``dataset``, ``efficientnet_lite0``, or one of timm's.

    Raises:
        UserError: its weights cannot be had, or its classes are not the network's.
    """
    if name == OWN:
        return _own(config, dataset)
    if weights is not None and not Path(weights).is_file():
        raise UserError(f"classifier_weights names {weights}, which is no file.")
    found = PretrainedClassifier(name, weights)
    network = found.network()
    if network.num_classes != config.model.num_classes:
        raise UserError(
            f"The classifier {name} tells {network.num_classes} classes apart and the checkpoint samples "
            f"{config.model.num_classes}. Use --classifier {OWN}, which is trained on the images of "
            "data.path, or one of timm's with the same classes."
        )
    about = {
        "name": name,
        "sha256": weights_sha256(network),
        "input_size": network.pretrained_cfg["input_size"][-1],
    }
    return Judge(PretrainedClassifier(name, weights, about["sha256"]), about)


def _own(config: ExperimentConfig, dataset: LatentDataset | None) -> Judge:
    if dataset is None:
        raise UserError(
            f"The classifier {OWN!r} is trained on the images of data.path, and there is no dataset at "
            f"{config.data.path}. Name it with --data.path, or another classifier with --classifier."
        )
    trained = load_classifier(config, dataset)
    source = dataset.info.source
    about = {
        "name": f"small convolutional network trained on {trained.trained_on} images of {source}",
        "sha256": weights_sha256(trained.network),
        "input_size": dataset.info.shape[-1],
    }
    return Judge(trained.network, about)
