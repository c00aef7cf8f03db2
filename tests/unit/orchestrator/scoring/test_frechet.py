"""Statistics add up in any order, and the distance is torch-fidelity's and the textbook's."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.scoring.frechet import FeatureStatistics, frechet_distance


def features(seed: int, rows: int, dimensions: int = 5) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (
        random.normal(size=(rows, dimensions)) @ random.normal(size=(dimensions, dimensions))
        + random.normal()
    )


@given(st.integers(0, 100), st.lists(st.integers(1, 9), min_size=2, max_size=5), st.randoms())
def test_parts_add_up_to_numpys_mean_and_covariance(seed: int, sizes: list[int], random: object) -> None:
    rows = features(seed, sum(sizes))
    parts = np.split(rows, np.cumsum(sizes)[:-1])
    random.shuffle(parts)  # type: ignore[attr-defined]
    total = FeatureStatistics.of(parts[0])
    for more in parts[1:]:
        total = total + FeatureStatistics.of(more)
    found = total.gaussian()
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(found.covariance, np.cov(rows, rowvar=False), atol=1e-8)


def test_distance_equals_the_matrix_square_root_formula() -> None:
    one, two = features(1, 500), features(2, 400)
    covariances = [np.cov(rows, rowvar=False) for rows in (one, two)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = np.square(one.mean(0) - two.mean(0)).sum() + np.trace(
        covariances[0] + covariances[1] - 2 * root
    )
    assert frechet_distance(
        FeatureStatistics.of(one).gaussian(), FeatureStatistics.of(two).gaussian()
    ) == pytest.approx(expected, rel=1e-8)


def test_distance_of_a_set_to_itself_is_zero() -> None:
    one = FeatureStatistics.of(features(1, 300)).gaussian()
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-8)
