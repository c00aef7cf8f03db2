"""Distances do not depend on where features are computed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.benchmarks.score import untrained_inception
from orchestrator.precision import compute_device
from orchestrator.scoring.efficientnet import EfficientNetLite0
from orchestrator.scoring.extractors import weights_file
from orchestrator.scoring.frechet import FeatureStatistics, frechet_distance
from orchestrator.scoring.inception import Inception
from orchestrator.scoring.vision_transformers import (
    CLIP,
    DINOV2,
    Architecture,
    VisionTransformerExtractor,
)
from tests.configs import tiny
from tests.gpu import ON_GPU, marks

pytestmark = marks
CPU = torch.device("cpu")


def pictures(count: int, size: int, seed: int) -> torch.Tensor:
    """Smooth colours with noise, uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    noise = 0.1 * torch.randn(smooth.shape, generator=generator)
    return (255 * (smooth + noise).clamp(0, 1)).to(torch.uint8)


def test_the_embedded_distance_is_the_cpu_s(tmp_path: Path) -> None:
    weights = Path(weights_file(tiny(tmp_path, "data").evaluation, "efficientnet_lite0"))
    distances = []
    for device in (CPU, compute_device(ON_GPU)):
        network = EfficientNetLite0(weights, device)
        two = []
        for seed in range(2):
            parts = [network(images)["features"] for images in pictures(2048, 32, seed).split(256)]
            two.append(FeatureStatistics.of(torch.cat(parts).numpy()).gaussian())
        distances.append(frechet_distance(*two))
    assert distances[0] > 0
    assert distances[1] == pytest.approx(distances[0], rel=1e-4)


def test_inception_s_features_are_the_cpu_s(tmp_path: Path) -> None:
    weights = untrained_inception(tmp_path / "inception.pth")
    images = pictures(16, 64, 0)
    expected = Inception(weights, CPU)(images)
    found = Inception(weights, compute_device(ON_GPU))(images)
    for name, features in expected.items():
        error = np.linalg.norm(found[name] - features) / np.linalg.norm(features)
        # TF32 would be a hundred times further away.
        assert error < 1e-4, name


def random_weights(network: Architecture, file: Path) -> Path:
    """Write random weights of a vision transformer, whose positions are those of its training."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator) / tensor.shape[-1] ** 0.5
        for name, tensor in network.network().state_dict().items()
    }
    patches = (network.trained_size // network.patch_size) ** 2
    tensors["pos_embed"] = torch.randn(1, patches + 1, network.width, generator=generator)
    torch.save(tensors, file)
    return file


@pytest.mark.parametrize("published", [DINOV2, CLIP], ids=["dinov2", "clip"])
def test_a_vision_transformer_s_features_are_the_cpu_s(published: Architecture, tmp_path: Path) -> None:
    small = dataclasses.replace(published, width=64, depth=3, heads=4)
    weights, images = random_weights(small, tmp_path / "weights.pth"), pictures(20, 64, 0)
    expected, found = (
        VisionTransformerExtractor(weights, device, small)(images)["features"]
        for device in (CPU, compute_device(ON_GPU))
    )
    assert expected.std() > 0
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-4
