"""Feature statistics that add up in any order, and the Fréchet distance between two of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Gaussian:
    """A mean ``[D]`` and a covariance ``[D, D]``, float64."""

    mean: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]


@dataclass(frozen=True)
class FeatureStatistics:
    """Count, sum ``[D]`` and sum of outer products ``[D, D]`` of feature vectors, in float64."""

    count: int
    total: npt.NDArray[np.float64]
    outer: npt.NDArray[np.float64]

    @staticmethod
    def of(features: npt.NDArray[Any]) -> "FeatureStatistics":
        """Statistics of ``features [N, D]``."""
        wide = features.astype(np.float64)
        return FeatureStatistics(len(wide), wide.sum(axis=0), wide.T @ wide)

    def __add__(self, other: "FeatureStatistics") -> "FeatureStatistics":
        return FeatureStatistics(self.count + other.count, self.total + other.total, self.outer + other.outer)

    def gaussian(self) -> Gaussian:
        """The mean and the unbiased covariance."""
        mean = self.total / self.count
        return Gaussian(mean, (self.outer - self.count * np.outer(mean, mean)) / (self.count - 1))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """The Fréchet distance of two Gaussians, by torch-fidelity's formula."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    # |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)): Heusel et al. 2017, "GANs trained by a two time-scale
    # update rule converge to a local Nash equilibrium".
    one, two = ({"mu": g.mean, "sigma": g.covariance} for g in (first, second))
    return float(fid_statistics_to_metric(one, two, verbose=False)[KEY_METRIC_FID])
