"""Sample, extract, score: one pass over a Ray Data pipeline of actors, so that images never pile up."""

import dataclasses
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import ray.data
import torch
from PIL import Image
from torch import Tensor

from orchestrator import storage
from orchestrator.checkpoints.selection import Checkpoint
from orchestrator.config import ExperimentConfig
from orchestrator.evaluation.aside import MAX_GRID_COLUMNS
from orchestrator.evaluation.classifier import class_agreement
from orchestrator.evaluation.extractors import load_extractor, to_rgb
from orchestrator.evaluation.images import save_grid
from orchestrator.evaluation.protocol import Measurement, metric_name, sample_protocol
from orchestrator.evaluation.reference import Reference, TrainedClassifier, load_classifier, load_reference
from orchestrator.evaluation.sampling import ImageSampler
from orchestrator.evaluation.statistics import FeatureStatistics, frechet_distance
from orchestrator.latents.format import LatentDataset

GRID_IMAGES = 100
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Scores:
    """What an evaluation measured, and how long its parts took."""

    measurements: list[Measurement]
    seconds: dict[str, float]


class FeatureExtractor:
    """Ray Data actor: images in, features out; keeps only the images of the grid."""

    def __init__(self, config: ExperimentConfig, dataset: LatentDataset) -> None:
        torch.set_num_threads(1)
        self._extractor, _ = load_extractor(config.evaluation)
        self._classifier = load_classifier(config, dataset) if config.evaluation.class_agreement else None

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """``id``, ``image``, ``label`` -> ``id``, ``features [B, D]``, ``png`` (empty beyond the grid), ``agreed``."""
        images = torch.from_numpy(np.array(batch["image"]))
        (features,) = self._extractor(to_rgb(images))
        pngs = [
            _png(image) if index < GRID_IMAGES else b""
            for index, image in zip(batch["id"], images, strict=True)
        ]
        agreed = np.zeros(len(images), dtype=np.int64)
        if self._classifier is not None:
            agreed[0] = class_agreement(
                self._classifier.network, images, torch.from_numpy(np.array(batch["label"]))
            )
        return {
            "id": np.asarray(batch["id"]),
            "features": features.numpy(),
            "png": np.array(pngs, dtype=object),
            "agreed": agreed,
        }


def evaluate(
    config: ExperimentConfig, checkpoint: Checkpoint, dataset: LatentDataset, progress: Progress
) -> Scores:
    """Draw ``evaluation.images`` images with the EMA weights, write ``samples.png``, and measure.

    Args:
        progress: called with the images done so far as results arrive.
    """
    started = time.perf_counter()
    # Side by side in processes of one thread each, which beats one process with several.
    pending = [ray.remote(num_cpus=1)(load_reference).remote(config, dataset)]
    if config.evaluation.class_agreement:
        pending.append(ray.remote(num_cpus=1)(load_classifier).remote(config, dataset))
    reference, classifier = [*ray.get(pending), None][:2]
    prepared = time.perf_counter()
    statistics, agreed = _sample_and_extract(config, checkpoint, dataset, progress)
    sampled = time.perf_counter()
    measurements = _measure(config, checkpoint, dataset, reference, classifier, statistics, agreed)
    seconds = {
        "reference": prepared - started,
        "sampling": sampled - prepared,
        "scoring": time.perf_counter() - sampled,
    }
    return Scores(measurements, seconds)


def _sample_and_extract(
    config: ExperimentConfig,
    checkpoint: Checkpoint,
    dataset: LatentDataset,
    progress: Progress,
) -> tuple[FeatureStatistics, int]:
    sampling, count = config.sampling, config.evaluation.images
    resources = {"num_gpus": 1} if sampling.use_gpu else {"num_cpus": 1}
    pipeline = ray.data.range(count, override_num_blocks=math.ceil(count / sampling.batch_size)).map_batches(
        ImageSampler,
        fn_constructor_args=(config, checkpoint, dataset.info.scaling_factor),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=sampling.actors),
        **resources,
    )
    pipeline = pipeline.map_batches(
        FeatureExtractor,
        fn_constructor_args=(config, dataset),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,
    )
    pipeline.context.execution_options.preserve_order = True
    pipeline.context.enable_progress_bars = False
    statistics: FeatureStatistics | None = None
    agreed, grid = 0, []
    for batch in pipeline.iter_batches(batch_size=None, batch_format="numpy"):
        part = FeatureStatistics.of(batch["features"])
        statistics = part if statistics is None else statistics + part
        agreed += int(batch["agreed"].sum())
        grid += [_pixels(png) for png in batch["png"] if png]
        progress(statistics.count)
    assert statistics is not None
    columns = min(config.model.num_classes, MAX_GRID_COLUMNS)
    save_grid(torch.stack(grid), storage.join(config.directory, "samples.png"), columns)
    return statistics, agreed


def _measure(
    config: ExperimentConfig,
    checkpoint: Checkpoint,
    dataset: LatentDataset,
    reference: Reference,
    classifier: TrainedClassifier | None,
    statistics: FeatureStatistics,
    agreed: int,
) -> list[Measurement]:
    against = {
        "extractor": dataclasses.asdict(reference.extractor),
        "reference": {
            "dataset": dataset.info.source,
            "fingerprint": dataset.fingerprint,
            "images": reference.real.count,
            "sha256": reference.sha256,
        },
    }
    protocol = sample_protocol(config, checkpoint)
    name = config.evaluation.extractor
    found = [
        Measurement(
            metric_name("fid" if name == "inception" else "fd", statistics.count, name, "ema"),
            frechet_distance(statistics, reference.real),
            "Fréchet distance of the samples to real images; lower is better",
            protocol | against,
        ),
        Measurement(
            metric_name("fid" if name == "inception" else "fd", reference.held_out.count, name, "real"),
            frechet_distance(reference.held_out, reference.real),
            "the same for real images held out from the reference: the floor",
            {"images": f"{reference.held_out.count} held-out real images", **against},
        ),
        Measurement(
            metric_name("fid" if name == "inception" else "fd", reference.noise.count, name, "noise"),
            frechet_distance(reference.noise, reference.real),
            "the same for Gaussian noise: the ceiling",
            {
                "images": f"{reference.noise.count} images of standard normal noise, clamped and rounded",
                **against,
            },
        ),
    ]
    if classifier is not None:
        facts = {
            "classifier": f"small convolutional network trained on {classifier.trained_on} images of the dataset"
        }
        found += [
            Measurement(
                metric_name("class_agreement", statistics.count, None, "ema"),
                agreed / statistics.count,
                "fraction of samples that a classifier puts into the class asked for",
                protocol | facts,
            ),
            Measurement(
                "classifier_accuracy_held_out",
                classifier.held_out_accuracy,
                "the classifier's accuracy on real images it has not seen",
                {"images": f"{classifier.held_out} held-out real images", **facts},
            ),
        ]
    return found


def _png(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    array = image.movedim(0, -1).numpy()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(buffer, format="PNG")
    return buffer.getvalue()


def _pixels(png: bytes) -> Tensor:
    array = np.array(Image.open(io.BytesIO(png)))
    return torch.from_numpy(array if array.ndim == 3 else array[..., None]).movedim(-1, 0)
