"""Training batches through Ray Data, in the order of :mod:`orchestrator.data.order`."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from orchestrator.data.format import DatasetInfo, LatentDataset, to_arrays
from orchestrator.data.order import Order, lanes_of_rank
from orchestrator.storage import filesystem_of

MAX_READ_TASKS = 2000
# Starting a task takes Ray tens of milliseconds; smaller ones would spend more on that than on reading.
WINDOWS_PER_TASK = 4
SPREAD_ROW_GROUPS = 16


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch, in order."""

    arrays: npt.NDArray[Any]
    """``[B / world_size, *shape]``, in the stored form."""
    labels: npt.NDArray[np.int32]
    indices: npt.NDArray[np.int64]
    flipped: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> "Batch":
        return Batch(self.arrays[rows], self.labels[rows], self.indices[rows], self.flipped[rows])

    @staticmethod
    def of(info: DatasetInfo, rows: pa.Table) -> "Batch":
        """Take a table's rows; their arrays share its memory where it is in one piece."""
        return Batch(
            arrays=to_arrays(info, rows),
            labels=rows["label"].to_numpy(),
            indices=rows["index"].to_numpy(),
            flipped=rows["flipped"].to_numpy(),
        )

    @staticmethod
    def joined(parts: list["Batch"]) -> "Batch":
        """Join batches one after another, in memory that can be written."""
        columns = zip(
            *((part.arrays, part.labels, part.indices, part.flipped) for part in parts), strict=True
        )
        return Batch(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True)
class StoredRows:
    """A dataset's row groups by their numbers.

    They are in arrays. A process that is sent them maps these into its memory, however many they are.
    """

    path: str
    info: DatasetInfo
    files: npt.NDArray[np.str_]
    """Names of the dataset's files."""
    first: npt.NDArray[np.int64]
    """The number of each file's first row group."""

    @staticmethod
    def of(dataset: LatentDataset) -> "StoredRows":
        """Those of ``dataset``."""
        counts = [len(file.row_groups) for file in dataset.files]
        names = np.array([file.name for file in dataset.files])
        return StoredRows(dataset.path, dataset.info, names, np.cumsum([0, *counts[:-1]]))

    def read(self, row_group: int) -> pa.Table:
        """Read a row group."""
        place = int(np.searchsorted(self.first, row_group, side="right")) - 1
        return _open(self.path, str(self.files[place])).read_row_group(row_group - int(self.first[place]))


