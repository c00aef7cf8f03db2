"""What samples are compared with: statistics of real images, made once and kept in a file.

The file is an .npz under ADM's names (``mu``, ``sigma``, ``mu_s``, ``sigma_s``). It also holds ``features``
of some of the images, for KID, precision and recall, and ``about``, which says what everything was made from.
"""

import dataclasses
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from dimr_model import randomness
from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.compatibility import describe_vae
from orchestrator.errors import UserError
from orchestrator.scoring import pipeline
from orchestrator.scoring.cache import cache_path, get_or_make
from orchestrator.scoring.extractors import ExtractorDescription, describe_extractor
from orchestrator.scoring.features import FEATURES_FOLDER, Choose, collect
from orchestrator.scoring.frechet import Gaussian
from orchestrator.scoring.metrics import Collected, Target
from orchestrator.scoring.pipeline import Work
from orchestrator.scoring.prerequisites import require_reference
from orchestrator.scoring.protocol import VERSION
from orchestrator.scoring.real_images import RealImages, image_resolution, open_images
from orchestrator.scoring.reference_files import ADM_IMAGES, read_arrays, read_headers

MAX_KEPT_FEATURES = 10_000
"""As many as ADM's reference files hold images for precision and recall."""


@dataclass(frozen=True)
class Reference:
    """Statistics of real images, and what one must know of them."""

    target: Target
    about: dict[str, Any]
    """source, fingerprint, images, resolution, and the extractor's description where it is known."""
    sha256: str
    """Hash of the file."""
    path: str


def load_reference(path: str, config: ExperimentConfig, console: Console) -> Reference:
    """The reference that ``evaluation.reference`` names; where it names images, their statistics are made.

    Raises:
        UserError: there is none, or it was made with another extractor or at another resolution.
    """
    require_reference(path, config)
    described = dataclasses.asdict(describe_extractor(config.evaluation))
    if not path.endswith(".npz"):
        return make_reference(open_images(path, config), config, described, console)
    content = _read_npz(path)
    if "about" in content:
        return _checked(_from_npz(path, content), config, described, path)
    return _from_adm(path, content, config, described, console)


def make_reference(
    images: RealImages, config: ExperimentConfig, described: dict[str, Any], console: Console
) -> Reference:
    """Statistics of all of ``images``, read from their file where they were made before."""
    facts = about(images, config) | {"extractor": described}
    folder = cache_path(config, facts, described["name"])

    def make() -> None:
        work = Work(config, images, images.ranges, folder)
        pipeline.run(work, "reference", console)
        found = collect(work.parts, list(images.ranges), keep=kept(images.count))
        write_reference(f"{folder}.npz", found, facts)
        storage.delete_folder(storage.join(folder, FEATURES_FOLDER))

    return get_or_make(folder, [f"{folder}.npz"], make, read_reference)[0]


def kept(count: int) -> Choose:
    """Which of ``count`` images keep their features: a fixed random choice of their places in the source."""
    mask = np.zeros(count, bool)
    mask[randomness.generator(0, "reference-features").permutation(count)[:MAX_KEPT_FEATURES]] = True
    return lambda columns: mask[columns["index"]]


def about(images: RealImages, config: ExperimentConfig) -> dict[str, Any]:
    """What is to be known of real images: everything that changes a pixel of them, and their source."""
    source = images.dataset.info.source if images.dataset else images.path
    facts: dict[str, Any] = {"source": source, "kind": images.kind, "fingerprint": images.fingerprint}
    if images.dataset is not None and images.dataset.info.kind == "moments":
        facts |= {
            "decoded_from": f"latents of {images.dataset.info.encoder}",
            "scaling_factor": images.dataset.info.scaling_factor,
            "vae": describe_vae(config),
        }
    # Datasets of older code do not say how they were decoded, and are found under their old key.
    if images.dataset is not None and images.dataset.info.decoding is not None:
        facts["decoding"] = images.dataset.info.decoding
    return {"version": VERSION, **facts, "resolution": images.resolution}


