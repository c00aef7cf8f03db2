"""Numbers from the features of one extractor, with the error that chance may have made.

KID, precision, recall and the Inception Score are computed by torch-fidelity's functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from orchestrator.config.evaluation import ExtractorKind
from orchestrator.scoring import jackknife
from orchestrator.scoring.frechet import FeatureStatistics, FrechetDistance, Gaussian
from orchestrator.scoring.kernels import (
    CMMD_SCALE,
    CMMD_SIGMA,
    Kernel,
    KernelSums,
    cubic_kernel,
    gaussian_kernel,
    kernel_sums,
)
from orchestrator.scoring.neighbours import NEIGHBOURS, density_and_coverage

KID_SUBSETS = 100
MAX_KID_SUBSET_SIZE = 1000
NEIGHBORS = 3
INCEPTION_SCORE_SPLITS = 10
SEED = 2020
"""torch-fidelity's default; it decides KID's subsets and the order behind the Inception Score's splits."""
DISTANCES_AT_ONCE = 10_000


@dataclass(frozen=True)
class Collected:
    """What one extractor made of a set of images."""

    features: npt.NDArray[np.float32]
    """Features ``[N, D]``, in the order of the images."""
    parts: tuple[FeatureStatistics, ...]
    """Statistics of ``features``: of each tenth of the images, or of all of them in one."""
    spatial_parts: tuple[FeatureStatistics, ...] = ()
    """The same of Inception's spatial features."""
    logits: npt.NDArray[np.float32] | None = None
    """Inception's logits ``[N, 1008]``, without the last layer's bias."""

    @property
    def statistics(self) -> FeatureStatistics:
        """Statistics of all features."""
        return jackknife.sum_of(self.parts)

    @property
    def spatial(self) -> FeatureStatistics | None:
        """Statistics of all spatial features."""
        return jackknife.sum_of(self.spatial_parts) if self.spatial_parts else None

    @property
    def count(self) -> int:
        """The number of images, N."""
        return sum(part.count for part in self.parts)

    @property
    def groups(self) -> list[npt.NDArray[np.float32]]:
        """The features of each of ``parts``; all of them must have been kept."""
        return np.split(self.features, np.cumsum([part.count for part in self.parts])[:-1])


@dataclass(frozen=True)
class Target:
    """What a set of images is compared with."""

    gaussian: Gaussian
    spatial: Gaussian | None
    features: npt.NDArray[np.float32] | None
    """Features ``[M, D]`` of some of its images, for KID, precision and recall."""


@dataclass(frozen=True)
class Metric:
    """A number, what it means, and what its formula took."""

    name: str
    value: float
    meaning: str
    settings: dict[str, Any]
    error: float | None = None
    """Its standard error, where the images are enough to tell."""


def all_metrics(samples: Collected, target: Target, extractor: ExtractorKind) -> list[Metric]:
    """All metrics that the features of ``samples`` allow; the extractor's own distance comes first."""
    name = "fid" if extractor == "inception" else "fd"
    found = _frechet(name, samples.parts, target.gaussian, "Fréchet distance of the samples to real images")
    if samples.spatial_parts and target.spatial is not None:
        # sFID: Nash et al. 2021, "Generating images with sparse representations".
        found += _frechet(
            "sfid", samples.spatial_parts, target.spatial, "the same of features with positions"
        )
    if samples.logits is not None:
        found.append(_inception_score(samples.logits))
    if target.features is not None:
        found.append(_kid(samples, target.features))
        found += _prc(samples.features, target.features)
        found += _density_and_coverage(samples.features, target.features)
        if extractor == "clip":
            found.insert(0, _cmmd(samples, target.features))
    return found


def _frechet(name: str, parts: Sequence[FeatureStatistics], target: Gaussian, meaning: str) -> list[Metric]:
    distance, whole = FrechetDistance(target), jackknife.sum_of(parts).gaussian()
    settings, error = {}, None
    if len(parts) > 1:
        error = jackknife.error_of_distance(parts, distance)
        settings = {"error": jackknife.METHOD}
    found = [Metric(name, distance(whole), f"{meaning}; lower is better", settings, error)]
    if name != "sfid" and (at_infinity := jackknife.distance_at_infinity(parts, distance)) is not None:
        text = "what it would be with infinitely many samples, by a line in 1/count"
        found.append(Metric(f"{name}_infinity", at_infinity, text, {"fitted": jackknife.FITTED}))
    return found


