"""From a collection of encoded images to the parquet dataset, through a VAE where there is one.

The listing is put into a fixed order and cut into chunks (the unit of decoding and encoding) and parts (one
output file each). A part depends on the listing and the settings alone. So a file that is there is finished,
and the dataset is the same however many processes made it and however often they were stopped.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs
import ray
import ray.data

from dimr_model import randomness
from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import (
    MAX_ROW_GROUP_ROWS,
    DatasetFile,
    DatasetInfo,
    finished_file,
    write_file,
)
from orchestrator.data.sources.listing import Listing, describe
from orchestrator.errors import UserError
from orchestrator.run.terminal import ImageProgress
from orchestrator.stalls import InTime

CHUNK_ROWS = 64
PART_CHUNKS = 64
SKIPPED_FILE = "skipped.json"


@dataclass(frozen=True)
class EncodePlan:
    """What is to be made; it can be pickled."""

    config: ExperimentConfig
    info: DatasetInfo
    num_rows: int
    order: npt.NDArray[np.int64]
    """Row of the listing at every place of the dataset."""
    image_shape: tuple[int, int]
    """Channels and size of the images to decode: the VAE's input, or what is stored where there is none."""

    @property
    def num_parts(self) -> int:
        """Number of output files."""
        return -(-self.num_rows // (CHUNK_ROWS * PART_CHUNKS))

    def chunks_of(self, part: int) -> range:
        """Numbers of a part's chunks."""
        last = -(-self.num_rows // CHUNK_ROWS)
        return range(part * PART_CHUNKS, min((part + 1) * PART_CHUNKS, last))

    def rows_of(self, part: int) -> int:
        """Number of a part's images, with those that cannot be decoded."""
        return min((part + 1) * CHUNK_ROWS * PART_CHUNKS, self.num_rows) - part * CHUNK_ROWS * PART_CHUNKS


def plan_encoding(config: ExperimentConfig, info: DatasetInfo, listing: Listing) -> EncodePlan:
    """Put a listing into the order in which it is stored.

    It is shuffled, so that row groups are fair samples of the classes.
    """
    count = listing.rows.num_rows
    if config.data.source == "parquet":
        # Neighbours share a row group, which is read as a whole: shuffle chunks of them.
        chunks = randomness.generator(0, "dataset-order").permutation(-(-count // CHUNK_ROWS))
        # The short chunk stays last, or every later chunk would straddle two.
        chunks = np.concatenate([chunks[chunks != len(chunks) - 1], [len(chunks) - 1]])
        pieces = [np.arange(c * CHUNK_ROWS, min((c + 1) * CHUNK_ROWS, count)) for c in chunks]
        order = np.concatenate(pieces)
    else:
        order = randomness.generator(0, "dataset-order").permutation(count)
    return EncodePlan(config, info, count, order, _image_shape(config, info))


def _image_shape(config: ExperimentConfig, info: DatasetInfo) -> tuple[int, int]:
    if info.kind == "pixels" or config.data.source == "released_npy":
        return info.shape[0], info.shape[1]
    from orchestrator.data.vae import downsampling, vae_config

    assert config.sampling.vae is not None
    return 3, info.shape[1] * downsampling(vae_config(config.sampling.vae, config.prepare.vae_revision))


def encode_collection(plan: EncodePlan, listing: Listing, progress: ImageProgress) -> list[DatasetFile]:
    """Make every part that is not there yet, on the connected Ray; return all parts' descriptions.

    Raises:
        UserError: a finished part belongs to another dataset, or too many images cannot be decoded.
    """
    path = plan.config.data.path
    files = {part: finished_file(path, _name(part), plan.info) for part in range(plan.num_parts)}
    missing = [part for part in range(plan.num_parts) if files[part] is None]
    done = plan.num_rows - sum(plan.rows_of(part) for part in missing)
    progress.update(done)
    skipped = sum(len(_skipped_of(path, part)) for part in range(plan.num_parts) if part not in missing)
    for part, rows in zip(missing, _encoded_parts(plan, listing, missing), strict=True):
        if rows.num_rows != plan.rows_of(part):
            raise RuntimeError(f"part {part} should hold {plan.rows_of(part)} images and got {rows.num_rows}")
        failures = _failures(rows)
        skipped += len(failures)
        if failures:
            _write_json(path, _skipped_name(part), failures)
        _refuse_too_many(plan, skipped, failures)
        files[part] = write_file(path, _name(part), _to_stored(plan.info, rows), MAX_ROW_GROUP_ROWS)
        done += rows.num_rows
        progress.update(done, f"{skipped} skipped" if skipped else "")
    _report_skipped(plan)
    return [file for file in files.values() if file is not None and file.row_groups]


def _encoded_parts(plan: EncodePlan, listing: Listing, parts: list[int]) -> Iterator[pa.Table]:
    """The parts' rows, in order, each as one table."""
    if not parts:
        return
    prepare = plan.config.prepare
    chunks = np.array([chunk for part in parts for chunk in plan.chunks_of(part)])
    rows = ray.put(listing.rows)

    def decode(batch: dict[str, npt.NDArray[np.int64]]) -> Iterator[pa.Table]:
        table = ray.get(rows)
        for place in batch["id"]:
            start = int(chunks[place]) * CHUNK_ROWS
            yield decode_chunk(plan, table.take(pa.array(plan.order[start : start + CHUNK_ROWS])))

    # Stages that ask for different resources run in different processes: CPUs decode while GPUs encode.
    data = ray.data.range(len(chunks), override_num_blocks=len(chunks))
    data = data.map_batches(decode, batch_size=None, num_cpus=1)
    if plan.info.kind == "moments" and plan.config.data.source != "released_npy":
        from orchestrator.data.vae import VAEEncoder

        data = data.map_batches(
            VAEEncoder,
            fn_constructor_args=(plan.config.sampling.vae, prepare, plan.info),
            batch_format="pyarrow",
            batch_size=CHUNK_ROWS,
            compute=ray.data.ActorPoolStrategy(size=prepare.actors),
            num_gpus=1 if prepare.use_gpu else None,
            num_cpus=0 if prepare.use_gpu else 1,
        )
    data.context.execution_options.preserve_order = True
    data.context.enable_progress_bars = False
    waiting: list[pa.Table] = []
    remaining = iter(parts)
    part = next(remaining)
    chunked: Any = iter(data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=4))
    with closing(InTime(chunked, "chunk of images", plan.config.cluster.stall_seconds)) as tables:
        for table in tables:
            waiting.append(table)
            while (have := sum(t.num_rows for t in waiting)) >= (wanted := plan.rows_of(part)):
                joined = pa.concat_tables(waiting)
                yield joined.slice(0, wanted)
                waiting = [joined.slice(wanted)] if have > wanted else []
                part = next(remaining, part)
                if not waiting:
                    break


def decode_chunk(plan: EncodePlan, rows: pa.Table) -> pa.Table:
    """Add ``image`` and ``error`` to the rows of a listing.

    ``image`` holds the bytes of uint8 ``[C, H, W]``, and null where the image cannot be decoded. The released
    features are latents already: their ``image`` is the moments.
    """
    from orchestrator.data.sources.decode import decode_image, read_encoded
    from orchestrator.data.sources.npy import read_released

    config = plan.config.data
    assert config.source_path is not None
    channels, size = plan.image_shape
    images: list[bytes | None] = []
    errors: list[str | None] = []
    labels: list[int] = rows["label"].to_pylist()
    for place, row in enumerate(rows.to_pylist()):
        image, problem = None, None
        try:
            content = read_encoded(config.source_path, row, config.source)
            if config.source == "released_npy":
                moments, labels[place] = read_released(content, row["path"])
                if moments.shape != plan.info.shape:
                    raise ValueError(f"moments of shape {moments.shape} instead of {plan.info.shape}")
                image = moments.astype(plan.info.dtype).tobytes()
            else:
                image = decode_image(content, size, channels).tobytes()
        except (OSError, ValueError, SyntaxError, UserError) as error:
            problem = f"{describe(row)}: {type(error).__name__}: {error}"
        images.append(image)
        errors.append(problem)
    rows = rows.set_column(rows.schema.get_field_index("label"), "label", pa.array(labels, pa.int32()))
    rows = rows.append_column("image", pa.array(images, pa.large_binary()))
    return rows.append_column("error", pa.array(errors, pa.string()))


def _to_stored(info: DatasetInfo, rows: pa.Table) -> pa.Table:
    """The rows as columns of the dataset; the flipped copy of an image follows it."""
    good = rows.filter(pa.compute.is_valid(rows["image"]))
    latents = [good["image"].to_pylist()]
    if info.flips:
        latents.append(good["flipped_image"].to_pylist())
    copies = len(latents)
    interleaved = b"".join(copy for pair in zip(*latents, strict=True) for copy in pair)
    row_bytes = info.schema.field("latents").type.byte_width
    count = good.num_rows * copies
    stored = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(row_bytes), count, [None, pa.py_buffer(interleaved)]
    )
    repeat = np.repeat(np.arange(good.num_rows), copies)
    columns = [
        stored,
        good["label"].combine_chunks().cast(pa.int32()).take(pa.array(repeat)),
        good["index"].combine_chunks().take(pa.array(repeat)),
        pa.array(np.tile(np.arange(copies, dtype=bool), good.num_rows)),
    ]
    return pa.Table.from_arrays(columns, schema=info.schema)


def _failures(rows: pa.Table) -> list[str]:
    return [error for error in rows["error"].to_pylist() if error is not None]


def _refuse_too_many(plan: EncodePlan, skipped: int, latest: list[str]) -> None:
    allowed = plan.config.prepare.max_skipped * plan.num_rows
    if skipped > allowed:
        shown = "\n  ".join(latest[:5])
        raise UserError(
            f"{skipped} of {plan.num_rows} images cannot be decoded, more than prepare.max_skipped "
            f"{plan.config.prepare.max_skipped:.2%} allows. The latest:\n  {shown}\n"
            "Mend the source, or raise --prepare.max_skipped and start again: finished files are kept."
        )


def _report_skipped(plan: EncodePlan) -> None:
    path = plan.config.data.path
    skipped = [failure for part in range(plan.num_parts) for failure in _skipped_of(path, part)]
    _write_json(path, SKIPPED_FILE, skipped)


def _name(part: int) -> str:
    return f"part-{part:05d}.parquet"


def _skipped_name(part: int) -> str:
    return f"part-{part:05d}.skipped.json"


def _skipped_of(path: str, part: int) -> list[str]:
    file = storage.join(path, _skipped_name(part))
    return [str(failure) for failure in json.loads(storage.read_bytes(file))] if storage.is_file(file) else []


def _write_json(path: str, name: str, content: list[str]) -> None:
    storage.write_bytes(storage.join(path, name), json.dumps(content, indent=1).encode())
