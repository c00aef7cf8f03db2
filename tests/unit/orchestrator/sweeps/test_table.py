"""The table of a sweep: means over training seeds, and columns that do not hide each other."""

import dataclasses
from pathlib import Path

import pytest

from orchestrator.config.schema import ExperimentConfig
from orchestrator.scoring.protocol import Measurement
from orchestrator.sweeps.results import Finalist, TrialResult
from orchestrator.sweeps.suites import Axis, Option, Suite, cells_of
from orchestrator.sweeps.table import over_training_seeds, rows_of, shown, write_table
from tests.configs import tiny

RATE = Axis(name="rate", options=[
    Option(name="low", changes={"train.learning_rate": 1e-4}),
    Option(name="high", changes={"train.learning_rate": 1e-2}),
])  # fmt: skip
SEED = Axis(name="seed", options=[
    Option(name="s0"),
    Option(name="s1", scales={"nano": {"run.seed": 1}}),
    Option(name="s2", changes={"run.seed": 2}),
])  # fmt: skip
BOTH = Axis(name="both", options=[
    Option(name="a"), Option(name="b", changes={"run.seed": 1, "train.learning_rate": 1e-2}),
])  # fmt: skip


def config(folder: Path) -> ExperimentConfig:
    return tiny(folder, "data", train={"score_images": 12}, evaluation={"images": 12})


def results(folder: Path, suite: Suite, distances: list[float | None]) -> list[TrialResult]:
    cells = cells_of(suite, "nano", config(folder))
    return [
        TrialResult(cell, "not run") if value is None else TrialResult(cell, "finished", scores=[(64, value)])
        for cell, value in zip(cells, distances, strict=True)
    ]


def suite_of(*axes: Axis) -> Suite:
    return Suite(title="a suite", scales={"nano": ["quickstart"]}, axes=list(axes))


def test_trials_that_differ_by_their_seed_alone_are_averaged(tmp_path: Path) -> None:
    suite = suite_of(RATE, SEED)
    found = results(tmp_path, suite, [10.0, 11.0, 15.0, 20.0, None, None])
    assert over_training_seeds(suite, config(tmp_path), found) == [
        {"rate": "low", "finished": "3", "fd12": "12 ± 2.6"},
        {"rate": "high", "finished": "1", "fd12": "20"},
    ]
    write_table(suite, config(tmp_path), found)
    text = (Path(config(tmp_path).directory) / "table.md").read_text()
    assert "| low | 3 | 12 ± 2.6 |" in text


def test_the_suites_metrics_of_trials_without_finalists_are_in_both_tables(tmp_path: Path) -> None:
    suite = dataclasses.replace(suite_of(SEED), metrics=["class_agreement", "recall"])
    found = [
        dataclasses.replace(
            result, metrics={"class_agreement_12_ema": value, "recall12_efficientnet_lite0_ema": 0.25}
        )
        for result, value in zip(results(tmp_path, suite, [10.0, 11.0, None])[:2], (0.5, 0.75), strict=True)
    ]
    table = shown(suite, rows_of(suite, config(tmp_path), found))
    assert [(row["class_agreement12"], row["recall12"]) for row in table] == [
        ("0.5", "0.25"),
        ("0.75", "0.25"),
    ]
    (mean,) = over_training_seeds(suite, config(tmp_path), found)
    assert (mean["class_agreement12"], mean["recall12"]) == ("0.625 ± 0.18", "0.25 ± 0")


@pytest.mark.parametrize("axis", [RATE, BOTH])
def test_an_axis_that_changes_more_than_the_seed_is_not_averaged_over(tmp_path: Path, axis: Axis) -> None:
    suite = suite_of(axis)
    assert over_training_seeds(suite, config(tmp_path), results(tmp_path, suite, [10.0, 20.0])) == []


def test_a_cell_that_another_one_stands_for_counts_once(tmp_path: Path) -> None:
    again = Axis(name="seed", options=[Option(name="s0"), Option(name="same", changes={"run.seed": 0})])
    found = results(tmp_path, suite_of(again), [10.0, 10.0])
    assert over_training_seeds(suite_of(again), config(tmp_path), found) == [{"finished": "1", "fd12": "10"}]


def test_a_group_whose_trials_are_another_group_s_has_their_mean(tmp_path: Path) -> None:
    same = Axis(name="rate", options=[Option(name="none"), Option(name="no other")])
    suite = suite_of(same, SEED)
    found = results(tmp_path, suite, [10.0, 11.0, 15.0] * 2)
    assert [result.cell.same_as for result in found[3:]] == ["none-s0", "none-s1", "none-s2"]
    rows = over_training_seeds(suite, config(tmp_path), found)
    assert [(row["finished"], row["fd12"]) for row in rows] == [("3", "12 ± 2.6")] * 2


def test_scores_of_as_many_samples_as_the_evaluation_stay_in_the_table(tmp_path: Path) -> None:
    suite = suite_of(RATE)
    first, second = results(tmp_path, suite, [10.0, 20.0])
    finals = [
        Finalist(seed, [Measurement(
            metric="fd", count=12, extractor="efficientnet_lite0", images="ema", value=value, meaning="",
            protocol={"samples": {}},
        )])
        for seed, value in enumerate([9.0, 11.0])
    ]  # fmt: skip
    first = TrialResult(first.cell, first.status, scores=first.scores, finals=finals)
    table = shown(suite, rows_of(suite, config(tmp_path), [first, second]))
    assert [row["fd12"] for row in table] == ["10", "20"]
    assert [row["fd12 of finalists"] for row in table] == ["10 ± 1.4", ""]
