"""How an evaluation's work runs: on pools of actors, or in this process. Nothing finished is done again.

A range goes through one or two stages (sample or read, then extract) and ends as a part on disk. Ray Data
gives ranges to actors, holds back what has no room, and gives a dead actor's range to another.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.data
from ray.exceptions import RayTaskError
from rich.console import Console

from dimr_model import DiMR
from orchestrator import storage
from orchestrator.config.evaluation import ExtractorKind
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError
from orchestrator.run.terminal import ImageProgress
from orchestrator.sampling.parts import Parts, Range
from orchestrator.sampling.sampler import ImageSampler
from orchestrator.sampling.sent_model import SentModel
from orchestrator.scoring.classifier import Classifier
from orchestrator.scoring.features import FEATURES_FOLDER, FeatureWriter
from orchestrator.scoring.real_images import ImageReader, RealImages
from orchestrator.scoring.reconstruction import Reconstructions, Reconstructor
from orchestrator.stalls import InTime
from orchestrator.tracking.gauges import show_progress

RAYS_ADVICE = "\nFailed to apply UDF"
"""Ray Data writes below an error how it could be tried again."""


@dataclass(frozen=True)
class Samples:
    """Images to sample with a network."""

    model: DiMR | SentModel
    scaling_factor: float | None

    def sent(self) -> "Samples":
        """The same, on its way to actors."""
        model = self.model
        return Samples(SentModel.of(model) if isinstance(model, DiMR) else model, self.scaling_factor)

    def network(self) -> DiMR:
        """The network, here."""
        return self.model.load() if isinstance(self.model, SentModel) else self.model


@dataclass(frozen=True)
class Work:
    """Images to turn into parts."""

    config: ExperimentConfig
    images: Samples | RealImages | Reconstructions
    ranges: tuple[Range, ...]
    folder: str
    """Where parts and images are written."""
    classifier: Classifier | None = None
    extractors: tuple[ExtractorKind, ...] = ()
    """Whose features are kept of each image."""
    keep_below: float = 0.0
    """Images to which the classifier gives a lower probability of their class stay in the parts."""
    keep_small: bool = False
    """All images stay in the parts, as small as the dataset's classifier takes them."""

    @property
    def parts(self) -> Parts:
        """The parts on disk."""
        return Parts(storage.join(self.folder, FEATURES_FOLDER))

    def missing(self) -> list[Range]:
        """The ranges that are still to be done, in order."""
        finished = self.parts.finished()
        return [piece for piece in self.ranges if piece.name not in finished]

    def for_writer(self, use_gpu: bool) -> tuple[Any, ...]:
        """The arguments of a :class:`FeatureWriter`; the network stays behind."""
        return (
            self.config, self.folder, self.classifier, self.extractors, use_gpu, self.keep_below,
            self.keep_small,
        )  # fmt: skip


