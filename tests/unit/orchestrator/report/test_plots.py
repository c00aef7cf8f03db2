"""Plots of many runs."""

import warnings

from orchestrator.report.plots import MOST_NAMED, _svg


def test_a_legend_leaves_room_for_the_lines() -> None:
    def lines(count: int) -> str:
        def fill(axes: object) -> None:
            for number in range(count):
                axes.plot([0, 1], [number, number], label=f"a-run-{number}")  # type: ignore[attr-defined]

        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Matplotlib warns where the lines have no room.
            return _svg(fill, "#000000")

    assert "legend" in lines(2) and "legend" not in lines(MOST_NAMED + 1)
    assert "legend" not in lines(200)
