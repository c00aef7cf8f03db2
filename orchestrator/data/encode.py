"""From a collection of encoded images to the parquet dataset, through a VAE where there is one.

The listing is put into a fixed order and cut into chunks (the unit of decoding and encoding) and parts (one
output file each). A part depends on the listing and the settings alone. So a file that is there is finished,
and the dataset is the same however many processes made it and however often they were stopped.
"""

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from dimr_model import randomness
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.accounts import (
    PartAccount,
    read_part_account,
    refuse_too_many,
    stamp_of,
    whole_account,
    write_part_account,
    write_skipped,
)
from orchestrator.data.format import (
    MAX_ROW_GROUP_ROWS,
    Account,
    DatasetFile,
    DatasetInfo,
    finished_file,
    write_file,
)
from orchestrator.data.sources import reasons
from orchestrator.data.sources.decode import Decoding, TooLargeError, decode_image
from orchestrator.data.sources.files import Omitted, UnreadableError
from orchestrator.data.sources.listing import LABELS_IN_FILES, Listing
from orchestrator.data.sources.rows import describe
from orchestrator.errors import UserError
from orchestrator.run.terminal import ImageProgress
from orchestrator.stalls import InTime

CHUNK_ROWS = 64
PART_CHUNKS = 64
STOP = "stop"
"""The reason of a row that cannot be read now, and must not be skipped."""


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
    if config.data.source in ("parquet", "huggingface"):
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
    if info.kind == "pixels" or config.data.source in LABELS_IN_FILES:
        return info.shape[0], info.shape[1]
    from orchestrator.data.vae import downsampling, vae_config

    assert config.sampling.vae is not None
    return 3, info.shape[1] * downsampling(vae_config(config.sampling.vae, config.prepare.vae_revision))


def encode_collection(
    plan: EncodePlan, listing: Listing, progress: ImageProgress
) -> tuple[list[DatasetFile], Account]:
    """Make every part that is not there yet, on the connected Ray; return all parts' descriptions.

    A part of which an image was replaced since is made again.

    Raises:
        UserError: a finished part belongs to another dataset, too many images cannot be stored, or the source
            cannot be read.
    """
    path, allowed = plan.config.data.path, plan.config.prepare.max_skipped
    refuse_too_many(listing.omitted, listing.found, allowed)
    files, accounts = _finished_parts(plan, listing)
    missing = [part for part in range(plan.num_parts) if part not in files]
    done = plan.num_rows - sum(plan.rows_of(part) for part in missing)
    progress.update(done)
    skipped = [*listing.omitted, *(each for part in accounts.values() for each in part.skipped)]
    with closing(_encoded_parts(plan, listing, missing)) as encoded:
        for part, rows in zip(missing, encoded, strict=True):
            if rows.num_rows != plan.rows_of(part):
                raise RuntimeError(
                    f"part {part} should hold {plan.rows_of(part)} images, not {rows.num_rows}"
                )
            accounts[part] = PartAccount(_stamp(plan, listing, part), *_failures_and_remarks(rows))
            skipped += accounts[part].skipped
            refuse_too_many(skipped, plan.num_rows + listing.defects, allowed)
            files[part] = write_file(path, _name(part), _to_stored(plan.info, rows), MAX_ROW_GROUP_ROWS)
            write_part_account(path, _name(part), accounts[part])
            done += rows.num_rows
            count = sum(len(each.skipped) for each in accounts.values())
            progress.update(done, f"{count} skipped" if count else "")
    account, lines = whole_account(listing, (accounts[part] for part in sorted(accounts)))
    write_skipped(path, lines)
    return [files[part] for part in sorted(files) if files[part].row_groups], account


def _finished_parts(
    plan: EncodePlan, listing: Listing
) -> tuple[dict[int, DatasetFile], dict[int, PartAccount]]:
    """The parts that an earlier run finished, of images that are the same still."""
    path = plan.config.data.path
    files, accounts = {}, {}
    for part in range(plan.num_parts):
        file = finished_file(path, _name(part), plan.info)
        account = read_part_account(path, _name(part)) if file is not None else None
        if file is not None and account is not None and account.stamp == _stamp(plan, listing, part):
            files[part], accounts[part] = file, account
    return files, accounts


def _stamp(plan: EncodePlan, listing: Listing, part: int) -> str:
    start = part * CHUNK_ROWS * PART_CHUNKS
    return stamp_of(listing.stamps.take(pa.array(plan.order[start : start + CHUNK_ROWS * PART_CHUNKS])))


