"""A sweep's plots: distance by option, against parameters and multiply-adds, and as training goes on."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orchestrator import storage
from orchestrator.artifacts import COLOURS, line_style, png_of
from orchestrator.sweeps.results import TrialResult
from orchestrator.sweeps.suites import Suite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONG_NAME = 12
"""Letters of the longest option's name above which the names are slanted."""


def write_plots(suite: Suite, results: list[TrialResult], folder: str, distance: str) -> list[str]:
    """Write the plots that there are numbers for as PNGs, and return their names."""
    scored = [result for result in results if result.distance is not None]
    if not scored:
        return []
    plots: dict[str, Callable[[], Figure]] = {
        "distance": lambda: _by_option(suite, scored, distance),
        "size": lambda: _by_size(suite, scored, distance),
        "curves": lambda: _curves(scored, distance),
    }
    for name, make in plots.items():
        storage.write_bytes(storage.join(folder, f"{name}.png"), png_of(make()))
    return list(plots)


def _by_option(suite: Suite, scored: list[TrialResult], distance: str) -> "Figure":
    """Plot the first axis's options along x, with a line for each combination of the other axes' options.

    The distances are those with few samples, which all trials have.
    """
    figure, axes = _figure(1, 6.4)
    names = [option.name for option in suite.axes[0].options]
    lines = _groups(scored)
    for number, (line, members) in enumerate(lines.items()):
        style = line_style(number)
        whole = {o.cell.options[0].name: o.distance for o in members if o.status == "finished"}
        rest = {o.cell.options[0].name: o.distance for o in members if o.status != "finished"}
        # What is missing interrupts the line.
        heights = [whole.get(name, math.nan) for name in names]
        axes[0].plot(heights, linestyle="-" if line else "", label=line or None, **style)
        heights = [rest.get(name, math.nan) for name in names]
        axes[0].plot(heights, linestyle="", markerfacecolor="none", **style)
    # Long names would run into each other.
    slanted: dict[str, Any] = {"rotation": 20, "ha": "right"} if max(map(len, names)) > LONG_NAME else {}
    axes[0].set_xticks(range(len(names)), names, **slanted)
    axes[0].set(
        xlabel=suite.axes[0].name,
        ylabel=f"{distance} (lower is better)",
        title=f"{suite.title}\nhollow: pruned, at the last score",
    )
    if any(lines):
        axes[0].legend(fontsize="small")
    return figure


def _by_size(suite: Suite, scored: list[TrialResult], distance: str) -> "Figure":
    figure, axes = _figure(2, 10)
    for axis, (what, unit) in zip(axes, {"parameters": 1e6, "macs": 1e6}.items(), strict=True):
        for number, (line, members) in enumerate(_groups(scored).items()):
            style = line_style(number)
            for result in members:
                face = None if result.status == "finished" else "none"
                point = (getattr(result, what) / unit, result.distance)
                axis.plot(*point, **style, markerfacecolor=face, linestyle="")
                axis.annotate(
                    result.cell.options[0].name,
                    point,
                    textcoords="offset points",
                    xytext=(5, 3),
                    fontsize="x-small",
                )
            axis.plot([], [], **style, linestyle="", label=line or None)
        axis.margins(0.2, 0.1)  # Room for the labels.
        names = {"parameters": "million parameters", "macs": "million multiply-adds a forward pass"}
        axis.set(xlabel=names[what], ylabel=f"{distance} (lower is better)")
    if any(_groups(scored)):
        axes[0].legend(fontsize="small")
    figure.suptitle(f"{suite.title}; hollow: pruned")
    return figure


def _curves(scored: list[TrialResult], distance: str) -> "Figure":
    figure, axes = _figure(2, 11)
    for number, result in enumerate(scored):
        style = line_style(number) | {"linestyle": ("-", "--", ":")[number // len(COLOURS) % 3]}
        label = " ".join(option.name for option in result.cell.options)
        axes[0].plot(*_columns(result.scores), label=label, **style)
        axes[1].plot(*_columns(result.losses), linewidth=1, **style | {"marker": None})
    axes[0].set(xlabel="images seen", ylabel=f"{distance} (lower is better)", title="by training progress")
    axes[1].set(
        xlabel="images seen", ylabel="training loss", title="loss (its scale differs with the branches)"
    )
    axes[0].legend(fontsize="x-small", ncols=2)
    return figure


def _groups(scored: list[TrialResult]) -> dict[str, list[TrialResult]]:
    """The results, grouped by their options of all axes but the first."""
    groups: dict[str, list[TrialResult]] = {}
    for result in scored:
        groups.setdefault(", ".join(option.name for option in result.cell.options[1:]), []).append(result)
    return groups


def _columns(points: list[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [x for x, _ in points], [y for _, y in points]


def _figure(columns: int, width: float) -> tuple["Figure", list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.2), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, list(axes)
