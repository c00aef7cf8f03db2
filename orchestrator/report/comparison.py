"""Which scores differ by more than chance."""

import json
from collections.abc import Sequence
from typing import Any

from orchestrator.report.reading import RunData
from orchestrator.scoring.jackknife import can_be_told_apart
from orchestrator.scoring.protocol import is_distance

PLUS_MINUS = "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"
OF_A_ROW = ("weights", "images_seen", "seed", "settings", "guidance", "sampler", "vae", "scaling_factor")
"""Parts of a protocol in which scores may differ that are ranked; all others must be the same."""


def value_text(entry: dict[str, Any]) -> str:
    """A number of ``metrics.json``, with its standard error where it has one; no line is broken between."""
    error = f"{PLUS_MINUS}{entry['error']:.2g}" if "error" in entry else ""
    return f"{entry['value']:.4g}{error}"


def indistinguishable(scored: Sequence[tuple[RunData, dict[str, Any]]]) -> list[str]:
    """Say, for each distance that was measured alike in several scores, which are as good as the smallest.

    Errors are standard errors by the jackknife: of other samples of the same weights, and not of another
    training.
    """
    groups: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = {}
    for run, one in scored:
        for name, entry in one["metrics"].items():
            if is_distance(name) and "error" in entry:
                alike = {key: value for key, value in entry["protocol"].items() if key not in OF_A_ROW}
                seed = entry["protocol"]["seed"]
                told = f"{run.name} after {one['images_seen'] or 0:,} images with seed {seed}"
                groups.setdefault((name, json.dumps(alike, sort_keys=True)), []).append((told, entry))
    return [_ranked(name, rows) for (name, _), rows in groups.items() if len(rows) > 1]


def _ranked(name: str, rows: list[tuple[str, dict[str, Any]]]) -> str:
    (best, smallest), *others = sorted(rows, key=lambda row: row[1]["value"])
    as_good = [
        f"{told} ({value_text(entry)})"
        for told, entry in others
        if not can_be_told_apart(entry["value"], entry["error"], smallest["value"], smallest["error"])
    ]
    said = f"{name}: the smallest is {value_text(smallest)}, of {best}. "
    if not as_good:
        return f"{said}All others differ from it by more than chance makes in 95 of 100 cases."
    return (
        f"{said}It cannot be told apart from {'; '.join(as_good)}: chance alone makes such differences in "
        "more than 5 of 100 cases. More samples may tell."
    )
