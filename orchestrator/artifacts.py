"""Tables and plots as files, with one look."""

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart; markers tell them apart without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv*P"


def line_style(number: int) -> dict[str, Any]:
    """The marker and colour of a plot's line, by its place among the lines."""
    return {"marker": MARKERS[number % len(MARKERS)], "color": COLOURS[number % len(COLOURS)]}


def png_of(figure: "Figure") -> bytes:
    """A figure as a PNG."""
    image = io.BytesIO()
    figure.savefig(image, dpi=120)
    return image.getvalue()


def csv_of(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows with the same columns, at least one, as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def millions(count: int | None) -> str:
    """A number of parameters or multiply-adds in millions; None gives an empty text."""
    return "" if count is None else f"{count / 1e6:.4g}M"
