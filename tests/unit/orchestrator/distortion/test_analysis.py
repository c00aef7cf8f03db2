import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.distortion.analysis import (
    ClassProbabilities,
    at_equal_rate,
    difference_interval,
    rate_intervals,
)


def scored(probabilities: list[float], name: str = "a", pairing: str = "") -> ClassProbabilities:
    values = np.array(probabilities, np.float32)
    labels = np.arange(len(values)) % 3
    return ClassProbabilities(name, labels, values, labels, pairing)


@given(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=50), st.floats(0.05, 0.95))
def test_rates_by_class_average_to_the_whole_rate(probabilities: list[float], threshold: float) -> None:
    one = scored(probabilities)
    counts = np.bincount(one.labels, minlength=4)
    rates = one.rates_by_class(threshold, 4)
    assert np.isnan(rates[3])
    assert (rates[:3] * counts[:3]).sum() / counts.sum() == pytest.approx(one.rate(threshold))


def test_intervals_cover_the_true_rate_about_as_often_as_they_say() -> None:
    random, covered = np.random.default_rng(0), 0
    for _ in range(200):
        sample = scored((random.random(400) * 2).clip(0, 1).tolist())
        (interval,) = rate_intervals([sample], 0.2)
        covered += interval.low <= 0.1 <= interval.high
    assert 180 <= covered <= 198


def test_the_interval_of_no_image_or_all_images_has_a_width() -> None:
    # Newcombe 1998, Table I: 0 of 20, 1 of 29, 15 of 148 and 81 of 263.
    for low, count, expected in (
        (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718)), (15, 148, (0.0624, 0.1605)),
        (81, 263, (0.2553, 0.3662)), (20, 20, (0.8389, 1.0)),
    ):  # fmt: skip
        (interval,) = rate_intervals([scored([0.1] * low + [0.9] * (count - low))], 0.2)
        assert (interval.low, interval.high) == pytest.approx(expected, abs=5e-5)


def test_pairs_make_differences_sharper() -> None:
    random = np.random.default_rng(0)
    one = random.random(500)
    other = one * np.where(
        np.arange(500) % 50 == 0, 0.1, 1.0
    )  # worse in a few images, and the same in all others

    def width(pairing: str) -> float:
        found = difference_interval(
            scored(other.tolist(), "b", pairing), scored(one.tolist(), "a", pairing), 0.2, 0
        )
        assert found.value > 0
        return found.high - found.low

    assert width("seed 0") < width("") / 3


def test_an_equal_rate_is_the_smallest_and_better_models_have_higher_thresholds_there() -> None:
    better = scored([0.15, 0.18, *np.linspace(0.3, 1, 98)], "better")
    worse = scored([*np.linspace(0.01, 0.19, 10), *np.linspace(0.3, 1, 90)], "worse")
    equal = at_equal_rate([better, worse], 0.2)
    assert equal.rate == pytest.approx(0.02)
    assert equal.thresholds["better"] == pytest.approx(0.18)
    assert equal.thresholds["worse"] == pytest.approx(0.03)


def test_without_doubtful_images_there_is_no_threshold() -> None:
    equal = at_equal_rate([scored([0.9] * 5), scored([0.1] * 5, "b")], 0.2)
    assert equal.rate == 0
    assert all(np.isnan(value) for value in equal.thresholds.values())