@dataclass(frozen=True)
class StreamPlan:
    """What to read: from ``images_seen`` to ``images``, in global batches of ``batch_size``."""

    rows: StoredRows
    order: Order
    batch_size: int
    images_seen: int
    images: int

    @property
    def start(self) -> int:
        """First row of every lane."""
        return self.images_seen // self.order.lanes

    @property
    def stop(self) -> int:
        """Row of every lane before which the last batch ends."""
        batches = -(-(self.images - self.images_seen) // self.batch_size)
        return self.start + batches * self.batch_size // self.order.lanes


def make_order(dataset: LatentDataset, *, seed: int, lanes: int, window: int) -> Order:
    """The order in which to train on a dataset."""
    return Order(np.array([rows for _, _, rows in dataset.row_groups]), seed, lanes, window)


def rank_dataset(
    plan: StreamPlan, rank: int, world_size: int, stored: ray.ObjectRef | None = None
) -> ray.data.Dataset:
    """The windows of a rank's lanes, in order, one or more to an Arrow block.

    Nothing runs before one iterates over it.

    Args:
        stored: the plan in Ray's object store, where several ranks share one.
    """
    stored = ray.put(plan) if stored is None else stored
    lanes = lanes_of_rank(plan.order.lanes, rank, world_size)
    first = plan.order.window_at(plan.start)
    count = (plan.order.window_at(plan.stop - 1) - first + 1) * len(lanes) if plan.stop > plan.start else 0

    def read(batch: dict[str, npt.NDArray[np.int64]]) -> Iterator[pa.Table]:
        shared: StreamPlan = ray.get(stored)
        for item in batch["id"]:
            yield read_window(
                shared, lane=lanes[int(item) % len(lanes)], number=first + int(item) // len(lanes)
            )

    tasks = math.ceil(count / WINDOWS_PER_TASK)
    items = ray.data.range(count, override_num_blocks=max(1, min(tasks, MAX_READ_TASKS)))
    dataset = items.map_batches(read, batch_size=None, zero_copy_batch=True)
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = False
    return dataset


def read_directly(plan: StreamPlan, rank: int, world_size: int) -> Iterator[pa.Table]:
    """Read the windows of :func:`rank_dataset` in the same order, without Ray Data."""
    lanes = lanes_of_rank(plan.order.lanes, rank, world_size)
    for number in range(
        plan.order.window_at(plan.start), plan.order.window_at(max(plan.start, plan.stop - 1)) + 1
    ):
        for lane in lanes:
            yield read_window(plan, lane, number)


def read_spread(dataset: LatentDataset, rows: int) -> Batch:
    """Read about ``rows`` rows from row groups spread evenly over a dataset, the same ones every time."""
    groups = dataset.row_groups
    chosen = sorted({round(place) for place in np.linspace(0, len(groups) - 1, SPREAD_ROW_GROUPS)})
    share = -(-rows // len(chosen))
    parts = []
    for name, group, _ in (groups[place] for place in chosen):
        parts.append(_open(dataset.path, name).read_row_group(group).slice(0, share))
    return Batch.joined([Batch.of(dataset.info, pa.concat_tables(parts).slice(0, rows))])


def read_window(plan: StreamPlan, lane: int, number: int) -> pa.Table:
    """Read one window from parquet: the dataset's columns, and ``lane`` and ``position`` (in the lane)."""
    window = plan.order.read_plan(lane, number)
    parts = []
    for piece in window.slices:
        rows = plan.rows.read(piece.row_group)
        parts.append(rows.replace_schema_metadata(None).slice(piece.start, piece.stop - piece.start))
    count = len(window.permutation)
    small = pa.concat_tables([part.drop_columns(["latents"]) for part in parts]).take(
        pa.array(window.permutation)
    )
    columns = {
        "latents": _shuffled_latents(plan.rows.info, parts, window.permutation),
        **{name: small[name] for name in small.column_names},
        "lane": pa.array(np.full(count, lane)),
        "position": pa.array(np.arange(window.start, window.start + count, dtype=np.int64)),
    }
    return pa.table(columns)


def _shuffled_latents(
    info: DatasetInfo, parts: list[pa.Table], permutation: npt.NDArray[np.int64]
) -> pa.FixedSizeBinaryArray:
    """String the parts' latents together in permuted order, copying them once."""
    row_type = info.schema.field("latents").type
    row = np.dtype((np.void, row_type.byte_width))
    shuffled = np.empty(len(permutation), dtype=row)
    place_of = np.argsort(permutation)  # where the row at each position goes
    start = 0
    for part in parts:
        shuffled[place_of[start : start + len(part)]] = (
            to_arrays(info, part).reshape(len(part), -1).view(row)[:, 0]
        )
        start += len(part)
    return pa.FixedSizeBinaryArray.from_buffers(row_type, len(permutation), [None, pa.py_buffer(shuffled)])


@lru_cache(maxsize=64)
def _open(path: str, name: str) -> pq.ParquetFile:
    filesystem, root = filesystem_of(path)
    return pq.ParquetFile(f"{root}/{name}", filesystem=filesystem)


def batches(plan: StreamPlan, tables: Iterator[pa.Table], rank: int, world_size: int) -> Iterator[Batch]:
    """Cut a rank's windows into its parts of the global batches.

    Raises:
        RuntimeError: the windows do not follow each other from where the plan starts, so training would be
            wrong.
    """
    lanes = lanes_of_rank(plan.order.lanes, rank, world_size)
    per_lane = plan.batch_size // plan.order.lanes
    waiting: dict[int, deque[Batch]] = {lane: deque() for lane in lanes}
    next_position = dict.fromkeys(lanes, plan.start)
    for _ in range(plan.start, plan.stop, per_lane):
        parts = []
        for lane in lanes:
            needed = per_lane
            while needed:
                while not waiting[lane]:
                    for owner, begin, rows in _runs(plan.rows.info, next(tables)):
                        skip = max(0, plan.start - begin)
                        if begin + skip != next_position[owner]:
                            raise RuntimeError(
                                f"lane {owner} should go on at {next_position[owner]}, got rows from {begin}"
                            )
                        next_position[owner] = begin + len(rows)
                        if skip < len(rows):
                            waiting[owner].append(rows[skip:])
                head = waiting[lane].popleft()
                parts.append(head[:needed])
                needed -= len(parts[-1])
                if len(parts[-1]) < len(head):
                    waiting[lane].appendleft(head[len(parts[-1]) :])
        yield Batch.joined(parts)


def _runs(info: DatasetInfo, table: pa.Table) -> Iterator[tuple[int, int, Batch]]:
    """(lane, position of the first row, rows) of every stretch of one lane in a block."""
    lanes, positions, rows = table["lane"].to_numpy(), table["position"].to_numpy(), Batch.of(info, table)
    is_break = (lanes[1:] != lanes[:-1]) | (positions[1:] != positions[:-1] + 1)
    edges = [0, *(np.flatnonzero(is_break) + 1).tolist(), len(rows)]
    for begin, end in pairwise(edges):
        yield int(lanes[begin]), int(positions[begin]), rows[begin:end]
