"""One pass in which several extractors look at each image, against a pass for each of them."""

import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from dimr_model import DiMR, DiMRConfig
from dimr_model.config import Sampler
from orchestrator.benchmarks.rates import images_per_second
from orchestrator.benchmarks.score import RESOLUTION, untrained_inception
from orchestrator.config.data import DataConfig
from orchestrator.config.evaluation import EvaluationConfig, ExtractorKind, SamplingConfig
from orchestrator.config.schema import ExperimentConfig, RunConfig
from orchestrator.config.training import TrainConfig
from orchestrator.sampling.parts import ranges_of
from orchestrator.scoring.classifier import SmallClassifier, classifier_content
from orchestrator.scoring.pipeline import Samples, Work, run_here
from orchestrator.scoring.real_images import RealImages, open_images

EXTRACTORS: tuple[ExtractorKind, ...] = ("inception", "efficientnet_lite0", "dataset_classifier")
IMAGES_PER_RANGE = 20


def measure_spaces(images: int, repeats: int, console: Console) -> dict[str, dict[str, float]]:
    """Measure images/s that were seen by all extractors, print a table and return the medians."""
    rates: dict[str, dict[str, list[float]]] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = _config(folder)
        sources = _sources(config, folder, images + IMAGES_PER_RANGE)
        for repeat in range(repeats):
            for name, source in sources.items():
                place = f"{folder}/{repeat}-{name}"
                alone = [_rate(config, source, (one,), f"{place}-{one}", images) for one in EXTRACTORS]
                measured = {
                    "a pass for each": 1 / sum(1 / rate for rate in alone),
                    "one pass": _rate(config, source, EXTRACTORS, f"{place}-all", images),
                }
                for way, rate in measured.items():
                    rates.setdefault(name, {}).setdefault(way, []).append(rate)
    torch.set_num_threads(threads)
    medians = {
        name: {way: statistics.median(values) for way, values in ways.items()} for name, ways in rates.items()
    }
    title = (
        f"{', '.join(EXTRACTORS)}; {images} images of {RESOLUTION}x{RESOLUTION}, one thread, in one process"
    )
    table = Table("images", "a pass for each, images/s", "one pass", "", title=title)
    for name, ways in medians.items():
        apart, together = ways["a pass for each"], ways["one pass"]
        table.add_row(name, f"{apart:.2f}", f"{together:.2f}", f"{together / apart:.2f}x")
    console.print(table)
    return medians


def _config(folder: str) -> ExperimentConfig:
    classifier = classifier_content(SmallClassifier(3, 10), right=1, held_out=1, trained_on=1, channels=3)
    Path(folder, "classifier.safetensors").write_bytes(classifier)
    network = DiMRConfig(
        input_size=RESOLUTION, channels=3, num_classes=10, depths=(2, 2), widths=(64, 32), num_heads=4
    )
    return ExperimentConfig(
        run=RunConfig(name="benchmark", root=folder),
        data=DataConfig(path=folder),
        model=network,
        train=TrainConfig(images=1024),
        sampling=SamplingConfig(
            use_gpu=False, actors=0, batch_size=IMAGES_PER_RANGE, sampler=Sampler(steps=10)
        ),
        evaluation=EvaluationConfig(
            extractors=EXTRACTORS,
            extractor_weights=str(untrained_inception(Path(folder) / "inception.pth")),
            dataset_classifier_weights=f"{folder}/classifier.safetensors",
        ),
    )


def _sources(config: ExperimentConfig, folder: str, count: int) -> dict[str, Samples | RealImages]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, RESOLUTION, RESOLUTION, 3), np.uint8)
    np.savez(f"{folder}/images.npz", arr_0=pixels)
    torch.manual_seed(0)
    return {
        "read from a file": open_images(f"{folder}/images.npz", config),
        "sampled in 10 steps": Samples(DiMR(config.model).eval(), None),
    }


def _rate(
    config: ExperimentConfig,
    source: Samples | RealImages,
    extractors: tuple[ExtractorKind, ...],
    folder: str,
    images: int,
) -> float:
    """Measure images/s from the end of the first range on."""
    ranges = ranges_of(images + IMAGES_PER_RANGE, IMAGES_PER_RANGE)
    work = Work(config, source, tuple(ranges), folder, extractors=extractors)
    for _ in run_here(work, ranges):
        pass
    return images_per_second(work, skipped=1)
