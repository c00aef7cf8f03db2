"""A sweep prepares what its trials need where they look for it."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.config.schema import ExperimentConfig
from orchestrator.scoring import evaluate
from orchestrator.scoring.cache import cache_path
from orchestrator.sweeps.ablation import Sweep, _prepare_reference
from orchestrator.sweeps.suites import Axis, Cell, Option, Suite
from tests.configs import tiny


@pytest.mark.parametrize("data", ["s3://bucket/data", "beside"])
def test_statistics_are_prepared_where_the_trials_look_for_them(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if data == "beside":
        data = str(tmp_path / "data")
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "dataset.json").touch()
    base = tiny(tmp_path, data, train={"score_images": 8})
    option = Option(name="one")
    suite = Suite(title="Test", scales={}, axes=[Axis(name="only", options=[option])])
    sweep = Sweep(config=base, suite=suite, cells=[Cell((option,), base)], prune=False, finalists=0, seeds=1)
    prepared: list[ExperimentConfig] = []
    monkeypatch.setattr(evaluate, "prepare", lambda job: prepared.append(job.config))
    dataset: Any = None
    _prepare_reference(sweep.config, dataset, Console(quiet=True))
    (trial,) = sweep.trials.values()
    assert cache_path(prepared[0], {"what": "key"}, "real") == cache_path(trial, {"what": "key"}, "real")
    assert prepared[0].evaluation.images == trial.evaluation.images
