"""Data plane: planning an epoch's order, going on in the middle of one, and one rank's reading.

ImageNet's rows are 8 bytes each, in real files. A billion rows are the order alone. One process stands for
one rank of many.
"""

import itertools
import pickle
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import ray

from orchestrator.benchmarks.data import write_latents
from orchestrator.benchmarks.scale.growth import Row, Rows
from orchestrator.benchmarks.scale.measuring import REPEATS, bytes_of, seconds_of, small_ray
from orchestrator.data.format import DatasetFile, DatasetInfo, LatentDataset
from orchestrator.data.order import lanes_of_rank
from orchestrator.data.stream import (
    Batch,
    StoredRows,
    StreamPlan,
    batches,
    make_order,
    read_directly,
    read_window,
)
from orchestrator.training.shards import HELD_OUT_ROWS, Start, make_shards

RANKS = (1, 8, 64, 512, 1024)
ROWS = (2_560_000, 25_600_000, 256_000_000, 1_000_000_000)
LANES = WINDOW = BATCH_SIZE = 1024
ROW_GROUP_ROWS, ROW_GROUPS_PER_FILE = 512, 16
EPOCH = 700
SMALL, LATENT = (1, 2, 2), (8, 32, 32)
WINDOWS = 48
"""How many windows of a rank are planned or read."""


def measure() -> Iterator[Row]:
    """Measure over rows at ``LANES`` ranks, and over ranks at the fewest rows."""
    yield from _over_rows()
    with tempfile.TemporaryDirectory() as folder, small_ray():
        yield from _over_ranks(write_latents(f"{folder}/rows", ROWS[0], SMALL))


def _over_rows() -> Rows:
    found, seeds = Rows("rows, at 1,024 ranks"), itertools.count()
    for rows in ROWS:
        dataset = _listed(rows)
        # Another seed each time, because an epoch's order is remembered.
        plan = _plan(dataset, next(seeds))
        number = plan.order.window_at(plan.start)
        first = seconds_of(lambda d=dataset: _first_window(_plan(d, next(seeds))), REPEATS)  # type: ignore[misc]
        found.note("plan of the dataset and of epoch 700's first window, ms", rows, 1e3 * first)
        held = bytes_of(partial(_first_window, _plan(dataset, next(seeds))))
        found.note("memory for the latter, MB", rows, held / 1e6)
        _first_window(plan)
        later = seconds_of(partial(_plan_windows, plan, range(WINDOWS), number), REPEATS)
        found.note("plan of each further window, ms", rows, 1e3 * later / WINDOWS)
        # Ray maps arrays into a process's memory; the rest is built anew by each.
        built = len(pickle.dumps(plan, protocol=5, buffer_callback=lambda buffer: None))
        found.note("what each reading task builds of the plan, kB", rows, built / 1e3)
    return found


def _over_ranks(dataset: LatentDataset) -> Rows:
    found = Rows(f"ranks, {ROWS[0]:,} rows, {LANES} lanes")
    plan = _plan(dataset, seed=0)
    # As large as those of ImageNet's latents.
    held_out = Batch(*(np.zeros(HELD_OUT_ROWS, (np.void, 2 * int(np.prod(LATENT)))) for _ in range(4)))
    start = Start(None, plan, held_out)
    for ranks in RANKS:
        lanes = lanes_of_rank(LANES, ranks - 1, ranks)
        found.note(
            "the controller makes all shards, ms",
            ranks,
            1e3 * seconds_of(lambda: make_shards(start, ranks, 1)),  # noqa: B023
        )
        sent = sum(len(ray.cloudpickle.dumps(shard)) for shard in make_shards(start, ranks, 1.0))
        found.note("what the controller sends to all ranks, MB", ranks, sent / 1e6)
        epoch = seconds_of(partial(_plan_windows, plan, lanes, plan.order.window_at(plan.start)), REPEATS)
        found.note("a rank plans one window of each of its lanes, ms", ranks, 1e3 * epoch)
        tables = partial(_read, plan, ranks)
        found.note("a rank reads a window, ms", ranks, 1e3 * seconds_of(tables, REPEATS) / WINDOWS)
        found.note("rows read for a row of training", ranks, _rows_read(plan, ranks))
        # A row of the small dataset stands for one of ImageNet's latents.
        larger = np.prod(LATENT) / np.prod(SMALL)
        memory = bytes_of(partial(_take_batches, plan, ranks)) * larger / 1e6
        found.note("memory of a rank's stream, as of rows of 16 kB, MB", ranks, memory)
    return found


def _listed(rows: int) -> LatentDataset:
    """A dataset of so many rows as ``dataset.json`` lists it, without its files."""
    info = DatasetInfo(kind="moments", shape=LATENT, source="none", num_images=rows, class_names=("one",))
    groups = (ROW_GROUP_ROWS,) * ROW_GROUPS_PER_FILE
    count = rows // (ROW_GROUP_ROWS * ROW_GROUPS_PER_FILE)
    files = (DatasetFile(f"part-{number:05d}.parquet", groups, 1, "") for number in range(count))
    return LatentDataset("nowhere", info, tuple(files))


def _plan(dataset: LatentDataset, seed: int) -> StreamPlan:
    """The plan of a run that goes on in the middle of epoch ``EPOCH``."""
    order = make_order(dataset, seed=seed, lanes=LANES, window=WINDOW)
    seen = (EPOCH * order.lane_length + order.lane_length // 2) * LANES
    return StreamPlan(StoredRows.of(dataset), order, BATCH_SIZE, seen, seen + 100 * BATCH_SIZE)


def _first_window(plan: StreamPlan) -> None:
    plan.order.read_plan(0, plan.order.window_at(plan.start))


def _plan_windows(plan: StreamPlan, lanes: Sequence[int], number: int) -> None:
    for lane in lanes:
        plan.order.read_plan(lane, number)


def _windows(plan: StreamPlan, ranks: int) -> Iterator[tuple[int, int]]:
    """(lane, number) of the windows that the last of ``ranks`` ranks reads, from where the plan starts."""
    lanes = lanes_of_rank(LANES, ranks - 1, ranks)
    everything = (
        (lane, number) for number in itertools.count(plan.order.window_at(plan.start)) for lane in lanes
    )
    return itertools.islice(everything, WINDOWS)


def _read(plan: StreamPlan, ranks: int) -> None:
    for lane, number in _windows(plan, ranks):
        read_window(plan, lane, number)


def _rows_read(plan: StreamPlan, ranks: int) -> float:
    """Rows of all row groups that are read, against rows that are trained on."""
    counted: Counter[str] = Counter()
    for lane, number in _windows(plan, ranks):
        window = plan.order.read_plan(lane, number)
        counted["read"] += sum(int(plan.order.row_group_rows[one.row_group]) for one in window.slices)
        counted["used"] += len(window.permutation)
    return counted["read"] / counted["used"]


def _take_batches(plan: StreamPlan, ranks: int) -> None:
    for _ in itertools.islice(batches(plan, read_directly(plan, ranks - 1, ranks), ranks - 1, ranks), 2):
        pass