def _encoded_parts(plan: EncodePlan, listing: Listing, parts: list[int]) -> Generator[pa.Table]:
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
    if plan.info.kind == "moments" and plan.config.data.source not in LABELS_IN_FILES:
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
    """Add ``image``, ``reason``, ``detail`` and ``remarks`` to the rows of a listing.

    ``image`` holds the bytes of uint8 ``[C, H, W]``, or of the moments for features that others have made. It
    is null where ``reason`` says why it is not stored. The reason ``STOP`` ends the preparation: a fault of
    the disk or the store is none of the image, and Ray loses what an exception says.
    """
    results = [_decode_row(plan, row) for row in rows.to_pylist()]
    for name, kind in (("label", pa.int32()), ("image", pa.large_binary()), ("reason", pa.string()),
                       ("detail", pa.string()), ("remarks", pa.list_(pa.string()))):  # fmt: skip
        column = pa.array([getattr(result, name) for result in results], kind)
        place = rows.schema.get_field_index(name)
        rows = rows.append_column(name, column) if place < 0 else rows.set_column(place, name, column)
    return rows


@dataclass(frozen=True)
class _Decoded:
    """What became of one row."""

    label: int
    image: bytes | None = None
    reason: str | None = None
    detail: str | None = None
    remarks: tuple[str, ...] = ()


def _decode_row(plan: EncodePlan, row: dict[str, Any]) -> _Decoded:
    from orchestrator.data.sources.reading import read_encoded, read_label_beside

    config = plan.config.data
    place = describe(row["path"], row["start"], row["size"])
    label, beside = row["label"], b""
    try:
        content = read_encoded(config, row)
        if config.source == "fast_dit":
            beside = read_label_beside(config, row)
    except LookupError as error:
        return _Decoded(label, None, reasons.WITHOUT_IMAGE, f"{place}\n{error}")
    except UnreadableError as error:
        return _Decoded(label, None, reasons.UNREADABLE, f"{place}\n{error}")
    except UserError as error:
        return _Decoded(label, None, STOP, f"{place}\n{error}")
    try:
        if config.source in LABELS_IN_FILES:
            return _decode_features(plan, place, content, beside)
        channels, size = plan.image_shape
        pixels, remarks = decode_image(content, size, channels, Decoding.of(plan.config.prepare))
        return _Decoded(label, pixels.tobytes(), remarks=tuple(remarks))
    except TooLargeError as error:
        return _Decoded(label, None, reasons.TOO_LARGE, f"{place}\n{error}")
    except (OSError, ValueError, SyntaxError) as error:
        return _Decoded(label, None, reasons.UNDECODABLE, f"{place}\n{type(error).__name__}: {error}")


def _decode_features(plan: EncodePlan, place: str, content: bytes, beside: bytes) -> _Decoded:
    from orchestrator.data.sources.npy import read_fast_dit, read_released, to_moments

    scale = plan.info.scaling_factor
    if plan.config.data.source == "fast_dit":
        latents, label = read_fast_dit(content, beside, 1.0 if scale is None else scale)
    else:
        latents, label = read_released(content)
    if not 0 <= label < len(plan.info.class_names):
        last = len(plan.info.class_names) - 1
        return _Decoded(0, None, STOP, f"{place}\n{place} has the label {label}, outside of 0..{last}, which "
                        "model.num_classes allows. Labels start at 0. Set --model.num_classes, or "
                        "correct the "
                        "labels.")  # fmt: skip
    moments, remark = to_moments(latents, plan.info.shape)
    stored = moments.astype(plan.info.dtype)
    if not np.isfinite(stored).all():
        return _Decoded(label, None, reasons.NOT_FINITE, f"{place}\nNaN, infinity, or beyond half precision")
    return _Decoded(label, stored.tobytes(), remarks=(remark,) if remark else ())


def _failures_and_remarks(rows: pa.Table) -> tuple[tuple[Omitted, ...], dict[str, int]]:
    """What of a part is not stored, and what was done to the others.

    Raises:
        UserError: the source cannot be read.
    """
    failed = rows.filter(pc.is_valid(rows["reason"]))
    failures = []
    for reason, detail in zip(failed["reason"].to_pylist(), failed["detail"].to_pylist(), strict=True):
        place, _, words = detail.partition("\n")
        if reason == STOP:
            raise UserError(words)
        failures.append(Omitted(place, reason, words))
    remarks = rows.filter(pc.is_valid(rows["image"]))["remarks"].combine_chunks()
    return tuple(failures), dict(Counter(pc.list_flatten(remarks).to_pylist()))


def _to_stored(info: DatasetInfo, rows: pa.Table) -> pa.Table:
    """The rows as columns of the dataset; the flipped copy of an image follows it."""
    good = rows.filter(pc.is_valid(rows["image"]))
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


def _name(part: int) -> str:
    return f"part-{part:05d}.parquet"
