"""Finished pieces of an evaluation: one file for each range of images, so that nothing is done twice.

A part holds what a range of images was turned into (features, labels, a few images for the grid) as
safetensors. It is the last thing that is written for a range, so a range with a part is finished.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import safetensors.numpy

from orchestrator import storage

READ_AHEAD = 8
"""Parts that are fetched while one is used: an object store answers late, and answers many at once."""
Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Range:
    """Images ``start`` to ``stop`` (exclusive) of an evaluation."""

    start: int
    stop: int

    @property
    def name(self) -> str:
        """The name of the range's files, without a suffix."""
        return f"{self.start:08d}-{self.stop:08d}"


def ranges_of(count: int, size: int) -> list[Range]:
    """Cut 0..count into ranges of ``size``; the last one may be shorter."""
    return [Range(start, min(start + size, count)) for start in range(0, count, size)]


@dataclass(frozen=True)
class Parts:
    """A folder of parts."""

    folder: str

    def finished(self) -> set[str]:
        """The names of the ranges that are finished."""
        return {
            name.removesuffix(".safetensors")
            for name, size in storage.sizes(self.folder).items()
            if size is not None and name.endswith(".safetensors") and not name.startswith(".")
        }

    def write(self, piece: Range, columns: Columns) -> None:
        """Write a range's part, which declares it finished."""
        storage.write_bytes(self._path(piece), safetensors.numpy.save(columns))

    def read(self, pieces: list[Range]) -> Iterator[Columns]:
        """The parts of ``pieces``, in their order."""
        with ThreadPoolExecutor(READ_AHEAD, "parts") as pool:
            reading: deque[Future[bytes]] = deque()
            for piece in pieces:
                reading.append(pool.submit(storage.read_bytes, self._path(piece)))
                if len(reading) > READ_AHEAD:
                    yield safetensors.numpy.load(reading.popleft().result())
            while reading:
                yield safetensors.numpy.load(reading.popleft().result())

    def _path(self, piece: Range) -> str:
        return storage.join(self.folder, f"{piece.name}.safetensors")
