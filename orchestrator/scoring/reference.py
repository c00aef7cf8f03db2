"""What samples are compared with: statistics of real images, made once and kept in a file.

The file is an .npz under ADM's names (``mu``, ``sigma``, ``mu_s``, ``sigma_s``). It also holds ``features``
of some of the images, for KID, precision and recall, and ``about``, which says what everything was made from.
"""

import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from dimr_model import randomness
from orchestrator import storage
from orchestrator.config.evaluation import ExtractorKind
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.compatibility import describe_vae
from orchestrator.errors import UserError
from orchestrator.scoring import pipeline
from orchestrator.scoring.cache import cache_path, get_or_make
from orchestrator.scoring.extractors import ExtractorDescription, describe_extractors
from orchestrator.scoring.features import FEATURES_FOLDER, Choose, collect
from orchestrator.scoring.frechet import Gaussian
from orchestrator.scoring.metrics import Collected, Target
from orchestrator.scoring.pipeline import Work
from orchestrator.scoring.prerequisites import require_reference
from orchestrator.scoring.protocol import VERSION
from orchestrator.scoring.real_images import RealImages, image_resolution, open_images
from orchestrator.scoring.reference_files import ADM_IMAGES, by_space, read_arrays, read_headers

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


def load_references(path: str, config: ExperimentConfig, console: Console) -> list[Reference]:
    """What ``evaluation.reference`` names, for each extractor. Of images, statistics are made.

    Raises:
        UserError: there is none, or it was made with other extractors or at another resolution.
    """
    require_reference(path, config)
    described = describe_extractors(config.evaluation)
    if not path.endswith(".npz"):
        return make_references(open_images(path, config), config, described, console)
    content = _read_npz(path)
    found = [_from_npz(path, arrays) for arrays in by_space(content).values()]
    if found:
        stored = {one.about["extractor"]["name"]: one for one in found}
        # Before anything is sampled, require_reference() has seen that there is one for each.
        return [_checked(stored[one.name], config, one, path) for one in described]
    return _from_adm(path, content, config, described, console)


def make_references(
    images: RealImages, config: ExperimentConfig, described: Sequence[ExtractorDescription], console: Console
) -> list[Reference]:
    """Statistics of all of ``images`` for each extractor, from the files of those that were made before.

    One pass over the images makes all that are missing.
    """
    facts = {one.name: facts_of(images, config, one) for one in described}
    files = {f"{cache_path(config, facts[one.name], one.name)}.npz": one.name for one in described}

    def make(missing: Sequence[str]) -> None:
        kinds = tuple(files[file] for file in missing)
        work = Work(
            config, images, images.ranges, base_of(images, config, described, kinds), extractors=kinds
        )
        pipeline.run(work, "reference", console)
        found = collect(work.parts, list(images.ranges), kinds, keep=kept(images.count))
        for file, kind in zip(missing, kinds, strict=True):
            write_reference(file, found[kind], facts[kind])
        storage.delete_folder(storage.join(work.folder, FEATURES_FOLDER))

    base = base_of(images, config, described, tuple(facts))
    return get_or_make(base, list(files), make, read_reference)


def facts_of(images: RealImages, config: ExperimentConfig, described: ExtractorDescription) -> dict[str, Any]:
    """What an extractor's statistics of images are made from."""
    return about(images, config) | {"extractor": dataclasses.asdict(described)}


def base_of(
    images: RealImages,
    config: ExperimentConfig,
    described: Sequence[ExtractorDescription],
    kinds: Sequence[ExtractorKind],
) -> str:
    """The folder in which one pass over images makes the statistics of ``kinds``."""
    judges = [dataclasses.asdict(one) for one in described if one.name in kinds]
    return cache_path(config, about(images, config) | {"extractors": judges}, "pass")


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


def join_references(references: Sequence[Reference], path: str) -> str:
    """Write statistics of the same images by several extractors into one file; returns its hash.

    The arrays of each have its name before them, ``dinov2.mu``. A single extractor's keep ADM's names.
    """
    if len(references) == 1:
        content = storage.read_bytes(references[0].path)
    else:
        arrays: dict[str, Any] = {
            f"{one.about['extractor']['name']}.{name}": array
            for one in references
            for name, array in read_arrays(one.path).items()
        }
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **arrays)
        content = stream.getvalue()
    storage.write_bytes(path, content)
    return storage.sha256_of(path)


def read_reference(path: str) -> Reference:
    """Statistics that :func:`write_reference` wrote.

    Raises:
        UserError: the file is broken.
    """
    return _from_npz(path, _read_npz(path))


def _read_npz(path: str) -> dict[str, npt.NDArray[Any]]:
    # Images are read by those who need them.
    content = read_arrays(path, but=ADM_IMAGES)
    for name, array in content.items():
        if name.rpartition(".")[2] in ("mu", "sigma") and not np.isfinite(array).all():
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
    path: str, content: dict[str, npt.NDArray[Any]], config: ExperimentConfig,
    described: Sequence[ExtractorDescription], console: Console,
) -> list[Reference]:  # fmt: skip
    """ADM's statistics as they are, for Inception.

    KID, precision and recall take the features of the images beside them, and so do all numbers of other
    extractors.
    """
    made: dict[ExtractorKind, Reference] = {}
    has_images = ADM_IMAGES in read_headers(path)
    if has_images:
        images = open_images(path, config)
        references = make_references(images, config, described, console)
        made = {one.name: reference for one, reference in zip(described, references, strict=True)}
    if "mu" in content and any(one.name == "inception" for one in described):
        facts: dict[str, Any] = {"source": path, "statistics_by": "ADM's TensorFlow Inception"}
        features = None
        if has_images:
            features = made["inception"].target.features
            facts["kind"] = "ADM's statistics; KID, precision and recall against its images"
            facts |= {"images": images.count, "resolution": images.resolution}
        else:
            facts["kind"] = "statistics without images; no KID, precision or recall"
            console.print(f"{path} holds no images, so there is no KID, precision or recall.", soft_wrap=True)
        spatial = _gaussian(content, "_s") if "mu_s" in content else None
        target = Target(_gaussian(content, ""), spatial, features)
        made["inception"] = Reference(target, facts, storage.sha256_of(path), path)
    return [made[one.name] for one in described]


def _gaussian(content: dict[str, npt.NDArray[Any]], suffix: str) -> Gaussian:
    return Gaussian(content[f"mu{suffix}"].astype(np.float64), content[f"sigma{suffix}"].astype(np.float64))


def _checked(
    reference: Reference, config: ExperimentConfig, described: ExtractorDescription, path: str
) -> Reference:
    stored, here = reference.about["extractor"], dataclasses.asdict(described)
    differing = [
        f"{name} (there {stored.get(name)}, here {value})"
        for name, value in here.items()
        if stored.get(name) != value
    ]
    if differing:
        raise UserError(
            f"The reference {path} was made with another {described.name}: {', '.join(differing)}. Name the "
            "weights that it was made with, or make it again."
        )
    if reference.about["resolution"] != image_resolution(config):
        raise UserError(
            f"The reference {path} is of {reference.about['resolution']}x{reference.about['resolution']} "
            f"images and the network samples {image_resolution(config)}x{image_resolution(config)}. Make one "
            "of that resolution."
        )
    return reference