def run(work: Work, what: str, console: Console) -> None:
    """Do what is missing of ``work``, and show how far it is as ``what``.

    Raises:
        UserError: an image cannot be read, or is not finite, or an actor hangs; what was finished stays.
    """
    missing = work.missing()
    places = sum(piece.stop - piece.start for piece in work.ranges)
    done = places - sum(piece.stop - piece.start for piece in missing)
    images = places if isinstance(work.images, Samples) else work.images.count
    if not missing:
        return
    awaited = "the sampling processes" if isinstance(work.images, Samples) else "the reading processes"
    waits_for = f"{awaited} to start" if work.config.sampling.actors else "the first images"
    with ImageProgress(console, what, images, images * done // places, waits_for) as progress:
        for piece in (run_on_actors if work.config.sampling.actors else run_here)(work, missing):
            done += piece.stop - piece.start
            progress.update(images * done // places)
            show_progress(work.config.run.name, what, images * done // places, images)


def _source(work: Work, use_gpu: bool) -> Callable[[Range], dict[str, Any]]:
    if isinstance(work.images, RealImages):
        return ImageReader(work.images, work.config, use_gpu).read
    if isinstance(work.images, Reconstructions):
        return Reconstructor(work.images, work.config, use_gpu).read
    sampler = ImageSampler(work.config, work.images.network(), work.images.scaling_factor)
    return lambda piece: sampler(list(range(piece.start, piece.stop)))


def run_here(work: Work, missing: list[Range]) -> Iterator[Range]:
    """Do ``missing`` in this process; yields each range when it is done."""
    use_gpu = work.config.sampling.use_gpu
    source = _source(work, use_gpu)
    writer = FeatureWriter(*work.for_writer(use_gpu))
    for piece in missing:
        writer.write(piece, source(piece))
        yield piece


class _SampleActor:
    """An actor that turns a range's bounds into its images."""

    def __init__(self, work: Work) -> None:
        self._source = _source(work, work.config.sampling.use_gpu)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        piece = range_of(batch)
        images = self._source(piece)
        count = len(images["index"])
        bounds = {"start": piece.start, "stop": piece.stop}
        return {**images, **{name: np.full(count, value) for name, value in bounds.items()}}


class _WriteActor:
    """An actor that writes the part of a range from its images, and returns the range's bounds."""

    def __init__(self, *arguments: Any) -> None:
        self._writer = FeatureWriter(*arguments)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        piece = range_of(batch)
        # Half a range must never be taken for a whole one.
        assert len(batch["index"]) == piece.stop - piece.start
        self._writer.write(piece, batch)
        return {"start": np.array([piece.start]), "stop": np.array([piece.stop])}


class _ReadAndWriteActor:
    """An actor that reads the images of a range, writes its part, and returns the range's bounds."""

    def __init__(self, work: Work) -> None:
        use_gpu = work.config.evaluation.extractor_use_gpu
        self._source = _source(work, use_gpu)
        self._writer = FeatureWriter(*work.for_writer(use_gpu))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        piece, problem = range_of(batch), ""
        try:
            self._writer.write(piece, self._source(piece))
        except UserError as error:  # Raised, Ray would print its traceback.
            problem = str(error)
        return {
            "start": np.array([piece.start]), "stop": np.array([piece.stop]), "problem": np.array([problem])
        }  # fmt: skip


def range_of(batch: dict[str, Any]) -> Range:
    """The range whose bounds a batch has."""
    return Range(int(batch["start"][0]), int(batch["stop"][0]))


@dataclass(frozen=True)
class Stage:
    """A pool of actors that each range goes through."""

    actor: Any
    """Class of the actors, which are called with a batch."""
    arguments: tuple[Any, ...]
    size: int
    """Number of actors."""
    needs: Mapping[str, float]
    """What each actor needs, in Ray's words."""


def run_on_actors(work: Work, missing: list[Range]) -> Iterator[Range]:
    """Do ``missing`` on actors; yields each range when it is done, in any order.

    Raises:
        UserError: an actor raised it.
        StalledError: no range was finished in time.
    """
    sampling, evaluation = work.config.sampling, work.config.evaluation
    use_gpu = evaluation.extractor_use_gpu and (bool(work.extractors) or work.classifier is not None)
    if isinstance(work.images, Samples):
        sent = dataclasses.replace(work, images=work.images.sent())
        stages = [
            Stage(_SampleActor, (sent,), sampling.actors, _needs(sampling.use_gpu)),
            Stage(_WriteActor, work.for_writer(use_gpu), evaluation.extractor_actors, _needs(use_gpu)),
        ]
    else:
        stages = [Stage(_ReadAndWriteActor, (work,), evaluation.extractor_actors, _needs(use_gpu))]
    yield from through(stages, missing, work.config.cluster.stall_seconds)


def _needs(gpu: bool) -> dict[str, float]:
    return {"num_gpus": 1} if gpu else {"num_cpus": 1}


def through(stages: Sequence[Stage], missing: Sequence[Range], stall_seconds: float) -> Iterator[Range]:
    """Send the bounds of each range through ``stages``; yields each range when it is done, in any order.

    Raises:
        UserError: an actor raised it, or put it into its batch.
        StalledError: no range was finished in time.
    """
    # Else only the text of its traceback arrives of what an actor raises.
    ray.data.DataContext.get_current().raise_original_map_exception = True
    pipeline = ray.data.from_items(
        [{"start": piece.start, "stop": piece.stop} for piece in missing], override_num_blocks=len(missing)
    )
    for stage in stages:
        pipeline = pipeline.map_batches(
            stage.actor,
            fn_constructor_args=stage.arguments,
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=stage.size),
            **stage.needs,
        )
    pipeline.context.enable_progress_bars = False
    # A range stays in one piece, however large its images are.
    pipeline.context.target_max_block_size = None
    try:
        batches: Any = iter(pipeline.iter_batches(batch_size=None, batch_format="numpy"))
        with closing(InTime(batches, "range of images", stall_seconds)) as done:
            for batch in done:
                for problem in filter(None, batch.get("problem", ())):
                    raise UserError(str(problem))
                for start, stop in zip(batch["start"], batch["stop"], strict=True):
                    yield Range(int(start), int(stop))
    except RayTaskError as error:
        raise _user_error(error) or error from None


def _user_error(error: BaseException | None) -> UserError | None:
    """The error that an actor raised for the user, below what Ray wrapped around it."""
    while error is not None:
        if isinstance(error, UserError) and not isinstance(error, RayTaskError):
            return UserError(str(error).partition(RAYS_ADVICE)[0])
        error = getattr(error, "cause", None) or error.__cause__
    return None
