"""How far a number may be off by chance, from the images that it was made of left out a tenth at a time."""

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from orchestrator.scoring.frechet import FeatureStatistics, Gaussian

TENTHS = 10
FITTED = 6
"""FID-infinity is fitted to as many numbers of images: half of them, six tenths, and so on to all."""
METHOD = "delete-a-tenth jackknife over the samples; the real images are taken as they are"
COVERS_95_PERCENT = 1.96
"""Standard errors to both sides of a number that follows a normal distribution."""


def standard_error(without: Sequence[float]) -> float:
    """The standard error of a number, from its values ``without`` each of equal parts of the images."""
    parts = len(without)
    return float(np.sqrt((parts - 1) * np.var(without)))


def error_of_distance(parts: Sequence[FeatureStatistics], distance: Callable[[Gaussian], float]) -> float:
    """The standard error of a distance of all ``parts`` together."""
    whole = sum_of(parts)
    return standard_error([distance((whole - part).gaussian()) for part in parts])


def distance_at_infinity(
    parts: Sequence[FeatureStatistics], distance: Callable[[Gaussian], float]
) -> float | None:
    """The distance that infinitely many images would have, or None where there are too few to tell.

    A Fréchet distance of N images is too large by about a constant over N. A line in 1/N is fitted to the
    distances of growing numbers of images: Chong and Forsyth 2020, "Effectively unbiased FID and Inception
    Score and where to find them".
    """
    grown = list(accumulate(parts))[-FITTED:]
    # A singular covariance's distance follows no such line.
    if len(grown) < FITTED or grown[0].count <= len(grown[0].total):
        return None
    _, at_infinity = np.polyfit(
        [1 / one.count for one in grown], [distance(one.gaussian()) for one in grown], deg=1
    )
    return float(at_infinity)


def sum_of(parts: Sequence[FeatureStatistics]) -> FeatureStatistics:
    """The statistics of all ``parts`` together."""
    *_, whole = accumulate(parts)
    return whole


def can_be_told_apart(first: float, error: float, second: float, other_error: float) -> bool:
    """Whether the difference of two numbers is larger than chance makes in 95 of 100 cases."""
    return bool(abs(first - second) > COVERS_95_PERCENT * np.hypot(error, other_error))
