"""The latent dataset: a folder of parquet files whose schema metadata says everything a reader must know.

The columns are ``latents`` FixedSizeBinary (little-endian bytes of one array, see :class:`DatasetInfo`),
``label`` int32, ``index`` int64 (position in the source) and ``flipped`` bool. A row is unique by (index,
flipped). Row groups are the unit of reading. A folder counts as a dataset only when it holds
``dataset.json``, which is written last.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from orchestrator import storage
from orchestrator.errors import UserError

FORMAT_VERSION = 1
INFO_FILE = "dataset.json"
METADATA_KEY = b"dimr"
MAX_ROW_GROUP_ROWS = 512
Kind = Literal["pixels", "moments"]
_NEWER = ("source_fingerprint", "decoding")
"""Fields that datasets of before 2026-11-26 do not have."""


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What the rows are. Stored in every file's schema metadata and in ``dataset.json``."""

    kind: Kind
    """pixels: uint8 ``[C, H, W]``. moments: float16 ``[2C, h, w]``, a VAE's mean and log-variance."""
    shape: tuple[int, int, int]
    """Shape of the stored array."""
    source: str
    """Where the images come from."""
    num_images: int
    """Images that the source lists; flipped copies do not count, the few that could not be decoded do."""
    class_names: tuple[str, ...]
    """Name of each label, in label order."""
    encoder: str | None = None
    """The VAE's name, for moments."""
    encoder_revision: str | None = None
    """The VAE's revision."""
    scaling_factor: float | None = None
    """What latents are multiplied with before diffusion."""
    flips: bool = False
    """Whether every image is stored a second time, mirrored."""
    format_version: int = FORMAT_VERSION
    """Version of this format."""
    source_fingerprint: str | None = None
    """What the source's listing was when the dataset was begun; older datasets have none."""
    decoding: dict[str, Any] | None = None
    """How encoded images became pixels (``sources/decode.py``); older datasets have none."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values; what an older dataset does not have is left out, so that its files still agree."""
        plain = dataclasses.asdict(self)
        return {key: value for key, value in plain.items() if value is not None or key not in _NEWER}

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type of the stored array."""
        return np.dtype("u1") if self.kind == "pixels" else np.dtype("<f2")

    @property
    def diffusion_shape(self) -> tuple[int, int, int]:
        """Shape of what is diffused: pixels as they are stored, half of the channels of moments."""
        channels, height, width = self.shape
        return (channels if self.kind == "pixels" else channels // 2, height, width)

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the dataset's files."""
        row_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        fields = [
            pa.field("latents", pa.binary(row_bytes), nullable=False),
            pa.field("label", pa.int32(), nullable=False),
            pa.field("index", pa.int64(), nullable=False),
            pa.field("flipped", pa.bool_(), nullable=False),
        ]
        return pa.schema(fields, metadata={METADATA_KEY: json.dumps(self.to_dict()).encode()})


@dataclass(frozen=True)
class DatasetFile:
    """One parquet file of a dataset."""

    name: str
    """Its name within the folder."""
    row_groups: tuple[int, ...]
    """Number of rows of each row group."""
    size: int
    """Its size in bytes."""
    sha256: str
    """Hash of the whole file; ``prepare_latents.py verify`` checks it, opening a dataset does not."""


@dataclass(frozen=True)
class Account:
    """What became of everything that a source holds."""

    found: int
    """Images, and whatever lies in the source beside them."""
    stored: int
    """Images that have rows; mirrored rows are rows of stored images."""
    listed: dict[str, int]
    """Reason -> how many are not stored for it; ``skipped.json`` names them."""
    remarks: dict[str, int] = field(default_factory=dict)
    """What was done to stored images -> to how many."""

    @property
    def is_balanced(self) -> bool:
        """Whether everything is either stored or listed."""
        return self.found == self.stored + sum(self.listed.values())


