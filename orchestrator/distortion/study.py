"""Sample images with each model, and have a judge say how likely each image shows the class asked for."""

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
from orchestrator.scoring.cache import cache_path
from orchestrator.scoring.held_out import HELD_OUT_FRACTION, held_out_mask
from orchestrator.scoring.model_under_test import ModelUnderTest
from orchestrator.scoring.pipeline import Samples, Work
from orchestrator.scoring.protocol import sample_protocol, samples_name
from orchestrator.scoring.real_images import dataset_images, image_resolution
from orchestrator.scoring.reference import about


@dataclass(frozen=True)
class Model:
    """One of the models that are compared."""

    name: str
    config: ExperimentConfig
    tested: ModelUnderTest


@dataclass(frozen=True)
class Verdicts:
    """A judge's verdicts on one model's samples, or on real images."""

    scored: ClassProbabilities
    doubtful: npt.NDArray[np.uint8]
    """``[K, C, H, W]``: the low-fidelity images, in the order of their places."""
    protocol: dict[str, Any]
    """What decided the images."""

    def images(self, places: npt.NDArray[np.intp], threshold: float) -> npt.NDArray[np.uint8]:
        """The images at ``places``, all of which must be under ``threshold``."""
        kept = np.flatnonzero(self.scored.is_low(threshold))
        return self.doubtful[np.searchsorted(kept, places)]


def check_comparable(models: Sequence[Model]) -> None:
    """Refuse to compare models that are not alike.

    Raises:
        UserError: they have other numbers of classes, or other resolutions.
    """
    first = models[0].config
    for model in models[1:]:
        ours = (first.model.num_classes, image_resolution(first))
        theirs = (model.config.model.num_classes, image_resolution(model.config))
        if ours != theirs:
            raise UserError(
                f"{models[0].name} samples {ours[0]} classes at {ours[1]}x{ours[1]} and {model.name} "
                f"{theirs[0]} at {theirs[1]}x{theirs[1]}: their rates cannot be compared. "
                "Study them one at a time."
            )


def judge_samples(
    model: Model,
    dataset: LatentDataset | None,
    judge: Judge,
    images: int,
    threshold: float,
    console: Console,
) -> Verdicts:
    """Sample ``images`` images with ``model`` and judge them; what was judged before is not done again.

    Raises:
        UserError: an image is not finite, or the classifier cannot be loaded.
    """
    config = model.config
    key = {"classifier": judge.about, "threshold": threshold}
    samples = Samples(model.tested.model, dataset.info.scaling_factor if dataset else None)
    protocol = sample_protocol(config, model.tested, samples.scaling_factor)
    folder = storage.join(config.directory, "distortion", samples_name(protocol, **key))
    ranges = tuple(ranges_of(images, config.sampling.batch_size))
    work = Work(config, samples, ranges, folder, judge.classifier, keep_below=threshold)
    pipeline.run(work, model.name, console)
    pairing = f"seed {config.run.seed}, labels {config.sampling.labels}"
    return _verdicts(model.name, pairing, work, protocol | {"samples": images})


def judge_real(
    config: ExperimentConfig,
    dataset: LatentDataset,
    judge: Judge,
    name: str,
    images: int,
    threshold: float,
    console: Console,
) -> Verdicts:
    """Judge as many real images, if there are so many: no model can be asked for a rate below theirs.

    They are those of ``data.held_out_path``. Where there is none, they are the training dataset's; of them
    only the fifth that the classifier has not seen, if it was trained on this dataset.
    """
    held_out = config.data.held_out_path
    source = open_dataset(held_out) if held_out else dataset
    found = dataset_images(source, config)
    is_part = held_out is None and name == OWN
    share = images / (found.count * (HELD_OUT_FRACTION if is_part else 1.0))
    order = randomness.generator(0, "real-images-judged").permutation(len(found.ranges))
    chosen = sorted(order[: math.ceil(share * len(found.ranges))].tolist())
    ranges = tuple(found.ranges[place] for place in chosen)
    key = about(found, config) | {"classifier": judge.about, "threshold": threshold}
    folder = cache_path(config, key, "judged")
    work = Work(config, found, ranges, folder, judge.classifier, keep_below=threshold)
    pipeline.run(work, "real images", console)
    which = held_out or ("held out of the classifier's training" if is_part else "the training dataset's own")
    protocol = {"source": source.info.source, "fingerprint": found.fingerprint, "part": which}
    return _verdicts("real images", "", work, protocol, held_out_mask(found.count) if is_part else None)


def _verdicts(
    name: str, pairing: str, work: Work, protocol: dict[str, Any], chosen: npt.NDArray[np.bool_] | None = None
) -> Verdicts:
    """Read the verdicts from all parts; ``chosen`` says by index which images count."""
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
