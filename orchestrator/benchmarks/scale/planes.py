"""The planes of the system, one after another."""

import time
from collections.abc import Callable, Iterable
from importlib import import_module

from rich.console import Console

from orchestrator.benchmarks.scale.growth import Row, tables
from orchestrator.config.mistakes import did_you_mean
from orchestrator.errors import UserError

PLANES = {
    "data": "Order, plan and stream of rows",
    "journal": "Journal, MLflow and report of a run",
    "checkpoints": "A checkpoint of many ranks",
    "parts": "Parts of an evaluation",
    "sweep": "A sweep of many trials",
    "sharding": "Collectives of a training step",
    "control": "Workers, their messages, and ranges of images",
}
"""Name of a plane, which is that of its module -> what is measured there."""


def measure_scale(chosen: str, console: Console) -> list[Row]:
    """Measure the planes ``chosen`` (names between commas; empty: all), and print a table after each.

    Raises:
        UserError: there is no such plane.
    """
    names = chosen.split(",") if chosen else list(PLANES)
    for name in names:
        if name not in PLANES:
            hint = did_you_mean(name, PLANES)
            raise UserError(f"There is no plane {name!r}. {hint}Planes: {', '.join(PLANES)}.")
    found = []
    for name in names:
        began = time.perf_counter()
        measure: Callable[[], Iterable[Row]] = import_module(f"{__package__}.{name}").measure
        rows = list(measure())
        for table in tables(f"{PLANES[name]} ({time.perf_counter() - began:.0f} s)", rows):
            console.print(table)
        found += rows
    return found
