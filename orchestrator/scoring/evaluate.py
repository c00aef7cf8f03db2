"""Sample, extract and score in one pass over actors.

Images never pile up, and nothing that is finished is done twice.
"""

import logging
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import ray
import torch
from rich.console import Console

from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.errors import UserError
from orchestrator.sampling.parts import ranges_of
from orchestrator.sampling.sampler import ImageSampler
from orchestrator.sampling.sinks import class_indices, save_class_grid, save_first, write_npz
from orchestrator.scoring import pipeline
from orchestrator.scoring.baselines import Baselines, load_baselines
from orchestrator.scoring.dataset_classifier import TrainedClassifier, load_classifier
from orchestrator.scoring.extractors import describe_extractor
from orchestrator.scoring.features import collect
from orchestrator.scoring.frechet import frechet_distance
from orchestrator.scoring.metrics import Collected, all_metrics
from orchestrator.scoring.model_under_test import ModelUnderTest
from orchestrator.scoring.paper_numbers import paper_value
from orchestrator.scoring.pipeline import Samples, Work
from orchestrator.scoring.prerequisites import require_enough_images
from orchestrator.scoring.protocol import (
    Measurement,
    count_name,
    sample_protocol,
    samples_name,
    shows_all_classes,
)
from orchestrator.scoring.reference import Reference, load_reference
from orchestrator.stalls import answer

SAMPLES_FILE = "samples.png"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleSet:
    """A finished set of samples."""

    folder: str
    work: Work
    pictures: dict[str, str]
    """Key in MLflow -> path of a PNG."""


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation measured, and how long its parts took."""

    measurements: list[Measurement]
    seconds: dict[str, float]
    samples: SampleSet
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """Everything that an evaluation needs at hand."""

    config: ExperimentConfig
    tested: ModelUnderTest
    dataset: LatentDataset | None
    """The training dataset; may be missing where ``evaluation.reference`` names what to compare with."""
    console: Console

    @property
    def scaling_factor(self) -> float | None:
        """The latents' scaling factor; None where only the VAE tells it."""
        return self.dataset.info.scaling_factor if self.dataset else None


def prepare(job: Evaluation) -> tuple[Baselines | Reference, TrainedClassifier | None]:
    """What samples are compared with, made now where it is not kept from before.

    Raises:
        UserError: the reference or the extractor is not as it must be, or the samples are too few.
    """
    require_enough_images(job.config)
    training = _start_classifier(job)
    references = _references(job)
    if isinstance(training, ray.ObjectRef):
        return references, answer(training, "classifier", job.config.cluster.stall_seconds)
    return references, training


def evaluate(job: Evaluation) -> EvaluationResult:
    """Sample ``evaluation.images`` images, and compare them with real ones.

    Raises:
        UserError: the reference, the extractor or an image is not as it must be; what was finished stays.
    """
    config = job.config
    started = time.perf_counter()
    references, classifier = prepare(job)
    prepared = time.perf_counter()
    judges: dict[str, Any] = {"extractor": asdict(describe_extractor(config.evaluation))}
    if classifier is not None:
        judges["classifier"] = classifier.about
    made = sample_images(job, judges, classifier)
    sampled = time.perf_counter()
    found = collect(made.work.parts, list(made.work.ranges))
    measurements = _measure(job, references, found)
    if classifier is not None:
        measurements += _agreement(job, classifier, made)
    seconds = {
        "reference": prepared - started,
        "sampling": sampled - prepared,
        "scoring": time.perf_counter() - sampled,
    }
    warnings = _warnings(config, found.count, found.features.shape[1])
    return EvaluationResult(measurements, seconds, made, warnings)


def sample_images(
    job: Evaluation, judges: dict[str, Any], classifier: TrainedClassifier | None = None
) -> SampleSet:
    """Sample what is missing of the images, extract their features, and write the sinks.

    Args:
        judges: descriptions of the ``extractor`` and ``classifier``, as in the protocol; without an
            extractor, images are only sampled.
        classifier: is asked about the samples, where there is one.
    """
    config, tested = job.config, job.tested
    samples = Samples(tested.model, job.scaling_factor)
    protocol = sample_protocol(config, tested, job.scaling_factor)
    name = samples_name(protocol, **judges, save=config.evaluation.save)
    folder = storage.join(config.directory, "evaluations", name)
    ranges = ranges_of(config.evaluation.images, config.sampling.batch_size)
    network = classifier.network if classifier else None
    work = Work(config, samples, tuple(ranges), folder, network, extract="extractor" in judges)
    pipeline.run(work, "sample", job.console)
    pictures = {"final_samples": SAMPLES_FILE}
    save_first(config, work.parts, ranges, storage.join(folder, SAMPLES_FILE))
    for label, images in zip(config.evaluation.grid_classes, _class_images(job, samples), strict=True):
        pictures[f"class_{label}"] = save_class_grid(images, folder, label)
    if "npz" in config.evaluation.save:
        write_npz(folder, ranges, storage.join(folder, f"samples-{count_name(config.evaluation.images)}.npz"))
    return SampleSet(folder, work, {key: storage.join(folder, file) for key, file in pictures.items()})


def _class_images(job: Evaluation, samples: Samples) -> list[torch.Tensor]:
    classes = job.config.evaluation.grid_classes
    if not classes:
        return []
    if job.config.sampling.actors == 0:
        return _sample_classes(job.config, samples, classes)
    resources = {"num_gpus": 1} if job.config.sampling.use_gpu else {"num_cpus": 1}
    remote = ray.remote(**resources)(_sample_classes)
    images = remote.remote(job.config, samples.sent(), classes)
    return list(answer(images, "grid of a class", job.config.cluster.stall_seconds))


