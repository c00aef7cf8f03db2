"""A sweep prepares what its trials need where they look for it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.config.schema import ExperimentConfig
from orchestrator.scoring import evaluate
from orchestrator.scoring.cache import cache_path
from orchestrator.scoring.evaluate import make_judges
from orchestrator.sweeps.ablation import Sweep, _prepare_reference
from orchestrator.sweeps.suites import Axis, Cell, Option, Suite
from tests.configs import tiny
from tests.datasets import write_numbered


def sweep_of_one(base: ExperimentConfig) -> Sweep:
    option = Option(name="one")
    suite = Suite(title="Test", scales={}, axes=[Axis(name="only", options=[option])])
    return Sweep(config=base, suite=suite, cells=[Cell((option,), base)], prune=False, finalists=0, seeds=1)


@pytest.mark.parametrize("data", ["s3://bucket/data", "beside"])
def test_statistics_are_prepared_where_the_trials_look_for_them(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if data == "beside":
        data = str(tmp_path / "data")
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "dataset.json").touch()
    base = tiny(tmp_path, data, train={"score_images": 8})
    sweep = sweep_of_one(base)
    prepared: list[ExperimentConfig] = []
    monkeypatch.setattr(evaluate, "prepare", lambda job: prepared.append(job.config))
    dataset: Any = None
    _prepare_reference(sweep.config, dataset, Console(quiet=True))
    (trial,) = sweep.trials.values()
    assert cache_path(prepared[0], {"what": "key"}, "real") == cache_path(trial, {"what": "key"}, "real")
    assert prepared[0].evaluation.images == trial.evaluation.images


def test_the_classifier_of_the_dataset_is_an_extractor_of_every_trial(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 60, 10, size=8)
    base = tiny(
        tmp_path, dataset.path, evaluation={"extractors": ["efficientnet_lite0", "dataset_classifier"]}
    )
    sweep = sweep_of_one(
        dataclasses.replace(base, sampling=dataclasses.replace(base.sampling, actors=0, use_gpu=False))
    )
    _prepare_reference(sweep.config, dataset, Console(quiet=True))

    def kept() -> dict[Path, int]:
        files = [path for path in tmp_path.rglob("*") if path.suffix in (".npz", ".safetensors")]
        return {path: path.stat().st_mtime_ns for path in files}

    made = kept()
    assert {path.suffix for path in made} == {".npz", ".safetensors"}
    (trial,) = sweep.trials.values()
    make_judges(trial, dataset, Console(quiet=True))
    assert kept() == made
