"""How a cluster is divided, told from what its nodes would say."""

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
