"""What a sweep of many trials does for each of them does not grow with their number."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.schema import ExperimentConfig
from orchestrator.sweeps import ablation, results
from orchestrator.sweeps.pruning import PRUNED_FILE
from orchestrator.sweeps.suites import Axis, Option, Suite, cells_of
from orchestrator.tracking.journal import JOURNAL_FILE, Journal
from tests.configs import tiny

TRIALS = 12


def suite(trials: int = TRIALS) -> Suite:
    options = [Option(name=f"s{n}", changes={"run.seed": n}) for n in range(trials)]
    return Suite(title="many", scales={"nano": ["quickstart"]}, axes=[Axis(name="seed", options=options)])


def test_a_table_reads_again_the_trial_that_ended_and_those_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = cells_of(suite(), "nano", tiny(tmp_path, "data"))
    trials = {cell.name: tiny(tmp_path, "data", run={"name": cell.name}) for cell in cells}
    so_far = results.ResultsSoFar(cells, trials)
    read: list[str] = []
    real = results.scores_of
    monkeypatch.setattr(
        results, "scores_of", lambda folder: (read.append(Path(folder).name), real(folder))[1]
    )
    for name in trials:
        folder = Path(trials[name].directory)
        folder.mkdir()
        Journal(folder / JOURNAL_FILE).append("metrics", step=8, values={"loss/total": 0.5})
        found = so_far.after([name])
        assert [result.cell.name for result in found] == [cell.name for cell in cells]
    assert read == list(trials)
    assert [result.losses for result in found] == [[(8, 0.5)]] * TRIALS
    assert found == results.results_of(cells, trials, {}, {})


def test_cells_are_not_compared_each_with_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared, real = [0], ExperimentConfig.__eq__

    def counting(one: ExperimentConfig, other: object) -> bool:
        compared[0] += 1
        return real(one, other)

    monkeypatch.setattr(ExperimentConfig, "__eq__", counting)
    cells = cells_of(suite(), "nano", tiny(tmp_path, "data"))
    assert len(cells) == TRIALS and not any(cell.same_as for cell in cells)
    assert compared[0] <= TRIALS


def test_pruned_trials_are_told_of_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them takes a process."""
    alive, most, told = set[str](), [0], []

    class Told:
        def __init__(self, directory: str, *unused: Any) -> None:
            self.directory = directory
            alive.add(directory)
            most[0] = max(most[0], len(alive))
            self.log_tags = self.log_status = self
            self.remote = lambda value: told.append(directory)

    monkeypatch.setattr(ablation, "start_tracker", Told)
    monkeypatch.setattr(ablation, "close_tracker", lambda tracker: alive.discard(tracker.directory))
    configs = {str(n): tiny(tmp_path, "data", run={"name": f"trial-{n}"}) for n in range(10)}
    for config in configs.values():
        folder = Path(config.directory)
        folder.mkdir()
        (folder / PRUNED_FILE).write_text(json.dumps({"images_seen": 8}))
        Journal(folder / JOURNAL_FILE).append("status", status="RUNNING")
    ablation._tell_of_pruned(configs, 3)
    assert most[0] == 3 and not alive
    assert sorted(set(told)) == sorted(config.directory for config in configs.values())