def write_reference(path: str, found: Collected, facts: dict[str, Any]) -> None:
    """Write statistics into the file ``path``, in one piece."""
    gaussian = found.statistics.gaussian()
    arrays: dict[str, Any] = {"mu": gaussian.mean, "sigma": gaussian.covariance, "features": found.features}
    if found.spatial is not None:
        spatial = found.spatial.gaussian()
        arrays |= {"mu_s": spatial.mean, "sigma_s": spatial.covariance}
    content = io.BytesIO()
    np.savez(content, about=np.array(json.dumps({**facts, "images": found.count})), **arrays)
    storage.write_bytes(path, content.getvalue())


def read_reference(path: str) -> Reference:
    """Statistics that :func:`write_reference` wrote.

    Raises:
        UserError: the file is broken.
    """
    return _from_npz(path, _read_npz(path))


def _read_npz(path: str) -> dict[str, npt.NDArray[Any]]:
    # Images are read by those who need them.
    content = read_arrays(path, but=ADM_IMAGES)
    for name in ("mu", "sigma"):
        if name in content and not np.isfinite(content[name]).all():
            raise UserError(f"{name} in {path} is not finite. Fetch or make it again.")
    return content


def _from_npz(path: str, content: dict[str, npt.NDArray[Any]]) -> Reference:
    try:
        facts = json.loads(str(content["about"]))
        target = Target(
            _gaussian(content, ""),
            _gaussian(content, "_s") if "mu_s" in content else None,
            content["features"],
        )
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} cannot be read as reference statistics ({error}). Make it again.") from error
    return Reference(target, facts, storage.sha256_of(path), path)


def _from_adm(
    path: str, content: dict[str, npt.NDArray[Any]], config: ExperimentConfig, described: dict[str, Any],
    console: Console,
) -> Reference:  # fmt: skip
    """ADM's statistics as they are; KID, precision and recall take the features of the images beside them."""
    if "mu" not in content:
        return make_reference(open_images(path, config), config, described, console)
    if described["name"] != "inception" or len(content["mu"]) != described["dimensions"]:
        raise UserError(
            f"{path} holds statistics of Inception's features and evaluation.extractor is "
            f"{described['name']}. Set --evaluation.extractor inception, or another --evaluation.reference."
        )
    facts: dict[str, Any] = {"source": path, "statistics_by": "ADM's TensorFlow Inception"}
    features = None
    if ADM_IMAGES in read_headers(path):
        images = open_images(path, config)
        features = make_reference(images, config, described, console).target.features
        facts["kind"] = "ADM's statistics; KID, precision and recall against its images"
        facts |= {"images": images.count, "resolution": images.resolution}
    else:
        facts["kind"] = "statistics without images; no KID, precision or recall"
        console.print(f"{path} holds no images, so there is no KID, precision or recall.", soft_wrap=True)
    target = Target(_gaussian(content, ""), _gaussian(content, "_s") if "mu_s" in content else None, features)
    return Reference(target, facts, storage.sha256_of(path), path)


def _gaussian(content: dict[str, npt.NDArray[Any]], suffix: str) -> Gaussian:
    return Gaussian(content[f"mu{suffix}"].astype(np.float64), content[f"sigma{suffix}"].astype(np.float64))


def _checked(
    reference: Reference, config: ExperimentConfig, described: dict[str, Any], path: str
) -> Reference:
    stored = reference.about["extractor"]
    differing = [
        f"{name} (there {stored.get(name)}, here {described[name]})"
        for name in (field.name for field in dataclasses.fields(ExtractorDescription))
        if stored.get(name) != described[name]
    ]
    if differing:
        raise UserError(
            f"The reference {path} was made with another extractor: {', '.join(differing)}. "
            "Set --evaluation.extractor to its, or make it again."
        )
    if reference.about["resolution"] != image_resolution(config):
        raise UserError(
            f"The reference {path} is of {reference.about['resolution']}x{reference.about['resolution']} "
            f"images and the network samples {image_resolution(config)}x{image_resolution(config)}. Make one "
            "of that resolution."
        )
    return reference
