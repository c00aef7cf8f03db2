"""Formulas against direct ones in numpy, and what is known of them without any."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.evaluation import ExtractorKind
from orchestrator.scoring import jackknife
from orchestrator.scoring.frechet import FeatureStatistics, FrechetDistance, frechet_distance
from orchestrator.scoring.kernels import cubic_kernel, gaussian_kernel, kernel_sums
from orchestrator.scoring.metrics import Collected, Metric, Target, all_metrics
from orchestrator.scoring.neighbours import density_and_coverage
from orchestrator.scoring.protocol import distance_name, is_distance

Rows = npt.NDArray[np.float32]


def rows(count: int, dimensions: int, seed: int, shift: float = 0.0) -> Rows:
    return (np.random.default_rng(seed).normal(size=(count, dimensions)) + shift).astype(np.float32)


def in_tenths(features: Rows) -> tuple[FeatureStatistics, ...]:
    return tuple(FeatureStatistics.of(part) for part in np.array_split(features, 10))


def scored(samples: Rows, real: Rows, extractor: ExtractorKind) -> dict[str, Metric]:
    target = Target(FeatureStatistics.of(real).gaussian(), None, real)
    return {one.name: one for one in all_metrics(Collected(samples, in_tenths(samples)), target, extractor)}


@given(st.integers(6, 40), st.integers(6, 40), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_density_and_coverage_are_naeems(samples: int, real: int, neighbours: int, seed: int) -> None:
    drawn, others = rows(samples, 3, seed, 0.3), rows(real, 3, seed + 1)
    distances = np.linalg.norm(others[:, None] - others[None], axis=2)
    radii = np.sort(distances, axis=1)[:, neighbours]
    across = np.linalg.norm(others[:, None] - drawn[None], axis=2)
    density = (across < radii[:, None]).sum(axis=0).mean() / neighbours
    coverage = (across.min(axis=1) < radii).mean()
    assert density_and_coverage(drawn, others, neighbours) == pytest.approx((density, coverage), rel=1e-6)


@pytest.mark.parametrize(("samples", "real"), [(4, 5), (30, 23), (2500, 12)])
def test_cmmd_is_the_mean_of_a_gaussian_kernel(samples: int, real: int) -> None:
    drawn, others = rows(samples, 6, 0, 0.5), rows(real, 6, 1)
    drawn, others = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (drawn, others))

    def mean(first: Rows, second: Rows) -> float:
        squares = np.square(first[:, None].astype(np.float64) - second[None].astype(np.float64)).sum(2)
        return float(np.exp(-squares / 200).mean())

    expected = 1000 * (mean(drawn, drawn) + mean(others, others) - 2 * mean(drawn, others))
    sums = kernel_sums(np.array_split(drawn, 4), others, gaussian_kernel)
    assert 1000 * sums.mmd(unbiased=False) == pytest.approx(expected, rel=1e-6)
    without = np.concatenate(np.array_split(drawn, 4)[1:])
    alone = kernel_sums([without], others, gaussian_kernel)
    assert sums.mmd(unbiased=False, without=0) == pytest.approx(alone.mmd(unbiased=False), rel=1e-9)


@pytest.mark.parametrize(("samples", "real"), [(4, 6), (12, 9), (40, 1200)])
def test_kid_is_unbiased_and_of_any_count(samples: int, real: int) -> None:
    drawn, others = rows(samples, 5, 2, 0.2), rows(real, 5, 3)

    def unbiased(first: Rows, second: Rows) -> float:
        one, two, across = (
            (a.astype(np.float64) @ b.astype(np.float64).T / 5 + 1) ** 3
            for a, b in ((first, first), (second, second), (first, second))
        )
        count, other = len(first), len(second)
        inside = (one.sum() - np.trace(one)) / (count * (count - 1))
        outside = (two.sum() - np.trace(two)) / (other * (other - 1))
        return float(inside + outside - 2 * across.mean())

    random, size = np.random.RandomState(2020), min(samples, real, 1000)
    subsets = [
        unbiased(
            drawn[random.choice(samples, size, replace=False)],
            others[random.choice(real, size, replace=False)],
        )
        for _ in range(100)
    ]
    found = scored(drawn, others, "efficientnet_lite0")["kid"]
    assert found.value == pytest.approx(np.mean(subsets), rel=1e-5)
    sums = kernel_sums(np.array_split(drawn, 4), others, cubic_kernel)
    assert sums.mmd(unbiased=True) == pytest.approx(unbiased(drawn, others), rel=1e-6)


def test_the_frechet_distance_is_torch_fidelitys() -> None:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    one, two = (FeatureStatistics.of(rows(200, 30, s, s / 4)).gaussian() for s in (0, 1))
    first, second = ({"mu": g.mean, "sigma": g.covariance} for g in (one, two))
    expected = fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID]
    assert frechet_distance(one, two) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_a_singular_covariance_gains_nothing_from_rounding() -> None:
    # Four images in 500 dimensions: the cross term follows from a 4x4 matrix, almost without rounding.
    samples, real = rows(4, 500, 0).astype(np.float64), rows(4, 500, 1, 0.1).astype(np.float64)
    centred = [(x - x.mean(0)) / np.sqrt(3) for x in (samples, real)]
    cross = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    difference = samples.mean(0) - real.mean(0)
    expected = difference @ difference + sum(np.square(x).sum() for x in centred) - 2 * cross
    one, two = (FeatureStatistics.of(x).gaussian() for x in (samples, real))
    assert frechet_distance(one, two) == pytest.approx(expected, rel=1e-6)


def test_the_jackknife_is_that_of_scores_without_each_tenth() -> None:
    samples, real = rows(200, 8, 4, 0.2), rows(500, 8, 5)
    distance = FrechetDistance(FeatureStatistics.of(real).gaussian())
    parts = np.array_split(samples, 10)
    values = np.array(
        [
            distance(FeatureStatistics.of(np.concatenate(parts[:i] + parts[i + 1 :])).gaussian())
            for i in range(10)
        ]
    )
    expected = np.sqrt(9 / 10 * np.square(values - values.mean()).sum())
    found = scored(samples, real, "inception")
    assert found["fid"].error == pytest.approx(expected, rel=1e-6)
    assert "jackknife" in found["fid"].settings["error"]


def test_errors_are_about_what_other_samples_would_show() -> None:
    real = rows(300, 6, 0)
    drawn = [scored(rows(200, 6, seed, 0.3), real, "clip") for seed in range(1, 25)]
    for name in ("fd", "kid", "cmmd"):
        spread = np.std([one[name].value for one in drawn], ddof=1)
        errors = [one[name].error for one in drawn]
        # Ten parts and 24 draws tell an error to about a quarter.
        assert 0.6 * spread < np.mean(errors) < 1.7 * spread, name  # type: ignore[arg-type]


def test_fid_at_infinity_is_nearer_to_the_truth() -> None:
    real = rows(100_000, 40, 0)
    target = FrechetDistance(FeatureStatistics.of(real).gaussian())
    truth = 40 * 0.1**2  # Both covariances are 1, the means differ by 0.1.
    plain, at_infinity = [], []
    for seed in range(1, 9):
        parts = in_tenths(rows(1000, 40, seed, 0.1))
        plain.append(target(jackknife.sum_of(parts).gaussian()))
        found = jackknife.distance_at_infinity(parts, target)
        assert found is not None
        at_infinity.append(found)
    assert np.mean(plain) > truth + 0.3
    assert abs(np.mean(at_infinity) - truth) < 0.2 * abs(np.mean(plain) - truth)


def test_too_few_images_have_no_fid_at_infinity() -> None:
    real = rows(400, 40, 0)
    assert "fid_infinity" not in scored(rows(80, 40, 1), real, "inception")
    assert "fid_infinity" in scored(rows(90, 40, 1), real, "inception")


def test_two_numbers_are_told_apart_by_their_errors() -> None:
    assert jackknife.can_be_told_apart(10, 1, 14, 1)
    assert not jackknife.can_be_told_apart(10, 1, 12, 1)
    assert jackknife.can_be_told_apart(10, 0.1, 12, 0.1)


def test_each_extractor_has_a_distance_of_its_own_name() -> None:
    names = {kind: distance_name(kind) for kind in ("inception", "dinov2", "clip", "dataset_classifier")}
    assert names == {"inception": "fid", "dinov2": "fd", "clip": "cmmd", "dataset_classifier": "fd"}
    for kind in ("inception", "clip", "dinov2"):
        found = scored(rows(40, 4, 1), rows(50, 4, 2), kind)
        assert next(iter(found)) == distance_name(kind)
    distances = (
        "fid50k_inception_ema",
        "fd12_dataset_classifier_exported",
        "cmmd1k_clip_ema",
        "fid_inception_ema",
    )
    others = (
        "fid_infinity50k_inception_ema",
        "fd1k_inception_real",
        "kid1k_inception_ema",
        "sfid1k_inception_ema",
    )
    assert all(map(is_distance, distances)) and not any(map(is_distance, others))