def _sample_classes(
    config: ExperimentConfig, samples: Samples, classes: tuple[int, ...]
) -> list[torch.Tensor]:
    sampler = ImageSampler(config, samples.network(), samples.scaling_factor)
    return [sampler.sample(class_indices(config, label))[0] for label in classes]


def _start_classifier(job: Evaluation) -> Any:
    """The dataset's classifier, or a Ray reference to it, or None where none is asked for.

    With actors it is trained while the reference's features are extracted. Latents are an exception: both
    would decode them on the same actors.
    """
    if not job.config.evaluation.class_agreement:
        return None
    if job.dataset is None:
        raise UserError(
            "evaluation.class_agreement needs the training dataset, and there is none at "
            f"{job.config.data.path}. Name it with --data.path, or set --evaluation.class_agreement false."
        )
    if job.config.sampling.actors == 0 or job.dataset.info.kind == "moments":
        return load_classifier(job.config, job.dataset)
    return ray.remote(num_cpus=1)(load_classifier).remote(job.config, job.dataset)


def _references(job: Evaluation) -> Baselines | Reference:
    path = job.config.evaluation.reference
    if path is not None:
        return load_reference(path, job.config, job.console)
    if job.dataset is None:
        raise UserError(
            f"There is nothing to compare with: no dataset at {job.config.data.path}, and "
            "evaluation.reference is not set. Name statistics, a folder of images or a dataset with "
            "--evaluation.reference, or the dataset with --data.path."
        )
    return load_baselines(job.config, job.dataset, job.console)


def _measure(job: Evaluation, references: Baselines | Reference, found: Collected) -> list[Measurement]:
    config = job.config
    reference = references.real if isinstance(references, Baselines) else references
    extractor = asdict(describe_extractor(config.evaluation))
    against = {"extractor": extractor, "reference": {**reference.about, "sha256": reference.sha256}}
    sampled = sample_protocol(config, job.tested, job.scaling_factor, found.count)
    protocol = {**sampled, "samples": found.count, **against}
    name, is_fid = config.evaluation.extractor, config.evaluation.extractor == "inception"
    guided = config.sampling.guidance.kind != "none"
    measured = [
        Measurement(
            metric=metric.name,
            count=found.count,
            extractor=name,
            images=job.tested.weights["kind"],
            value=metric.value,
            meaning=metric.meaning,
            protocol=protocol | ({"settings": metric.settings} if metric.settings else {}),
            paper=paper_value(config.model, metric.name, guided, found.count, name),
        )
        for metric in all_metrics(found, reference.target, is_fid)
    ]
    if isinstance(references, Baselines):
        others = {
            "real": (references.held_out, "the Fréchet distance of real images held out: the floor"),
            "noise": (references.noise, "the same of Gaussian noise: the ceiling"),
        }
        for images, (other, meaning) in others.items():
            measured.append(
                Measurement(
                    metric="fid" if is_fid else "fd",
                    count=other.about["images"],
                    extractor=name,
                    images=images,
                    value=frechet_distance(other.target.gaussian, reference.target.gaussian),
                    meaning=meaning,
                    protocol={"images": {**other.about, "sha256": other.sha256}, **against},
                )
            )
    return measured


def _agreement(job: Evaluation, classifier: TrainedClassifier, made: SampleSet) -> list[Measurement]:
    count = job.config.evaluation.images
    agreed = sum(
        int((columns["predicted"] == columns["label"]).sum())
        for columns in made.work.parts.read(list(made.work.ranges))
    )
    sampled = sample_protocol(job.config, job.tested, job.scaling_factor, count)
    facts = {"classifier": classifier.about}
    return [
        Measurement(
            metric="class_agreement",
            count=count,
            extractor=None,
            images=job.tested.weights["kind"],
            value=agreed / count,
            meaning="fraction of samples that a classifier puts into the class asked for",
            protocol={**sampled, "samples": count, **facts},
        ),
        Measurement(
            metric="classifier_accuracy_held_out",
            count=None,
            extractor=None,
            images="",
            value=classifier.held_out_accuracy,
            meaning="the classifier's accuracy on real images it has not seen",
            protocol={"images": f"{classifier.held_out} held-out real images", **facts},
        ),
    ]


def _warnings(config: ExperimentConfig, count: int, dimensions: int) -> list[str]:
    """What a reader of the scores must know of ``count`` samples with features of so many dimensions."""
    found, shows_all = [], shows_all_classes(config, count)
    if count <= dimensions:
        found.append(
            f"{count} samples are fewer than the {dimensions + 1} that a covariance of {dimensions} "
            "dimensions needs: it is singular, and the Fréchet distance is far above what more samples would "
            f"give. Compare it only with distances of as many samples (the name says {count_name(count)})"
            + ("; KID is unbiased at any count." if shows_all else ".")
        )
    if not shows_all:
        classes = config.model.num_classes
        found.append(
            f"{count} samples with balanced labels show only the first {count} of {classes} classes. The "
            "real images show all of them, so every distance, KID too, tells of the classes rather than of "
            f"the samples. Take at least {classes}, or set --sampling.labels random."
        )
    return found


def plain(measurements: list[Measurement]) -> dict[str, Any]:
    """Measurements as in metrics.json: name -> value, meaning, protocol, and the paper's number if any."""
    kept = ("value", "meaning", "protocol")
    return {
        m.name: {name: getattr(m, name) for name in kept} | ({"paper": m.paper} if m.paper else {})
        for m in measurements
    }
