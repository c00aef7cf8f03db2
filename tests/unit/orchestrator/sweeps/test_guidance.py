"""The table of a guidance sweep, whose rows are of few samples and of many."""

from orchestrator.artifacts import csv_of
from orchestrator.sweeps.guidance import GuidanceResult, Setting, _rows


def test_rows_of_few_samples_have_the_columns_of_those_of_many() -> None:
    setting = Setting(2.0, (0.0, 1000.0))
    few = GuidanceResult(setting, 100, {"fd_x_ema": 3.0, "kid_x_ema": 1.0})
    many = GuidanceResult(setting, 1000, {"fd_x_ema": 2.0, "fd_infinity_x_ema": 1.5, "kid_x_ema": 1.0})
    rows = _rows([few, many])
    assert [list(row)[4:] for row in rows] == [["fd_x_ema", "kid_x_ema", "fd_infinity_x_ema"]] * 2
    assert [row["fd_infinity_x_ema"] for row in rows] == ["", 1.5]
    assert len(csv_of(rows).splitlines()) == 3
