"""What a judge's probabilities of the conditioned classes say about one or several models."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dimr_model import randomness

RESAMPLES = 10_000
NORMAL_95 = 1.959964
"""Standard deviations around the mean that hold 95% of a normal distribution."""
COVERED = (2.5, 97.5)
"""Percentiles between which 95% of the resamples lie."""


@dataclass(frozen=True)
class ClassProbabilities:
    """A judge's verdict on a set of images, in the order of their indices."""

    name: str
    labels: npt.NDArray[np.int64]
    """``[N]``: the class that was asked for, or that a real image has."""
    probabilities: npt.NDArray[np.float32]
    """``[N]``: the probability of that class."""
    predicted: npt.NDArray[np.int64]
    """``[N]``: the most likely class."""
    pairing: str = ""
    """What two sets must have in common, and not empty, so that their images of the same place are a pair. A
    pair shows the same class and began as the same noise."""

    def is_low(self, threshold: float) -> npt.NDArray[np.bool_]:
        """Tell which images are low-fidelity: the probability of their class is under ``threshold``."""
        # The paper's Section 5.3, where the threshold is 0.2.
        return self.probabilities < threshold

    def rate(self, threshold: float) -> float:
        """The low-fidelity rate: the share of images whose class has a probability under ``threshold``."""
        return float(self.is_low(threshold).mean())

    def rates_by_class(self, threshold: float, num_classes: int) -> npt.NDArray[np.float64]:
        """The low-fidelity rate of each class, ``[num_classes]``; NaN where no image shows the class."""
        counts = np.bincount(self.labels, minlength=num_classes)
        low = np.bincount(self.labels[self.is_low(threshold)], minlength=num_classes)
        return np.divide(low, counts, out=np.full(num_classes, np.nan), where=counts > 0)

    def worst(self, count: int) -> npt.NDArray[np.intp]:
        """Places of the ``count`` images with the lowest probabilities, the lowest first."""
        return np.argsort(self.probabilities, kind="stable")[:count]


@dataclass(frozen=True)
class Interval:
    """A number and its 95% interval."""

    value: float
    low: float
    high: float


def rate_intervals(scored: Sequence[ClassProbabilities], threshold: float) -> list[Interval]:
    """The low-fidelity rate of each set, with Wilson's interval (Wilson 1927).

    Unlike a bootstrap, it has a width where none or all of the images are low-fidelity.
    """
    return [_wilson(s.is_low(threshold)) for s in scored]


def _wilson(flags: npt.NDArray[np.bool_]) -> Interval:
    count, rate = len(flags), float(flags.mean())
    # The rates p for which |rate - p| is at most NORMAL_95 standard deviations sqrt(p (1 - p) / count).
    weight = NORMAL_95**2 / count
    centre = (rate + weight / 2) / (1 + weight)
    half = NORMAL_95 * np.sqrt(rate * (1 - rate) / count + weight / (4 * count)) / (1 + weight)
    # Without this, rounding may put the bound of 0 of n or n of n past the rate itself.
    return Interval(rate, min(rate, float(centre - half)), max(rate, float(centre + half)))


def difference_interval(
    one: ClassProbabilities, other: ClassProbabilities, threshold: float, seed: int
) -> Interval:
    """The low-fidelity rate of ``one`` minus that of ``other``.

    Where images of the same place began as the same noise in both sets, pairs are resampled.
    """
    low = [one.is_low(threshold), other.is_low(threshold)]
    value = one.rate(threshold) - other.rate(threshold)
    if one.pairing and one.pairing == other.pairing and len(low[0]) == len(low[1]):
        rates = _resampled(low, seed)
        return _interval(value, rates[:, 0] - rates[:, 1])
    apart = [_resampled([flags], seed + place)[:, 0] for place, flags in enumerate(low)]
    return _interval(value, apart[0] - apart[1])


def _resampled(flags: Sequence[npt.NDArray[np.bool_]], seed: int) -> npt.NDArray[np.float64]:
    """The low-fidelity rates ``[RESAMPLES, len(flags)]`` of resampled images.

    Images with the same flags are alike. So a resample is decided by how often each kind is drawn, and that
    is multinomial.
    """
    kinds, counts = np.unique(np.stack(flags, axis=1), axis=0, return_counts=True)
    total = counts.sum()
    drawn = randomness.generator(seed, "bootstrap").multinomial(total, counts / total, size=RESAMPLES)
    return drawn @ kinds.astype(np.float64) / total


def _interval(value: float, resampled: npt.NDArray[np.float64]) -> Interval:
    low, high = np.percentile(resampled, COVERED)
    return Interval(value, float(low), float(high))


@dataclass(frozen=True)
class EqualRate:
    """Models compared where each has the same share of its images rejected (the paper's Figure 1, bottom)."""

    rate: float
    """Share of a model's images that is rejected."""
    thresholds: dict[str, float]
    """Model -> the probability under which that share of its images lies. It is higher for a better model."""


def at_equal_rate(scored: Sequence[ClassProbabilities], threshold: float) -> EqualRate:
    """Compare at the smallest of the models' rates, so that all rejected images are low-fidelity."""
    # The same rejection rate for all models, as in the paper's Figure 1, bottom.
    rate = min(s.rate(threshold) for s in scored)
    return EqualRate(rate, {s.name: _quantile(s, rate) for s in scored})


def _quantile(scored: ClassProbabilities, rate: float) -> float:
    """The highest probability among the worst ``rate`` of the images; NaN if those are none."""
    worst = scored.worst(round(rate * len(scored.probabilities)))
    return float(scored.probabilities[worst[-1]]) if len(worst) else float("nan")


def as_rows(
    scored: Sequence[ClassProbabilities], intervals: Sequence[Interval], threshold: float
) -> list[dict[str, Any]]:
    """Make a table with a row for each set of images."""
    return [
        {
            "images_of": s.name,
            "images": len(s.labels),
            "low_fidelity": int(s.is_low(threshold).sum()),
            "rate": i.value,
            "rate_low": i.low,
            "rate_high": i.high,
            "accuracy": float((s.predicted == s.labels).mean()),
        }
        for s, i in zip(scored, intervals, strict=True)
    ]
