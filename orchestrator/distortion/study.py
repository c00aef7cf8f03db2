"""Draw images with each model, and have a classifier say how likely each shows the class that it was drawn for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from dimr_model import randomness
from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset, open_dataset
from orchestrator.distortion.analysis import ClassProbabilities
from orchestrator.distortion.classifiers import OWN, Judge
from orchestrator.errors import UserError
from orchestrator.sampling.parts import ranges_of
from orchestrator.scoring import pipeline
from orchestrator.scoring.baselines import HELD_OUT_FRACTION, held_out_mask
from orchestrator.scoring.model_under_test import ModelUnderTest
from orchestrator.scoring.pipeline import Samples, Work
from orchestrator.scoring.protocol import sample_protocol, samples_name
from orchestrator.scoring.real_images import dataset_images, image_resolution
from orchestrator.scoring.reference import statistics_path


@dataclass(frozen=True)
class Model:
    """One of the models that are compared."""

    name: str
    config: ExperimentConfig
    tested: ModelUnderTest


@dataclass(frozen=True)
class Verdicts:
    """A classifier's verdicts on one model's images, or on real ones."""

    scored: ClassProbabilities
    doubtful: npt.NDArray[np.uint8]
    """``[K, C, H, W]``: the images whose probability is under the threshold, in the order of their places."""
    protocol: dict[str, Any]

    def images(self, places: npt.NDArray[np.intp], threshold: float) -> npt.NDArray[np.uint8]:
        """The images at ``places``, all of which must be under ``threshold``."""
        kept = np.flatnonzero(self.scored.is_low(threshold))
        return self.doubtful[np.searchsorted(kept, places)]


def check_comparable(models: Sequence[Model]) -> None:
    """Refuse to compare what is not alike.

    Raises:
        UserError: networks of other classes or resolutions.
    """
    first = models[0].config
    for model in models[1:]:
        ours = (first.model.num_classes, image_resolution(first))
        theirs = (model.config.model.num_classes, image_resolution(model.config))
        if ours != theirs:
            raise UserError(
                f"{models[0].name} draws {ours[0]} classes at {ours[1]}x{ours[1]} and {model.name} {theirs[0]} at "
                f"{theirs[1]}x{theirs[1]}: their rates cannot be compared. Study them one at a time."
            )


def judge_samples(
    model: Model,
    dataset: LatentDataset | None,
    judge: Judge,
    images: int,
    threshold: float,
    console: Console,
) -> Verdicts:
    """Draw ``images`` images with ``model``; what was drawn and judged before is not done again.

    Raises:
        UserError: an image is not finite, or the classifier cannot be loaded.
    """
    config = model.config
    key = {"classifier": judge.about, "threshold": threshold}
    folder = storage.join(config.directory, "distortion", samples_name(config, model.tested, key))
    samples = Samples(model.tested.model, dataset.info.scaling_factor if dataset else None)
    work = Work(
        config, samples, tuple(ranges_of(images, config.sampling.batch_size)), folder, judge.classifier,
        extract=False, keep_below=threshold,
    )  # fmt: skip
    pipeline.run(work, model.name, False, console)
    protocol = sample_protocol(config, model.tested)
    pairing = f"seed {config.run.seed}, labels {config.sampling.labels}"
    return _verdicts(model.name, pairing, work, protocol | {"samples": images})


def judge_real(
    config: ExperimentConfig, dataset: LatentDataset, judge: Judge, name: str, images: int, threshold: float,
    console: Console,
) -> Verdicts:  # fmt: skip
    """As many real images, if there are so many: the rate that no model can be asked to undercut.

    They are those of ``data.held_out_path``; where there is none and the classifier was trained on the dataset, the fifth of
    it that it has not seen.
    """
    held_out = config.data.held_out_path
    source = open_dataset(held_out) if held_out else dataset
    found = dataset_images(source, config)
    is_part = held_out is None and name == OWN
    share = images / (found.count * (HELD_OUT_FRACTION if is_part else 1.0))
    order = randomness.generator(0, "real-images-judged").permutation(len(found.ranges))
    chosen = sorted(order[: math.ceil(share * len(found.ranges))].tolist())
    key = [found.fingerprint, judge.about, threshold, config.sampling.vae]
    work = Work(
        config, found, tuple(found.ranges[place] for place in chosen), statistics_path(config, key, "judged"),
        judge.classifier, extract=False, keep_below=threshold,
    )  # fmt: skip
    pipeline.run(work, "real images", False, console)
    which = held_out or ("held out of the classifier's training" if is_part else "the training dataset's own")
    protocol = {"source": source.info.source, "fingerprint": found.fingerprint, "part": which}
    return _verdicts("real images", "", work, protocol, held_out_mask(found.count) if is_part else None)


def _verdicts(
    name: str, pairing: str, work: Work, protocol: dict[str, Any], chosen: npt.NDArray[np.bool_] | None = None
) -> Verdicts:
    """Of all parts; ``chosen`` says by index which images count."""
    found: dict[str, list[npt.NDArray[Any]]] = {}
    for columns in work.parts.read(list(work.ranges)):
        counted = np.ones(len(columns["label"]), bool) if chosen is None else chosen[columns["index"]]
        for key in ("label", "class_probability", "predicted"):
            found.setdefault(key, []).append(columns[key][counted])
        low = columns["class_probability"] < work.keep_below
        found.setdefault("doubtful", []).append(columns["doubtful"][counted[low]])
    joined = {key: np.concatenate(parts) for key, parts in found.items()}
    scored = ClassProbabilities(
        name, joined["label"], joined["class_probability"], joined["predicted"], pairing
    )
    return Verdicts(scored, joined["doubtful"], protocol)
