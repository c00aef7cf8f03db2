"""Curves of one or several runs as SVG, once for light and once for dark pages."""

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.artifacts import line_style
from orchestrator.report.reading import RunData, Series
from orchestrator.scoring.protocol import is_distance

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 500
MOST_NAMED = 30
"""Lines above which there is no legend: it would leave no room for them."""
INK = {"light": "#1f2937", "dark": "#e5e7eb"}
Plot = dict[str, str]
"""Theme of the page, ``light`` or ``dark`` -> SVG."""


def curves(runs: Sequence[RunData]) -> dict[str, Plot]:
    """Plot everything of which some run has at least two points: title -> plot."""
    wanted: dict[str, tuple[str, str, Callable[[str], bool]]] = {
        "Training loss": ("loss", "log", lambda key: key == "loss/total"),
        "Loss on held-out images": ("loss", "log", lambda key: key == "held_out/loss/total"),
        "Distance as training goes on": ("distance of the samples", "log", _is_distance),
        "Gradient norm": ("norm before clipping", "log", lambda key: key == "train/gradient_norm"),
        "Speed": ("images/s", "linear", lambda key: key == "train/images_per_second"),
    }
    found = {}
    for title, (label, scale, is_meant) in wanted.items():
        lines = {
            (run.name, key): run.series[key]
            for run in runs
            for key in sorted(run.series)
            if is_meant(key) and len(run.series[key]) > 1
        }
        if lines:
            found[title] = _both(partial(_add_lines, lines=lines, label=label, scale=scale))
    return found


def _is_distance(key: str) -> bool:
    return key.startswith("eval/") and is_distance(key.removeprefix("eval/"))


def precision_and_recall(runs: Sequence[RunData]) -> Plot | None:
    """Plot a point for every scored set of samples that has precision and recall; None if none has both."""
    points: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        for scored in (run.final, *run.evaluations):
            values = {name: entry["value"] for name, entry in scored.get("metrics", {}).items()}
            precision = next((v for name, v in values.items() if name.startswith("precision")), None)
            recall = next((v for name, v in values.items() if name.startswith("recall")), None)
            if precision is not None and recall is not None:
                points.setdefault(run.name, []).append((recall, precision))
    if not points:
        return None

    def add_points(axes: "Axes") -> None:
        for number, (name, values) in enumerate(points.items()):
            axes.plot(*zip(*values, strict=True), linestyle="", label=name, **_visible(line_style(number)))
        axes.set(xlabel="recall (fraction)", ylabel="precision (fraction)", xlim=(0, 1), ylim=(0, 1))

    return _both(add_points)


def _add_lines(axes: "Axes", lines: dict[tuple[str, str], Series], label: str, scale: str) -> None:
    several = len({key for _, key in lines}) > 1
    runs = list(dict.fromkeys(name for name, _ in lines))
    for (name, key), series in lines.items():
        thinned = series[:: max(1, len(series) // MOST_POINTS)]
        style = _visible(line_style(runs.index(name)))
        if len(thinned) > 20:
            del style["marker"]
        text = f"{name} {key.rpartition('/')[2]}" if several else name
        axes.plot(*zip(*thinned, strict=True), label=text, linewidth=1.4, **style)
    axes.set(xlabel="images seen", ylabel=label, yscale=scale)
    if scale == "linear":
        axes.set_ylim(bottom=0)


def _visible(style: dict[str, Any]) -> dict[str, Any]:
    """Give black lines the colour of the text."""
    import matplotlib

    return style | ({"color": matplotlib.rcParams["text.color"]} if style["color"] == "#000000" else {})


def _both(fill: Callable[["Axes"], None]) -> Plot:
    """Make a plot for both themes; ``fill`` puts into its axes what it shows."""
    return {theme: _svg(fill, ink) for theme, ink in INK.items()}


def _svg(fill: Callable[["Axes"], None], ink: str) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    colours: dict[str, Any] = dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), ink
    )
    # A fixed salt and no date: the same runs give the same page.
    colours |= {"svg.hashsalt": "dimr", "legend.frameon": False, "font.size": 9}
    with matplotlib.rc_context(colours):  # type: ignore[arg-type]
        figure: Figure = Figure(figsize=(5.6, 3.4), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        fill(axes)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if 1 < len(axes.lines) <= MOST_NAMED:
            axes.legend(fontsize="small")
        content = io.StringIO()
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()
