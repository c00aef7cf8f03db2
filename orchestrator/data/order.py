"""Which row comes when: a pure function of (dataset, seed, position), the same at every world size.

Each epoch permutes the row groups, strings their rows together and cuts the string into ``lanes`` equal lanes
(the few rows left over change each epoch). Rows are shuffled within windows of a lane. Every global batch
takes the next ``batch_size / lanes`` rows of every lane, so a position in training is one number,
``images_seen``.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from dimr_model import randomness


@dataclass(frozen=True)
class RowGroupSlice:
    """Rows ``start..stop`` of row group ``row_group`` (numbered over the whole dataset)."""

    row_group: int
    start: int
    stop: int


@dataclass(frozen=True)
class Window:
    """A shuffled stretch of one lane.

    To get it, read the slices, string them together, and take the rows in the order of ``permutation``.
    """

    lane: int
    start: int
    """Position in the lane of the first row, counted over all epochs."""
    slices: tuple[RowGroupSlice, ...]
    permutation: npt.NDArray[np.int64] = field(compare=False)


@dataclass(frozen=True)
class Order:
    """The order of a dataset.

    What a window costs does not grow with the dataset: only an epoch's first one looks at all row groups.
    """

    row_group_rows: npt.NDArray[np.int32] = field(compare=False)
    """How many rows each row group has."""
    seed: int
    lanes: int
    window: int
    digest: str = field(init=False, repr=False)
    """Stands for the row groups where orders are compared."""

    def __post_init__(self) -> None:
        rows = np.asarray(self.row_group_rows, np.int32)
        # A frozen dataclass sets its own fields in this way.
        object.__setattr__(self, "row_group_rows", rows)
        object.__setattr__(self, "digest", hashlib.sha256(rows.tobytes()).hexdigest())

    @cached_property
    def num_rows(self) -> int:
        """Number of the dataset's rows."""
        return int(self.row_group_rows.sum(dtype=np.int64))

    @cached_property
    def lane_length(self) -> int:
        """Number of a lane's rows in one epoch.

        Raises:
            ValueError: there are more lanes than rows.
        """
        if self.lanes > self.num_rows:
            raise ValueError(
                f"{self.lanes} lanes are more than the dataset's {self.num_rows} rows; set data.lanes lower"
            )
        return self.num_rows // self.lanes

    @cached_property
    def windows_per_epoch(self) -> int:
        """Number of a lane's windows in one epoch; the last one may be short."""
        return -(-self.lane_length // self.window)

    def window_at(self, position: int) -> int:
        """Number of the window, counted over all epochs, that holds a lane's row ``position``."""
        epoch, offset = divmod(position, self.lane_length)
        return epoch * self.windows_per_epoch + offset // self.window

    def read_plan(self, lane: int, number: int) -> Window:
        """What window ``number`` of a lane consists of."""
        epoch, within = divmod(number, self.windows_per_epoch)
        start = within * self.window
        length = min(self.window, self.lane_length - start)
        first = lane * self.lane_length + start
        permuted, edges = _epoch_row_groups(self, epoch)
        slices = []
        for place in range(int(np.searchsorted(edges, first, side="right")) - 1, len(permuted)):
            begin, end = int(edges[place]), int(edges[place + 1])
            if begin >= first + length:
                break
            slices.append(
                RowGroupSlice(int(permuted[place]), max(first - begin, 0), min(first + length, end) - begin)
            )
        shuffle = randomness.generator(self.seed, f"data-window/{lane}", number)
        return Window(lane, epoch * self.lane_length + start, tuple(slices), shuffle.permutation(length))


@lru_cache(maxsize=4)
def _epoch_row_groups(order: Order, epoch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The epoch's permutation of row groups, and where each begins in the string of all rows.

    After the last beginning comes the end of the string.
    """
    permuted = randomness.generator(order.seed, "data-epoch", epoch).permutation(len(order.row_group_rows))
    edges = np.concatenate([[0], np.cumsum(order.row_group_rows[permuted], dtype=np.int64)])
    return permuted, edges


def lanes_of_rank(lanes: int, rank: int, world_size: int) -> Sequence[int]:
    """The lanes that a rank owns: consecutive ones, so that ranks in order hold the global batch in order.

    Raises:
        ValueError: the world size does not divide the lanes; the message names the nearest valid ones.
    """
    if lanes % world_size:
        valid = [n for n in range(1, lanes + 1) if lanes % n == 0]
        raise ValueError(f"world size {world_size} does not divide data.lanes {lanes}; valid are {valid}")
    share = lanes // world_size
    return range(rank * share, (rank + 1) * share)
