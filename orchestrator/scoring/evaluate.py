"""Sample, extract and score in one pass over actors.

Images never pile up, and nothing that is finished is done twice.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import ray
import torch
from rich.console import Console

from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.errors import UserError
from orchestrator.run.folder import SAMPLES_FILE
from orchestrator.sampling.parts import ranges_of
from orchestrator.sampling.sampler import ImageSampler
from orchestrator.sampling.sinks import class_indices, save_class_grid, save_first, write_npz
from orchestrator.scoring import pipeline
from orchestrator.scoring.baselines import Baselines, load_baselines
from orchestrator.scoring.classifier import TrainedClassifier
from orchestrator.scoring.dataset_classifier import classifier_file, classifier_path, load_classifier
from orchestrator.scoring.extractors import describe_extractors
from orchestrator.scoring.features import collect
from orchestrator.scoring.judge import Judge, warnings_of
from orchestrator.scoring.model_under_test import ModelUnderTest
from orchestrator.scoring.pipeline import Samples, Work
from orchestrator.scoring.prerequisites import require_classes, require_enough_images, require_real_images
from orchestrator.scoring.protocol import (
    Measurement,
    count_name,
    sample_protocol,
    samples_name,
)
from orchestrator.scoring.reference import Reference, load_references
from orchestrator.stalls import answer

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


def prepare(job: Evaluation) -> tuple[list[Judge], TrainedClassifier | None]:
    """What samples are compared with, made now where it is not kept from before.

    The job's config must name the file of the dataset's classifier where that is an extractor.

    Raises:
        UserError: the reference or an extractor is not as it must be, or the samples are too few.
    """
    require_enough_images(job.config)
    training = _start_classifier(job)
    references = _references(job)
    judges = [
        Judge(described, reference)
        for described, reference in zip(describe_extractors(job.config.evaluation), references, strict=True)
    ]
    if isinstance(training, ray.ObjectRef):
        return judges, answer(training, "classifier", job.config.cluster.stall_seconds)
    return judges, training


def make_judges(config: ExperimentConfig, dataset: LatentDataset, console: Console) -> None:
    """Make what samples will be compared with, and keep it for the evaluation.

    Raises:
        UserError: as for :func:`prepare`.
    """
    no_model = ModelUnderTest(None, {}, None)  # type: ignore[arg-type]
    prepare(_with_dataset_classifier(Evaluation(config, no_model, dataset, console)))


def evaluate(job: Evaluation) -> EvaluationResult:
    """Sample ``evaluation.images`` images, and compare them with real ones in the features of all extractors.

    Raises:
        UserError: the reference, an extractor or an image is not as it must be; what was finished stays.
    """
    started = time.perf_counter()
    warnings = warnings_of(job.config)
    for warning in warnings:
        job.console.print(f"Warning: {warning}", soft_wrap=True, style="yellow", highlight=False)
    job = _with_dataset_classifier(job)
    config = job.config
    judges, classifier = prepare(job)
    prepared = time.perf_counter()
    facts: dict[str, Any] = {"extractors": [asdict(judge.described) for judge in judges]}
    if classifier is not None:
        facts["classifier"] = classifier.about
    made = sample_images(job, facts, classifier)
    sampled = time.perf_counter()
    images, extractors = config.evaluation.images, config.evaluation.extractors
    found = collect(made.work.parts, list(made.work.ranges), extractors, tenths_of=images)
    measurements = [
        one
        for judge in judges
        for one in judge.measure(config, job.tested, job.scaling_factor, found[judge.described.name])
    ]
    if classifier is not None:
        measurements += _agreement(job, classifier, made)
    seconds = {
        "reference": prepared - started,
        "sampling": sampled - prepared,
        "scoring": time.perf_counter() - sampled,
    }
    return EvaluationResult(measurements, seconds, made, warnings)


def sample_images(
    job: Evaluation, judges: dict[str, Any], classifier: TrainedClassifier | None = None
) -> SampleSet:
    """Sample what is missing of the images, extract their features, and write the sinks.

    Args:
        judges: descriptions of the ``extractors`` and the ``classifier``, as in the protocol; without
            extractors, images are only sampled.
        classifier: is asked about the samples, where there is one.
    """
    config, tested = job.config, job.tested
    samples = Samples(tested.model, job.scaling_factor)
    protocol = sample_protocol(config, tested, job.scaling_factor)
    name = samples_name(protocol, **judges, save=config.evaluation.save)
    folder = storage.join(config.directory, "evaluations", name)
    ranges = ranges_of(config.evaluation.images, config.sampling.batch_size)
    network = classifier.network if classifier else None
    extractors = config.evaluation.extractors if "extractors" in judges else ()
    work = Work(config, samples, tuple(ranges), folder, network, extractors)
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


def _with_dataset_classifier(job: Evaluation) -> Evaluation:
    """The job with the file of the dataset's classifier, where that is an extractor; trained if need be."""
    evaluation = job.config.evaluation
    if "dataset_classifier" not in evaluation.extractors or evaluation.dataset_classifier_weights is not None:
        return job
    dataset = _dataset_of(job, "the extractor dataset_classifier", "take it out of --evaluation.extractors")
    require_classes(job.config, dataset)
    file = _on_a_cpu_of_its_own(classifier_file, job, dataset)
    if isinstance(file, ray.ObjectRef):
        file = answer(file, "classifier", job.config.cluster.stall_seconds)
    evaluation = replace(evaluation, dataset_classifier_weights=file)
    return replace(job, config=replace(job.config, evaluation=evaluation))


def _dataset_of(job: Evaluation, needed_by: str, otherwise: str) -> LatentDataset:
    if job.dataset is None:
        raise UserError(
            f"There is no training dataset at {job.config.data.path}, and {needed_by} needs it. Name it with "
            f"--data.path, or {otherwise}."
        )
    return job.dataset


def _start_classifier(job: Evaluation) -> Any:
    """The dataset's classifier, or a Ray reference to it, or None where none is asked for.

    With actors it is trained while the reference's features are extracted. Latents are an exception: both
    would decode them on the same actors.
    """
    if not job.config.evaluation.class_agreement:
        return None
    dataset = _dataset_of(job, "evaluation.class_agreement", "set --evaluation.class_agreement false")
    return _on_a_cpu_of_its_own(load_classifier, job, dataset)


def _on_a_cpu_of_its_own(make: Callable[..., Any], job: Evaluation, dataset: LatentDataset) -> Any:
    """What ``make`` gives of the dataset's classifier, or with actors a Ray reference to it."""
    is_there = storage.is_file(classifier_path(job.config, dataset))
    if not is_there:
        job.console.print("Training a classifier on the dataset's images.")
    if is_there or job.config.sampling.actors == 0 or dataset.info.kind == "moments":
        return make(job.config, dataset)
    return ray.remote(num_cpus=1)(make).remote(job.config, dataset)


def _references(job: Evaluation) -> Sequence[Baselines | Reference]:
    path = job.config.evaluation.reference
    if path is not None:
        return load_references(path, job.config, job.console)
    if job.dataset is None:
        raise UserError(
            f"There is nothing to compare with: no dataset at {job.config.data.path}, and "
            "evaluation.reference is not set. Name statistics, a folder of images or a dataset with "
            "--evaluation.reference, or the dataset with --data.path."
        )
    require_real_images(job.config, job.dataset)
    return load_baselines(job.config, job.dataset, job.console)


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


def plain(measurements: list[Measurement]) -> dict[str, Any]:
    """Measurements as in metrics.json, by their names."""
    return {one.name: one.plain() for one in measurements}
