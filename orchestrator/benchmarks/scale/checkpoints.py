"""A checkpoint of many ranks on a real S3 server. One process does what each of the ranks does, in turn."""

import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

from dimr_model import DiMR
from orchestrator import storage
from orchestrator.benchmarks.scale.growth import Row, Rows
from orchestrator.benchmarks.scale.measuring import seconds_of
from orchestrator.benchmarks.scale.s3 import s3_server
from orchestrator.checkpoints.files import CheckpointFiles
from orchestrator.checkpoints.retention import prune
from orchestrator.checkpoints.selection import MARKER, Checkpoint, Marker, checkpoints_folder, problem_of
from orchestrator.config.command_line import parse

RANKS = (1, 8, 64, 512, 1024)
PLANNED_RANKS = (8, 32, 128)
STATE_BYTES = 1 << 26
"""Bytes of the whole state; each rank writes its share."""
COPIES = 4
"""Tensors of a weight in a checkpoint: itself, its average, and AdamW's two moments."""
GPUS_PER_NODE = 8


def measure() -> Iterator[Row]:
    """Measure over the number of ranks."""
    with s3_server() as bucket:
        yield from _files(bucket)
    yield from _contents()


def _files(bucket: str) -> Rows:
    found = Rows(f"ranks, {STATE_BYTES >> 20} MiB in all")
    for ranks in RANKS:
        config = parse(
            "Measure.", "quickstart", ["--run.root", f"{bucket}/{ranks}", "--tracking.uri", "sqlite:///x"]
        )
        checkpoint = Checkpoint(storage.join(checkpoints_folder(config.directory), "1024"), 1024)
        files, share = CheckpointFiles(), os.urandom(STATE_BYTES // ranks)

        def write_all(
            files: CheckpointFiles = files,
            share: bytes = share,
            ranks: int = ranks,
            path: str = checkpoint.path,
        ) -> None:
            for rank in range(ranks):
                with files.create_stream(storage.join(path, f"__{rank}_0.distcp"), "wb") as stream:
                    stream.write(share)

        found.note("a rank writes its file, ms", ranks, 1e3 * seconds_of(write_all) / ranks)
        marker = Marker(files.written, {})
        found.note("the marker is written, ms", ranks, 1e3 * seconds_of(partial(marker.write, checkpoint), 3))
        content = storage.read_bytes(storage.join(checkpoint.path, MARKER))
        found.note("size of the marker, kB", ranks, len(content) / 1e3)
        found.note(
            "files are listed, ms", ranks, 1e3 * seconds_of(partial(storage.sizes, checkpoint.path), 3)
        )
        problems: list[str | None] = []
        found.note("listing and all checksums, s", ranks, seconds_of(partial(_check, checkpoint, problems)))
        assert problems == [None], problems
        found.note("which checkpoints stay, ms", ranks, 1e3 * seconds_of(partial(prune, config), 3))
    return found


def _check(checkpoint: Checkpoint, problems: list[str | None]) -> None:
    problems.append(problem_of(checkpoint))


def _contents() -> Rows:
    """Torch's table of contents of a checkpoint of G/2R, made of the plans that the ranks would send."""
    found = Rows("ranks, G/2R's table of contents")
    with torch.device("meta"):
        model = DiMR(parse("Measure.", "imagenet256_g2r", []).model)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for ranks in PLANNED_RANKS:
        for sharding, shards in {"shard": ranks, "hybrid": min(ranks, GPUS_PER_NODE)}.items():
            # Copies of a shard plan the same, and torch leaves all but one of them out.
            plans = [_plan_of(shapes, rank, shards) for rank in range(shards)]
            made: list[Any] = []
            seconds = seconds_of(lambda: made.append(create_default_global_save_plan(plans)))  # noqa: B023
            found.note(f"the first rank makes it, {sharding}, s", ranks, seconds)
            metadata = replace(made[0][1], planner_data=None)
            found.note(
                f"its size without places of storage, {sharding}, MB",
                ranks,
                len(pickle.dumps(metadata)) / 1e6,
            )
    return found


def _plan_of(shapes: dict[str, torch.Size], rank: int, shards: int) -> SavePlan:
    """What a rank plans to write: its rows of every tensor, as FSDP2 cuts them."""
    items = []
    for name, shape in shapes.items():
        rows = -(-shape[0] // shards)
        count = max(0, min(rows, shape[0] - rank * rows))
        if count == 0:
            continue
        offsets = torch.Size([rank * rows, *[0] * (len(shape) - 1)])
        chunk = ChunkStorageMetadata(offsets, torch.Size([count, *shape[1:]]))
        for copy in range(COPIES):
            index = MetadataIndex(f"{copy}.{name}", offsets)
            data = TensorWriteData(chunk, TensorProperties(), shape)
            items.append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))
    return SavePlan(items)