@dataclass(frozen=True)
class LatentDataset:
    """A dataset that was opened and checked; it can be pickled, and reads nothing by itself."""

    path: str
    info: DatasetInfo
    files: tuple[DatasetFile, ...]
    account: Account | None = None
    """None for datasets that were made before there were accounts, or from whole arrays."""

    @cached_property
    def row_groups(self) -> list[tuple[str, int, int]]:
        """(file name, row group in the file, rows) of every row group, in file order."""
        return [(f.name, group, rows) for f in self.files for group, rows in enumerate(f.row_groups)]

    @property
    def num_rows(self) -> int:
        """Number of stored rows, flipped ones included."""
        return sum(rows for f in self.files for rows in f.row_groups)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when the metadata, the files or their sizes do."""
        content = json.dumps([self.info.to_dict(), [dataclasses.asdict(f) for f in self.files]])
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def to_table(info: DatasetInfo, arrays: npt.NDArray[Any], labels: list[int], indices: list[int]) -> pa.Table:
    """Put ``arrays [N, *info.shape]``, their labels and source positions into a table; no row is flipped."""
    row_bytes = int(np.prod(info.shape)) * info.dtype.itemsize
    buffer = pa.py_buffer(np.ascontiguousarray(arrays, dtype=info.dtype).tobytes())
    latents = pa.FixedSizeBinaryArray.from_buffers(pa.binary(row_bytes), len(arrays), [None, buffer])
    columns = [
        latents,
        pa.array(labels, pa.int32()),
        pa.array(indices, pa.int64()),
        pa.array([False] * len(arrays)),
    ]
    return pa.Table.from_arrays(columns, schema=info.schema)


def to_arrays(info: DatasetInfo, table: pa.Table) -> npt.NDArray[Any]:
    """The ``latents`` column as a read-only array ``[N, *info.shape]`` that shares the table's memory."""
    chunks = table["latents"]
    # To combine chunks is to copy them, even where there is only one.
    column = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()
    # A slice of a column keeps the whole buffer and an offset into it.
    row_bytes = column.type.byte_width
    count = len(column) * row_bytes // info.dtype.itemsize
    flat = np.frombuffer(column.buffers()[1], info.dtype, count, offset=column.offset * row_bytes)
    return flat.reshape(len(column), *info.shape)


def write_dataset(
    path: str, info: DatasetInfo, tables: Iterable[pa.Table], row_group_rows: int
) -> LatentDataset:
    """Write one parquet file per table, then ``dataset.json``; an interrupted write leaves no dataset behind.

    Raises:
        UserError: ``path`` cannot be written.
    """
    files = [
        write_file(path, f"part-{number:05d}.parquet", table, row_group_rows)
        for number, table in enumerate(tables)
    ]
    return finish_dataset(path, info, files)


def finish_dataset(
    path: str, info: DatasetInfo, files: list[DatasetFile], account: Account | None = None
) -> LatentDataset:
    """Write ``dataset.json``, which makes a dataset of finished files, and open it.

    Raises:
        UserError: ``path`` cannot be written.
    """
    description: dict[str, Any] = {"info": info.to_dict(), "files": [dataclasses.asdict(f) for f in files]}
    if account is not None:
        description["account"] = dataclasses.asdict(account)
    _write(path, INFO_FILE, pa.py_buffer(json.dumps(description, indent=1).encode()))
    return open_dataset(path)


def write_file(path: str, name: str, table: pa.Table, row_group_rows: int) -> DatasetFile:
    """Write one file of a dataset; it is there whole or not at all.

    Raises:
        UserError: ``path`` cannot be written.
    """
    sink = pa.BufferOutputStream()
    # Latents look like noise to a compressor, and without compression reading needs no decoding.
    pq.write_table(
        table,
        sink,
        row_group_size=row_group_rows,
        compression="NONE",
        use_dictionary=False,
        write_statistics=["label"],
    )
    content = sink.getvalue()
    _write(path, name, content)
    groups = [min(row_group_rows, len(table) - start) for start in range(0, len(table), row_group_rows)]
    return DatasetFile(name, tuple(groups), content.size, hashlib.sha256(content).hexdigest())


def finished_file(path: str, name: str, info: DatasetInfo) -> DatasetFile | None:
    """The description of a file that an earlier run finished, or None if there is none.

    Raises:
        UserError: the file belongs to another dataset.
    """
    if not storage.is_file(storage.join(path, name)):
        return None
    try:
        described = _describe_file(*storage.filesystem_of(path), name, info)
    except UserError as error:
        raise UserError(
            f"{storage.join(path, name)}, which an earlier run left, cannot be continued: it is "
            "damaged, or was "
            "made from another source or with other settings than these. If images have come, gone or been "
            "renamed since, or settings were changed on purpose, delete "
            f"{path} and start again; else bring back the source or the settings of before."
        ) from error
    return dataclasses.replace(described, sha256=storage.sha256_of(storage.join(path, name)))


