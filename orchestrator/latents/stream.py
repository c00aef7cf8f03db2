"""Training batches through Ray Data, in the order of :mod:`orchestrator.latents.order`."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from orchestrator.latents.format import DatasetInfo, LatentDataset, to_arrays
from orchestrator.latents.order import Order, lanes_of_rank
from orchestrator.storage import filesystem_of

MAX_READ_TASKS = 2000
SPREAD_ROW_GROUPS = 16


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch, in order."""

    arrays: npt.NDArray[Any]
    """``[B / world_size, *shape]`` as stored."""
    labels: npt.NDArray[np.int32]
    indices: npt.NDArray[np.int64]
    flipped: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class StreamPlan:
    """What to read: from ``images_seen`` to ``images``, in global batches of ``batch_size``."""

    dataset: LatentDataset
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
        """Row of every lane at which the last batch ends."""
        batches = -(-(self.images - self.images_seen) // self.batch_size)
        return self.start + batches * self.batch_size // self.order.lanes


def make_order(dataset: LatentDataset, *, seed: int, lanes: int, window: int) -> Order:
    """The order in which to train on a dataset."""
    return Order(tuple(rows for _, _, rows in dataset.row_groups), seed, lanes, window)


def rank_dataset(plan: StreamPlan, rank: int, world_size: int) -> ray.data.Dataset:
    """The windows of a rank's lanes, one Arrow block each, in order; nothing runs before it is iterated."""
    lanes = lanes_of_rank(plan.order.lanes, rank, world_size)
    first = plan.order.window_at(plan.start)
    count = (plan.order.window_at(plan.stop - 1) - first + 1) * len(lanes) if plan.stop > plan.start else 0

    def read(batch: dict[str, npt.NDArray[np.int64]]) -> Iterator[pa.Table]:
        for item in batch["id"]:
            yield read_window(
                plan, lane=lanes[int(item) % len(lanes)], number=first + int(item) // len(lanes)
            )

    items = ray.data.range(count, override_num_blocks=max(1, min(count, MAX_READ_TASKS)))
    dataset = items.map_batches(read, batch_size=None, zero_copy_batch=True)
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = False
    return dataset


def read_directly(plan: StreamPlan, rank: int, world_size: int) -> Iterator[pa.Table]:
    """The same windows in the same order, read by the caller itself instead of Ray Data."""
    lanes = lanes_of_rank(plan.order.lanes, rank, world_size)
    for number in range(
        plan.order.window_at(plan.start), plan.order.window_at(max(plan.start, plan.stop - 1)) + 1
    ):
        for lane in lanes:
            yield read_window(plan, lane, number)


def read_spread(dataset: LatentDataset, rows: int) -> Batch:
    """About ``rows`` rows from row groups spread evenly over a dataset; the same ones every time."""
    groups = dataset.row_groups
    chosen = sorted({round(place) for place in np.linspace(0, len(groups) - 1, SPREAD_ROW_GROUPS)})
    share = -(-rows // len(chosen))
    parts = []
    for name, group, _ in (groups[place] for place in chosen):
        parts.append(_open(dataset.path, name).read_row_group(group).slice(0, share))
    return _to_batch(dataset.info, pa.concat_tables(parts).slice(0, rows))


def read_window(plan: StreamPlan, lane: int, number: int) -> pa.Table:
    """Read one window from parquet: the dataset's columns, with ``lane`` and ``position`` (in the lane) added."""
    window = plan.order.read_plan(lane, number)
    parts = []
    for piece in window.slices:
        name, group, _ = plan.dataset.row_groups[piece.row_group]
        parts.append(
            _open(plan.dataset.path, name).read_row_group(group).slice(piece.start, piece.stop - piece.start)
        )
    rows = pa.concat_tables(parts).replace_schema_metadata(None).take(pa.array(window.permutation))
    positions = np.arange(window.start, window.start + len(rows), dtype=np.int64)
    return rows.append_column("lane", pa.array(np.full(len(rows), lane))).append_column(
        "position", pa.array(positions)
    )


@lru_cache(maxsize=64)
def _open(path: str, name: str) -> pq.ParquetFile:
    filesystem, root = filesystem_of(path)
    return pq.ParquetFile(f"{root}/{name}", filesystem=filesystem)


def batches(plan: StreamPlan, tables: Iterator[pa.Table], rank: int, world_size: int) -> Iterator[Batch]:
    """Cut a rank's windows into its parts of the global batches.

    Raises:
        RuntimeError: the windows do not follow each other from where the plan starts; training on them would be wrong.
    """
    lanes = lanes_of_rank(plan.order.lanes, rank, world_size)
    per_lane = plan.batch_size // plan.order.lanes
    waiting: dict[int, deque[pa.Table]] = {lane: deque() for lane in lanes}
    next_position = dict.fromkeys(lanes, plan.start)
    for _ in range(plan.start, plan.stop, per_lane):
        parts = []
        for lane in lanes:
            needed = per_lane
            while needed:
                while not waiting[lane]:
                    table = next(tables)
                    owner, begin = table["lane"][0].as_py(), table["position"][0].as_py()
                    skip = max(0, plan.start - begin)
                    if begin + skip != next_position[owner]:
                        raise RuntimeError(
                            f"lane {owner} should go on at {next_position[owner]}, got rows from {begin}"
                        )
                    next_position[owner] = begin + len(table)
                    if skip < len(table):
                        waiting[owner].append(table.slice(skip))
                head = waiting[lane].popleft()
                parts.append(head.slice(0, needed))
                needed -= len(parts[-1])
                if len(parts[-1]) < len(head):
                    waiting[lane].appendleft(head.slice(len(parts[-1])))
        yield _to_batch(plan.dataset.info, pa.concat_tables(parts))


def _to_batch(info: DatasetInfo, rows: pa.Table) -> Batch:
    return Batch(
        arrays=to_arrays(info, rows),
        labels=rows["label"].to_numpy(),
        indices=rows["index"].to_numpy(),
        flipped=rows["flipped"].to_numpy(),
    )
