"""Curves of a report are what counts in the journal, and tables say what is no number as well."""

from pathlib import Path

import pytest

from orchestrator.config.plain import to_yaml
from orchestrator.errors import UserError
from orchestrator.report.reading import _series, read_run, read_sweep
from orchestrator.tracking.journal import JOURNAL_FILE, Journal, read_records
from tests.configs import tiny


def test_curves_have_metrics_and_scores_and_follow_a_rewind(tmp_path: Path) -> None:
    journal = Journal(tmp_path / JOURNAL_FILE)
    journal.append("metrics", step=32, values={"eval/fd8_lite0_ema": 9.0})  # As older journals have it.
    for step in (16, 32, 48):
        journal.append("metrics", step=step, values={"loss/total": float(step)})
    journal.append("scores", step=64, values={"eval/fd8_lite0_ema": 5.0})
    journal.append("rewound", step=16)
    journal.append("metrics", step=32, values={"loss/total": 1.0})
    assert _series(read_records(str(tmp_path))) == {
        "eval/fd8_lite0_ema": [(32, 9.0), (64, 5.0)], "loss/total": [(16, 16.0), (32, 1.0)],
    }  # fmt: skip


def test_a_run_that_has_logged_nothing_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(tiny(tmp_path, "data")))
    (tmp_path / JOURNAL_FILE).touch()
    with pytest.raises(UserError, match="has logged nothing yet"):
        read_run(str(tmp_path))


def test_a_sweep_whose_trial_diverged_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "suite.json").write_text('{"title": "a suite"}')
    (tmp_path / "table.csv").write_text(
        "rate,parameters,fd250\nlow,1200,17.25\nhigh,1200,nan\nhuge,1200,inf\n"
    )
    rows = [(row["parameters"], row["fd250"]) for row in read_sweep(str(tmp_path)).rows]
    assert rows == [("1,200", "17.25"), ("1,200", "nan"), ("1,200", "inf")]
