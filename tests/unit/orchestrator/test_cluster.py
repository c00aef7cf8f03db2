"""How a cluster is divided, told from what its nodes would say."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from orchestrator import cluster
from orchestrator.config.schema import ExperimentConfig
from tests.configs import tiny


def on_gpus(root: Path, **train: Any) -> ExperimentConfig:
    return tiny(
        root, "data", data={"path": "data", "lanes": 8},
        train={"workers": 8, "min_workers": 1, "use_gpu": True, "score_every_images": 32, **train},
        sampling={"use_gpu": True, "actors": 1},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gpus", "beside", "expected"), [(8, 0, 8), (8, 1, 4), (9, 1, 8), (5, 1, 4), (4, 1, 2), (1, 1, 0)]
)
def test_the_gpu_that_scores_is_not_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, beside: int, expected: int
) -> None:
    monkeypatch.setattr(cluster, "_resources", lambda leaving=(): (64.0, float(gpus)))
    assert cluster.workers_that_fit(on_gpus(tmp_path), gpus_beside=beside) == expected


def test_training_on_cpus_fits_beside_the_only_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_resources", lambda leaving=(): (64.0, 1.0))
    config = on_gpus(tmp_path, use_gpu=False)
    assert cluster.workers_that_fit(config) == cluster.workers_that_fit(config, gpus_beside=1) == 8


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """The CPUs and GPUs that are asked of a second autoscaler, which can give 20 and 6."""
    found: list[tuple[float, float]] = []

    def grow_to(cpus: float, gpus: float, *rest: Any) -> bool:
        found.append((cpus, gpus))
        return cpus <= 20 and gpus <= 6

    monkeypatch.setattr(cluster, "_resources", lambda leaving=(): (20.0, 6.0) if found else (0.0, 0.0))
    monkeypatch.setattr(cluster, "grow_to", grow_to)
    monkeypatch.setattr(cluster, "takes_whole_wishes", lambda: True)
    return found


def resting(root: Path, **train: Any) -> ExperimentConfig:
    config = on_gpus(root, **train)
    return dataclasses.replace(config, cluster=dataclasses.replace(config.cluster, address="host:6379"))


def test_a_run_that_takes_any_number_of_workers_asks_for_the_most_that_there_can_be(
    tmp_path: Path, asked: list[tuple[float, float]]
) -> None:
    cluster.grow_for_all_workers(resting(tmp_path))
    # Workers, scores and reading: for eight workers, then for four.
    assert asked == [(10, 8), (6, 4)]
    asked.clear()
    cluster.grow_for_all_workers(resting(tmp_path, min_workers=None))
    assert asked == []
    # To be divided it needs only the least.
    shares = cluster.divide(resting(tmp_path))
    assert asked == [(3, 1)]
    assert shares == cluster.Shares(data_cpus=15.0, has_room_for_background=True)


def test_a_first_autoscaler_is_asked_once(
    tmp_path: Path, asked: list[tuple[float, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "takes_whole_wishes", lambda: False)
    cluster.grow_for_all_workers(resting(tmp_path))
    assert asked == [(10, 8)]


def test_a_sweep_asks_for_all_its_trials_and_runs_as_many_as_fit(
    tmp_path: Path, asked: list[tuple[float, float]]
) -> None:
    trial = resting(tmp_path, workers=1, min_workers=None)
    assert cluster.trials_that_fit([trial] * 9) == 3
    # A worker, scores and reading each; the worker and the scores have a GPU. For 9 trials, then for 4 and 2.
    assert asked == [(27, 18), (12, 8), (6, 4)]


def test_trials_that_would_take_fewer_workers_get_all_of_them_or_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = on_gpus(tmp_path, workers=4)
    for gpus, expected in ((20, 4), (10, 2), (3, 1)):
        monkeypatch.setattr(cluster, "_resources", lambda leaving=(), gpus=gpus: (64.0, float(gpus)))
        side_by_side = cluster.trials_that_fit([trial] * 9)
        assert side_by_side == expected
        cluster.divide(trial, side_by_side)  # It is not refused.
