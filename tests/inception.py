"""Inception's architecture at random weights, in a file of the published one's form; nothing can be downloaded here."""

from pathlib import Path
from unittest import mock

import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


def write_random_weights(path: Path) -> Path:
    """A state dict that the real loading code reads."""
    torch.save({}, path)
    # Without memory first: torchvision's own way to draw these weights takes a minute.
    with mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"), torch.device("meta"):
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
        ).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_parameters()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            # Signals keep their size through the layers, so that features differ between images.
            torch.nn.init.kaiming_normal_(module.weight, generator=generator)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    torch.save(network.state_dict(), path)
    return path
