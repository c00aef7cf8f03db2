"""How a measured quantity grows with a size: the exponent, the word for it, and the table."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from rich.table import Table

FITTED = 3
"""How many of the largest sizes are fitted: at small ones a fixed cost hides the growth."""
FLAT, LINEAR = 0.15, 1.15
"""The largest exponents that are called flat and linear. Times of one run differ by so much."""


@dataclass(frozen=True)
class Row:
    """One quantity, measured at several sizes."""

    what: str
    """The quantity, with its unit."""
    size: str
    """What the sizes count, such as ranks."""
    values: dict[int, float]
    """Size -> what was measured, ascending sizes."""

    @property
    def exponent(self) -> float:
        """The slope of log(value) over log(size) at the ``FITTED`` largest sizes; 0 where all are zero.

        Raises:
            ValueError: there are fewer than two sizes.
        """
        sizes = sorted(self.values)[-FITTED:]
        if len(sizes) < 2:
            raise ValueError(f"{self.what} needs at least two sizes, and has {sizes}")
        measured = [self.values[size] for size in sizes]
        if not any(measured):
            return 0.0
        # What is zero at one size alone counts as the least that was measured.
        least = min(value for value in measured if value > 0)
        slope, _ = np.polyfit(np.log(sizes), np.log([max(value, least) for value in measured]), 1)
        return float(slope)

    @property
    def growth(self) -> str:
        """The exponent in words; a logarithm is told from a power by which of them fits better."""
        exponent = self.exponent
        if exponent < -FLAT:
            return "falls"
        if exponent <= FLAT:
            return "flat"
        if exponent > LINEAR:
            return "grows faster"
        if exponent >= 1 / LINEAR:
            return "linear"
        return "logarithmic" if self._is_logarithmic() else "below linear"

    def _is_logarithmic(self) -> bool:
        sizes = np.array(sorted(self.values)[-FITTED:], float)
        measured = np.array([self.values[int(size)] for size in sizes])

        def error_of(regressor: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
            line = np.polyval(np.polyfit(regressor, measured, 1), regressor)
            return float(np.square(line - measured).sum())

        # A fixed cost and a linear one together are a straight line, too.
        return len(sizes) > 2 and error_of(np.log(sizes)) < error_of(sizes)


class Rows:
    """Collects what is measured, size by size."""

    def __init__(self, size: str) -> None:
        self._size = size
        self._found: dict[str, dict[int, float]] = {}

    def note(self, what: str, size: int, value: float) -> None:
        """Note ``what`` was measured at a size."""
        self._found.setdefault(what, {})[size] = value

    def __iter__(self) -> Iterator[Row]:
        return (Row(what, self._size, values) for what, values in self._found.items())


def tables(title: str, rows: Iterable[Row]) -> Iterable[Table]:
    """A table for each set of sizes, with a column for every size."""
    in_order = sorted(rows, key=lambda row: (row.size, list(row.values)))
    for (size, sizes), alike in groupby(in_order, key=lambda row: (row.size, tuple(row.values))):
        table = Table(size, *(f"{one:,}" for one in sizes), "exponent", "growth", title=title)
        for row in alike:
            values = (f"{row.values[one]:,.4g}" for one in sizes)
            table.add_row(row.what, *values, f"{row.exponent:.2f}", row.growth)
        yield table