def _inception_score(logits: npt.NDArray[np.float32]) -> Metric:
    from torch_fidelity.metric_isc import isc_features_to_metric

    # exp(E KL(p(y|x) || p(y))): Salimans et al. 2016, "Improved techniques for training GANs".
    settings = {"splits": INCEPTION_SCORE_SPLITS, "shuffle": True, "rng_seed": SEED}
    found = isc_features_to_metric(torch.from_numpy(logits), **settings)
    meaning = "Inception Score: sharp and varied classes; higher is better"
    return Metric("is", found["inception_score_mean"], meaning, settings)


def _kid(samples: Collected, real: npt.NDArray[np.float32]) -> Metric:
    from torch_fidelity.metric_kid import kid_features_to_metric

    # The squared MMD under the kernel (x.y / D + 1)^3: Bińkowski et al. 2018, "Demystifying MMD GANs".
    size = min(MAX_KID_SUBSET_SIZE, samples.count, len(real))
    settings: dict[str, Any] = {"kid_subsets": KID_SUBSETS, "kid_subset_size": size, "rng_seed": SEED}
    found = kid_features_to_metric(
        torch.from_numpy(samples.features), torch.from_numpy(real), verbose=False, **settings
    )
    meaning = "Kernel distance of the samples to real images, unbiased for any count; lower is better"
    error = None
    if len(samples.parts) > 1:
        error = _error(_sums(samples, real, cubic_kernel), unbiased=True)
        settings["error"] = f"{jackknife.METHOD}, of the distance of all of them at once"
    value = found["kernel_inception_distance_mean"]
    return Metric("kid", value, meaning, {**settings, "real": len(real)}, error)


def _cmmd(samples: Collected, real: npt.NDArray[np.float32]) -> Metric:
    sums = _sums(samples, real, gaussian_kernel)
    settings: dict[str, Any] = {"sigma": CMMD_SIGMA, "scale": CMMD_SCALE, "real": len(real)}
    error = None
    if len(samples.parts) > 1:
        error, settings["error"] = CMMD_SCALE * _error(sums, unbiased=False), jackknife.METHOD
    meaning = "CMMD: kernel distance of the samples to real images; lower is better"
    return Metric("cmmd", CMMD_SCALE * sums.mmd(unbiased=False), meaning, settings, error)


def _sums(samples: Collected, real: npt.NDArray[np.float32], kernel: Kernel) -> KernelSums:
    return kernel_sums(samples.groups, real, kernel)


def _error(sums: KernelSums, *, unbiased: bool) -> float:
    places = range(len(sums.counts))
    return jackknife.standard_error([sums.mmd(unbiased=unbiased, without=place) for place in places])


def _prc(samples: npt.NDArray[np.float32], real: npt.NDArray[np.float32]) -> list[Metric]:
    from torch_fidelity.metric_prc import prc_features_to_metric

    # Kynkäänniemi et al. 2019, "Improved precision and recall metric for assessing generative models".
    # In blocks: all distances between 50,000 images at once take 29 GB.
    found = prc_features_to_metric(
        torch.from_numpy(samples), torch.from_numpy(real), prc_neighborhood=NEIGHBORS,
        prc_batch_size=DISTANCES_AT_ONCE, save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    settings = {"neighbors": NEIGHBORS, "real": len(real)}
    return [
        Metric("precision", found["precision"], "fraction of samples that lie among real images", settings),
        Metric("recall", found["recall"], "fraction of real images that samples lie around", settings),
    ]


def _density_and_coverage(samples: npt.NDArray[np.float32], real: npt.NDArray[np.float32]) -> list[Metric]:
    neighbours = min(NEIGHBOURS, len(real) - 1)
    density, coverage = density_and_coverage(samples, real, neighbours)
    settings = {"neighbors": neighbours, "real": len(real)}
    return [
        Metric(
            "density", density, "real images around a sample, 1 as for real ones; higher is better", settings
        ),
        Metric("coverage", coverage, "fraction of real images with a sample near them", settings),
    ]
