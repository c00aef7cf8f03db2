"""How measured quantities grow: the exponent, and the word for it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.benchmarks.scale.growth import Row, Rows, tables
from orchestrator.benchmarks.scale.planes import measure_scale
from orchestrator.errors import UserError

SIZES = (1, 8, 64, 512, 1024)


def row(*values: float) -> Row:
    return Row("seconds", "ranks", dict(zip(SIZES, values, strict=True)))


@given(st.floats(-1, 3), st.floats(0.001, 1000))
def test_the_exponent_of_a_power_is_its_own(exponent: float, scale: float) -> None:
    assert row(*(scale * size**exponent for size in SIZES)).exponent == pytest.approx(exponent, abs=1e-6)


def test_a_fixed_cost_does_not_hide_growth_at_large_sizes() -> None:
    assert row(*(100 + size**2 for size in SIZES)).growth == "grows faster"


def test_growth_in_words() -> None:
    assert row(5, 5, 5, 5, 5.2).growth == "flat"
    assert row(*(1 / size for size in SIZES)).growth == "falls"
    assert row(*(3 * size for size in SIZES)).growth == "linear"
    assert row(*(size * math.log2(2 * size) ** 3 for size in SIZES)).growth == "grows faster"
    assert row(*(math.log(size + 1) for size in SIZES)).growth in ("logarithmic", "flat")
    assert row(*(math.log(size) for size in SIZES)).growth == "logarithmic"
    assert row(*(1000 + size for size in SIZES)).growth == "below linear"
    assert row(0, 0, 0, 0, 0).growth == "flat"


def test_one_size_has_no_growth() -> None:
    with pytest.raises(ValueError, match="at least two sizes"):
        _ = Row("seconds", "ranks", {8: 1.0}).exponent


def test_quantities_of_the_same_sizes_share_a_table() -> None:
    ranks, trials = Rows("ranks"), Rows("trials")
    for size in (1, 8):
        ranks.note("seconds", size, 2.0 * size)
        ranks.note("bytes", size, 7.0)
        trials.note("files", size, 1.0)
    found = list(tables("title", [*ranks, *trials]))
    assert [(table.row_count, str(table.columns[0].header)) for table in found] == [
        (2, "ranks"),
        (1, "trials"),
    ]
    assert [str(column.header) for column in found[0].columns] == ["ranks", "1", "8", "exponent", "growth"]


def test_an_unknown_plane_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"Did you mean sweep\? Planes: data, journal"):
        measure_scale("sweeep", Console(quiet=True))
