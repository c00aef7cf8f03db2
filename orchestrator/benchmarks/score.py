"""Feature extraction by our actors against torch-fidelity alone, on the same images."""

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import Dataset

from dimr_model import DiMRConfig
from orchestrator import cluster
from orchestrator.benchmarks.rates import images_per_second
from orchestrator.config.data import DataConfig
from orchestrator.config.evaluation import EvaluationConfig, SamplingConfig
from orchestrator.config.schema import ExperimentConfig, RunConfig
from orchestrator.config.training import TrainConfig
from orchestrator.images import to_rgb
from orchestrator.scoring.extractors import weights_file
from orchestrator.scoring.pipeline import Work, run_here, run_on_actors
from orchestrator.scoring.real_images import IMAGES_PER_RANGE, open_images

if TYPE_CHECKING:
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

RESOLUTION = 64


class _Images(Dataset):  # type: ignore[type-arg]
    def __init__(self, images: torch.Tensor) -> None:
        self._images = images

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._images[index]

    def __len__(self) -> int:
        return len(self._images)


def untrained_inception(path: Path) -> Path:
    """Write Inception with random weights to a file in the form of the published one.

    Weights do not change its speed.
    """
    torch.save({}, path)
    network = _inception_without_memory(path)
    network.to_empty(device="cpu")
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


def _inception_without_memory(path: Path) -> Any:
    """Inception's architecture on the meta device; nothing is read from the file at ``path``."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *args: Any, **kwargs: Any) -> None:
            """Keep what is there."""

    # On the meta device, because the usual way to draw random weights takes a minute.
    with torch.device("meta"):
        return Untrained("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))


def measure_scoring(extractor: str, images: int, repeats: int, console: Console) -> dict[str, float]:
    """Measure images/s of every way to extract features, print a table and return the medians."""
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = _config(folder, extractor)
        # The first range of each of two actors is not timed.
        count = images + 2 * IMAGES_PER_RANGE
        pixels = np.random.default_rng(0).integers(0, 256, (count, RESOLUTION, RESOLUTION, 3), np.uint8)
        np.savez(f"{folder}/images.npz", arr_0=pixels)
        threads = torch.get_num_threads()
        with cluster.connect(config):
            for repeat in range(repeats):
                torch.set_num_threads(1)
                measured = {
                    "torch-fidelity alone": _theirs(config, pixels[:images]),
                    "one extractor in this process": _ours(config, f"{folder}/{repeat}-here", 0, images),
                    "one extractor actor": _ours(config, f"{folder}/{repeat}-one", 1, images),
                    "two extractor actors": _ours(config, f"{folder}/{repeat}-two", 2, images),
                }
                for name, rate in measured.items():
                    rates.setdefault(name, []).append(rate)
        torch.set_num_threads(threads)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    table = Table(
        "",
        "images/s",
        "",
        title=f"{extractor}, {images} images of {RESOLUTION}x{RESOLUTION}, one thread a process, "
        f"torch {torch.__version__}",
    )
    baseline = medians["torch-fidelity alone"]
    for name, rate in medians.items():
        table.add_row(name, f"{rate:.1f}", f"{rate / baseline:.2f}x")
    console.print(table)
    return medians


def _config(folder: str, extractor: str) -> ExperimentConfig:
    weights = str(untrained_inception(Path(folder) / "inception.pth")) if extractor == "inception" else None
    network = DiMRConfig(
        input_size=RESOLUTION, channels=3, num_classes=2, depths=(1, 1), widths=(8, 8), num_heads=2
    )
    return ExperimentConfig(
        run=RunConfig(name="benchmark", root=folder),
        data=DataConfig(path=folder),
        model=network,
        train=TrainConfig(images=1024),
        sampling=SamplingConfig(use_gpu=False),
        evaluation=EvaluationConfig(extractors=(extractor,), extractor_weights=weights),  # type: ignore[arg-type]
    )


def _theirs(config: ExperimentConfig, pixels: Any) -> float:
    """Measure images/s of torch-fidelity's own loop."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.utils import get_featuresdict_from_dataset

    kind = config.evaluation.extractors[0]
    weights = Path(weights_file(config.evaluation, kind))
    network: FeatureExtractorBase
    if kind == "inception":
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
        )
    else:
        network = _as_theirs(weights)
    images = _Images(to_rgb(torch.from_numpy(pixels).movedim(-1, 1).contiguous()))
    started = time.perf_counter()
    get_featuresdict_from_dataset(
        images, network, batch_size=IMAGES_PER_RANGE, cuda=False, save_cpu_ram=True, verbose=False
    )
    return len(pixels) / (time.perf_counter() - started)


def _as_theirs(weights: Path) -> "FeatureExtractorBase":
    """Adapt the embedded network to torch-fidelity's loop."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    from orchestrator.scoring.efficientnet import LAYER, EfficientNetLite0Features

    class Adapted(FeatureExtractorBase):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__("efficientnet-lite0", [LAYER])
            self.features = EfficientNetLite0Features(weights)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return (LAYER,)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (self.features(images),)

    return Adapted()


def _ours(config: ExperimentConfig, folder: str, actors: int, count: int) -> float:
    """Measure images/s from the end of each actor's first range on, with reading images and writing parts."""
    evaluation = dataclasses.replace(config.evaluation, extractor_actors=max(1, actors))
    config = dataclasses.replace(config, evaluation=evaluation)
    images = open_images(f"{config.run.root}/images.npz", config)
    skipped = max(1, actors)
    ranges = list(images.ranges)[: skipped + -(-count // IMAGES_PER_RANGE)]
    work = Work(config, images, tuple(ranges), folder, extractors=config.evaluation.extractors)
    for _ in run_on_actors(work, ranges) if actors else run_here(work, ranges):
        pass
    return images_per_second(work, skipped)
