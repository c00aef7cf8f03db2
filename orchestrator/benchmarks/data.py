"""Speed of the data plane: samples/s into a training worker, against the released layout and a bare read."""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pyarrow.parquet as pq
import ray
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from orchestrator.cluster import connect_embedded
from orchestrator.data.format import (
    DatasetInfo,
    LatentDataset,
    to_arrays,
    to_table,
    write_dataset,
)
from orchestrator.data.stream import StoredRows, StreamPlan, batches, make_order, rank_dataset
from orchestrator.storage import filesystem_of

SHAPE = (8, 32, 32)
BATCH_SIZE, LANES, WINDOW = 256, 8, 1024
ROWS_PER_FILE, ROW_GROUP_ROWS = 4096, 512
RELEASED_FILES = 4096
EPOCHS = 3


@dataclass(frozen=True)
class Streamed:
    """What a training worker saw of one epoch."""

    samples_per_second: float
    first_batch_seconds: float
    own_bytes: int
    """Bytes of memory that the worker shares with no other process."""


def measure_data(rows: int, console: Console) -> None:
    """Make ``rows`` latents like ImageNet-256's, read them in each way on the same cores, print ratios."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_latents(f"{folder}/latents", rows)
        _write_released(Path(folder) / "npy")
        cores = os.cpu_count() or 1
        with connect_embedded():
            epochs = ray.get(ray.remote(num_cpus=1)(_stream_epochs).remote(dataset, cores))
        released = _released_loader(Path(folder) / "npy", cores)
        bare = _bare_read(dataset)
    streamed = statistics.median(epoch.samples_per_second for epoch in epochs)
    table = Table(
        "", "samples/s", "ratio", title=f"{rows} latents {SHAPE} float16, batch {BATCH_SIZE}, {cores} cores"
    )
    table.add_row("Ray Data, in training order", f"{streamed:,.0f}", "1x")
    table.add_row("one .npy per sample, DataLoader", f"{released:,.0f}", f"{streamed / released:.1f}x")
    table.add_row("bare pyarrow read, one thread", f"{bare:,.0f}", f"{streamed / bare:.2f}x")
    console.print(table)
    for number, epoch in enumerate(epochs):
        console.print(
            f"epoch {number}: {epoch.samples_per_second:,.0f} samples/s, first batch after "
            f"{epoch.first_batch_seconds:.2f} s, worker {epoch.own_bytes / 1e6:,.0f} MB of its own",
            highlight=False,
        )


def write_latents(
    path: str, rows: int, shape: tuple[int, int, int] = SHAPE, num_classes: int = 1
) -> LatentDataset:
    """Write a dataset of random moments ``shape`` and random labels."""
    info = DatasetInfo(
        kind="moments",
        shape=shape,
        source="random numbers",
        num_images=rows,
        class_names=tuple(map(str, range(num_classes))),
        encoder="none",
        scaling_factor=0.18215,
    )
    random = np.random.default_rng(0)

    def tables() -> Iterator[object]:
        for start in range(0, rows, ROWS_PER_FILE):
            count = min(ROWS_PER_FILE, rows - start)
            arrays = random.standard_normal((count, *shape), dtype=np.float32).astype(np.float16)
            labels = random.integers(num_classes, size=count).tolist()
            yield to_table(info, arrays, labels, list(range(start, start + count)))

    return write_dataset(path, info, tables(), ROW_GROUP_ROWS)  # type: ignore[arg-type]


def _write_released(folder: Path) -> None:
    """Write the released layout: moments and label of one sample, pickled in one ``.npy``."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(RELEASED_FILES):
        pair = np.empty(2, dtype=object)
        pair[:] = [random.standard_normal(SHAPE, dtype=np.float32), 0]
        np.save(folder / f"{number}.npy", pair)


def _stream_epochs(dataset: LatentDataset, cores: int) -> list[Streamed]:
    """Read several epochs as a training worker does: each from where the last one ended."""
    order = make_order(dataset, seed=0, lanes=LANES, window=WINDOW)
    epoch_rows = order.lane_length * LANES // BATCH_SIZE * BATCH_SIZE
    measured = []
    for epoch in range(EPOCHS):
        plan = StreamPlan(
            StoredRows.of(dataset), order, BATCH_SIZE, epoch * epoch_rows, (epoch + 1) * epoch_rows
        )
        data = rank_dataset(plan, 0, 1)
        data.context.execution_options.resource_limits = ray.data.ExecutionResources(cpu=cores)
        started = time.perf_counter()
        first, count = 0.0, 0
        tables = data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)
        for batch in batches(plan, iter(tables), 0, 1):
            first = first or time.perf_counter() - started
            count += len(torch.from_numpy(batch.arrays))
        seconds = time.perf_counter() - started - first
        measured.append(Streamed(count / seconds, first, psutil.Process().memory_full_info().uss))
    return measured


class _ReleasedFiles(torch.utils.data.Dataset[tuple[Tensor, int]]):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __len__(self) -> int:
        return RELEASED_FILES

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        moments, label = np.load(self._folder / f"{place}.npy", allow_pickle=True)
        return torch.from_numpy(moments), label


def _released_loader(folder: Path, cores: int) -> float:
    loader = torch.utils.data.DataLoader(
        _ReleasedFiles(folder),
        batch_size=BATCH_SIZE,
        shuffle=True,
        num_workers=cores,
        persistent_workers=True,
    )
    rates = []
    for _ in range(EPOCHS):
        iterator = iter(loader)
        next(iterator)
        started, count = time.perf_counter(), 0
        for latents, _ in iterator:
            count += len(latents)
        rates.append(count / (time.perf_counter() - started))
    return statistics.median(rates)


def _bare_read(dataset: LatentDataset) -> float:
    filesystem, root = filesystem_of(dataset.path)
    rates = []
    for _ in range(EPOCHS):
        started, count = time.perf_counter(), 0
        for file in dataset.files:
            reader = pq.ParquetFile(f"{root}/{file.name}", filesystem=filesystem)
            for group in range(reader.num_row_groups):
                array: npt.NDArray[np.float16] = to_arrays(
                    dataset.info, reader.read_row_group(group, use_threads=False)
                )
                count += len(np.array(array))
        rates.append(count / (time.perf_counter() - started))
    return statistics.median(rates)
