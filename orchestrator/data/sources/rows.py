"""The rows of a source: one per image, which says where its bytes are.

In a listing they are an Arrow table with ``index`` int64 (position in the source), ``label`` int32, ``path``
(dictionary of binary, within the source's filesystem), ``start`` int64 and ``size`` int64. For an image in a
file of its own, ``size`` is -1. In a tar file, ``start`` and ``size`` say where the member's bytes are. In a
ZIP archive, ``start`` is the member's header, and ``size`` what its bytes take there. In a table, ``start``
is the row.
"""

import os
from dataclasses import dataclass, field

import pyarrow as pa

from orchestrator.data.sources.files import Omitted
from orchestrator.data.sources.names import printable

WHOLE_FILE = -1
SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("label", pa.int32()),
        ("path", pa.dictionary(pa.int32(), pa.binary())),
        ("start", pa.int64()),
        ("size", pa.int64()),
    ]
)
MOST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a source."""

    label: int | float | str | None
    """As the source has it; None where it has none."""
    path: str
    start: int = 0
    size: int = WHOLE_FILE
    stamp: str = ""
    name: str = ""
    """What it is called inside of ``path``, for people."""


@dataclass
class Found:
    """What a reader of one kind of source found."""

    rows: list[Row] = field(default_factory=list)
    omitted: list[Omitted] = field(default_factory=list)
    class_names: tuple[str, ...] | None = None
    """Names in label order, where the source has them and the labels are their numbers."""
    folders: tuple[str, ...] = ()
    """Names of all class folders, with and without images, where labels are their names."""
    notes: list[str] = field(default_factory=list)
    """What should be said aloud."""


def table_of(rows: list[Row], labels: list[int]) -> pa.Table:
    """Rows with their class numbers as a table."""
    columns = [
        pa.array(range(len(rows)), pa.int64()),
        pa.array(labels, pa.int32()),
        pa.array([os.fsencode(row.path) for row in rows], pa.binary()).dictionary_encode(),
        pa.array([row.start for row in rows], pa.int64()),
        pa.array([row.size for row in rows], pa.int64()),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def shown(names: tuple[str, ...] | list[str]) -> str:
    """A few names, and how many more there are."""
    few = ", ".join(map(printable, names[:MOST_SHOWN]))
    return few + (f", ... {printable(names[-1])} ({len(names)} in all)" if len(names) > MOST_SHOWN else "")


def describe(path: bytes, start: int, size: int) -> str:
    """Say where a row's image is, for people."""
    inside = "" if size == WHOLE_FILE and not start else f" at {start}"
    return f"{printable(os.fsdecode(path))}{inside}"
