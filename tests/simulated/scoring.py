"""Features and images on a simulated GPU and on the CPU: prints how far apart they are, and the waits."""

import dataclasses
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator.benchmarks.score import untrained_inception
from orchestrator.sampling.decoder import Decoder
from orchestrator.scoring.efficientnet import EfficientNetLite0
from orchestrator.scoring.extractors import weights_file
from orchestrator.scoring.inception import Inception
from orchestrator.scoring.vision_transformers import CLIP, DINOV2, VisionTransformerExtractor
from tests.configs import tiny
from tests.gpu.test_sampling import small_vae
from tests.gpu.test_scoring import pictures, random_weights
from tests.simulated.cuda import GPU, SimulatedGPU, pretend

CPU = torch.device("cpu")
Make = Callable[[torch.device], Callable[[Tensor], Tensor]]


def extractors(root: Path) -> dict[str, Make]:
    """Name -> what makes the extractor on a device."""
    embedded = Path(weights_file(tiny(root, "data").evaluation, "efficientnet_lite0"))
    inception = untrained_inception(root / "inception.pth")
    found = {
        "efficientnet_lite0": partial(_features, EfficientNetLite0, embedded),
        "inception": partial(_features, Inception, inception),
    }
    for name, published in (("dinov2", DINOV2), ("clip", CLIP)):
        small = dataclasses.replace(published, width=64, depth=2, heads=4)
        weights = random_weights(small, root / f"{name}.pth")
        found[name] = partial(_features, partial(VisionTransformerExtractor, architecture=small), weights)
    return found


def _features(kind: Any, weights: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    extractor = kind(weights, device)
    return lambda images: torch.cat(
        [torch.as_tensor(found).double().flatten() for found in extractor(images).values()]
    )


def decoder(root: Path) -> Make:
    """What makes a small VAE's decoder on a device."""
    vae = small_vae(root / "vae")
    return lambda device: Decoder(vae, None, 0.2, device).decode


def main(root: Path) -> None:
    """Print a line of JSON for every network."""
    images, latents = pictures(4, 64, 0), torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    cases = {name: (make, images) for name, make in extractors(root).items()}
    cases["vae"] = decoder(root), latents
    expected = {name: make(CPU)(given) for name, (make, given) in cases.items()}
    pretend()
    for name, (make, given) in cases.items():
        with SimulatedGPU() as gpu:
            network, sent = make(GPU), given.to(GPU) if name == "vae" else given
            gpu.events.clear()
            found = network(sent)
            events = dict(gpu.events)
        apart = float((found.double() - expected[name].double()).abs().max())
        largest = float(expected[name].double().abs().max())
        print(json.dumps({"network": name, "apart": apart / largest, "events": events}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
