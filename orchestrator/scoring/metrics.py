"""Numbers from features, by torch-fidelity's formulas.

They are Fréchet distances, KID, precision and recall, and the Inception Score.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from orchestrator.scoring.frechet import FeatureStatistics, Gaussian, frechet_distance

KID_SUBSETS = 100
MAX_KID_SUBSET_SIZE = 1000
NEIGHBORS = 3
INCEPTION_SCORE_SPLITS = 10
SEED = 2020
"""torch-fidelity's default; it decides KID's subsets and the order behind the Inception Score's splits."""
DISTANCES_AT_ONCE = 10_000


@dataclass(frozen=True)
class Collected:
    """What was extracted from a set of images."""

    features: npt.NDArray[np.float32]
    """Features ``[N, D]``, in the order of the images."""
    statistics: FeatureStatistics
    """Statistics of ``features``."""
    spatial: FeatureStatistics | None = None
    """Statistics of Inception's spatial features."""
    logits: npt.NDArray[np.float32] | None = None
    """Inception's logits ``[N, 1008]``, without the last layer's bias."""

    @property
    def count(self) -> int:
        """The number of images, N."""
        return self.statistics.count


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


def all_metrics(samples: Collected, target: Target, is_fid: bool) -> list[Metric]:
    """All metrics that the features of ``samples`` allow.

    Args:
        is_fid: whether the features are Inception's, so that the distance may be called FID.
    """
    distance = frechet_distance(samples.statistics.gaussian(), target.gaussian)
    meaning = "Fréchet distance of the samples to real images; lower is better"
    found = [Metric("fid" if is_fid else "fd", distance, meaning, {})]
    if samples.spatial is not None and target.spatial is not None:
        # sFID: Nash et al. 2021, "Generating images with sparse representations".
        spatial = frechet_distance(samples.spatial.gaussian(), target.spatial)
        found.append(Metric("sfid", spatial, "the same of features that keep positions; lower is better", {}))
    if samples.logits is not None:
        found.append(_inception_score(samples.logits))
    if target.features is not None:
        found += [_kid(samples.features, target.features), *_prc(samples.features, target.features)]
    return found


def _inception_score(logits: npt.NDArray[np.float32]) -> Metric:
    from torch_fidelity.metric_isc import isc_features_to_metric

    # exp(E KL(p(y|x) || p(y))): Salimans et al. 2016, "Improved techniques for training GANs".
    settings = {"splits": INCEPTION_SCORE_SPLITS, "shuffle": True, "rng_seed": SEED}
    found = isc_features_to_metric(torch.from_numpy(logits), **settings)
    meaning = "Inception Score: sharp and varied classes; higher is better"
    return Metric("is", found["inception_score_mean"], meaning, settings)


def _kid(samples: npt.NDArray[np.float32], real: npt.NDArray[np.float32]) -> Metric:
    from torch_fidelity.metric_kid import kid_features_to_metric

    # The squared MMD under the kernel (x.y / D + 1)^3: Bińkowski et al. 2018, "Demystifying MMD GANs".
    size = min(MAX_KID_SUBSET_SIZE, len(samples), len(real))
    settings = {"kid_subsets": KID_SUBSETS, "kid_subset_size": size, "rng_seed": SEED}
    found = kid_features_to_metric(
        torch.from_numpy(samples), torch.from_numpy(real), verbose=False, **settings
    )
    meaning = "Kernel distance of the samples to real images, unbiased for any count; lower is better"
    return Metric("kid", found["kernel_inception_distance_mean"], meaning, {**settings, "real": len(real)})


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
