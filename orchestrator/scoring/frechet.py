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

    def __iadd__(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Add in place: a new matrix for every part costs more than the product that it is added to."""
        total, outer = self.total, self.outer
        total += other.total
        outer += other.outer
        return FeatureStatistics(self.count + other.count, total, outer)

    def __sub__(self, other: "FeatureStatistics") -> "FeatureStatistics":
        return FeatureStatistics(self.count - other.count, self.total - other.total, self.outer - other.outer)

    def gaussian(self) -> Gaussian:
        """The mean and the unbiased covariance."""
        mean = self.total / self.count
        return Gaussian(mean, (self.outer - self.count * np.outer(mean, mean)) / (self.count - 1))


class FrechetDistance:
    """The Fréchet distance of Gaussians to one, the root of whose covariance is computed once.

    It is |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)): Heusel et al. 2017, "GANs trained by a two time-scale
    update rule converge to a local Nash equilibrium". The last trace is that of (R C1 R)^(1/2), where R is
    the root of C2. That matrix is symmetric, so that its eigenvalues come faster and are real.
    """

    def __init__(self, target: Gaussian) -> None:
        self._target = target
        values, vectors = np.linalg.eigh(target.covariance)
        self._root = (vectors * np.sqrt(_above_rounding(values))) @ vectors.T

    def __call__(self, other: Gaussian) -> float:
        """The distance of ``other``."""
        target = self._target
        product = self._root @ other.covariance @ self._root
        roots = np.sqrt(_above_rounding(np.linalg.eigvalsh((product + product.T) / 2)))
        difference = other.mean - target.mean
        traces = np.trace(other.covariance) + np.trace(target.covariance)
        return float(difference @ difference + traces - 2 * roots.sum())


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """The Fréchet distance of two Gaussians."""
    return FrechetDistance(second)(first)


def _above_rounding(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Eigenvalues, with 0 for those that are 0 but for rounding: thousands of their roots would add up."""
    smallest = np.abs(values).max(initial=0) * len(values) * np.finfo(np.float64).eps
    return np.where(values > smallest, values, 0.0)