def _write(path: str, name: str, content: pa.Buffer) -> None:
    try:
        storage.write_bytes(storage.join(path, name), content)
    except OSError as error:
        raise UserError(
            f"{path} could not be written: {error}. Choose a folder that can be written with --data.path."
        ) from error


def exists(path: str) -> bool:
    """Whether ``path`` holds a complete dataset."""
    return storage.is_file(storage.join(path, INFO_FILE))


def open_dataset(path: str) -> LatentDataset:
    """Open a dataset and check every file's footer against ``dataset.json``; no rows are read.

    Raises:
        UserError: there is no dataset, or a file is missing, truncated or of another kind.
    """
    filesystem, root = storage.filesystem_of(path)
    if not exists(path):
        raise UserError(f"There is no dataset at {path}: it has no {INFO_FILE}, which is written last.")
    description = json.loads(storage.read_bytes(storage.join(path, INFO_FILE)))
    raw = description["info"]
    if raw["format_version"] != FORMAT_VERSION:
        raise UserError(
            f"The dataset at {path} has format version {raw['format_version']}; "
            f"this code reads {FORMAT_VERSION}."
        )
    info = DatasetInfo(**{**raw, "shape": tuple(raw["shape"]), "class_names": tuple(raw["class_names"])})
    files = tuple(
        DatasetFile(f["name"], tuple(f["row_groups"]), f["size"], f["sha256"]) for f in description["files"]
    )
    if not files:
        raise UserError(f"The dataset at {path} holds no files. Prepare it again.")
    for listed in files:
        if "/" in listed.name:
            raise UserError(
                f"{path}/{INFO_FILE} lists {listed.name}, which is outside of the dataset. Prepare it again."
            )
        found = _describe_file(filesystem, root, listed.name, info)
        if (found.row_groups, found.size) != (listed.row_groups, listed.size):
            raise UserError(
                f"{path}/{listed.name} is not the file that {INFO_FILE} describes: {found.size} bytes and "
                f"{sum(found.row_groups)} rows instead of {listed.size} and {sum(listed.row_groups)}. "
                "Prepare the dataset again."
            )
    account = Account(**description["account"]) if "account" in description else None
    return LatentDataset(path, info, files, account)


def _describe_file(filesystem: pa.fs.FileSystem, root: str, name: str, info: DatasetInfo) -> DatasetFile:
    try:
        size = filesystem.get_file_info(f"{root}/{name}").size
        footer = pq.read_metadata(f"{root}/{name}", filesystem=filesystem)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{root}/{name} cannot be read ({error}). Prepare the dataset again.") from error
    if not footer.schema.to_arrow_schema().equals(info.schema, check_metadata=True):
        raise UserError(
            f"{root}/{name} belongs to another dataset than {INFO_FILE} describes. Prepare the dataset again."
        )
    _check_labels(f"{root}/{name}", footer, info)
    groups = tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
    return DatasetFile(name, groups, size, sha256="")


def _check_labels(name: str, footer: pq.FileMetaData, info: DatasetInfo) -> None:
    """Refuse labels that have no class; the footer tells the smallest and the largest."""
    column = info.schema.get_field_index("label")
    for group in range(footer.num_row_groups):
        statistics = footer.row_group(group).column(column).statistics
        if statistics is None or not statistics.has_min_max:
            continue
        last = len(info.class_names) - 1
        if statistics.min < 0 or statistics.max > last:
            raise UserError(
                f"{name} holds labels {statistics.min}..{statistics.max}, outside of 0..{last}. "
                "Correct the source's labels and prepare the dataset again."
            )


def read_rows(dataset: LatentDataset, batch_size: int) -> Iterator[pa.Table]:
    """Read all rows in stored order, as tables of at most ``batch_size`` rows."""
    filesystem, root = storage.filesystem_of(dataset.path)
    for file in dataset.files:
        reader = pq.ParquetFile(f"{root}/{file.name}", filesystem=filesystem)
        for batch in reader.iter_batches(batch_size=batch_size):
            yield pa.Table.from_batches([batch])
