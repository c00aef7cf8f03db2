"""What a collection of encoded images holds: one row per image that says where its bytes are.

A listing is an Arrow table with ``index`` int64 (position in the source), ``label`` int32, ``path``
(dictionary of strings, within the source's filesystem), ``start`` int64 and ``size`` int64. For an image in a
file of its own, ``size`` is -1. In a tar shard, ``start`` and ``size`` say where the member's bytes are. In
parquet, ``start`` is the row.
"""

import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from orchestrator.config.schema import DataConfig
from orchestrator.errors import UserError
from orchestrator.storage import filesystem_of

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
WHOLE_FILE = -1
SHARDS_AT_ONCE = 16
SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("label", pa.int32()),
        ("path", pa.dictionary(pa.int32(), pa.string())),
        ("start", pa.int64()),
        ("size", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Listing:
    """A collection of encoded images."""

    source: str
    """Kind and place, for people."""
    class_names: tuple[str, ...]
    """Names in label order; only one for released_npy, whose labels lie in the files."""
    rows: pa.Table
    """One row per image, with the columns that the module lists."""


def list_source(config: DataConfig) -> Listing:
    """List the images of ``data.source_path``.

    Raises:
        UserError: it is not there, holds no images, or its labels do not make sense.
    """
    assert config.source_path is not None
    filesystem, root = filesystem_of(config.source_path)
    files = _files(filesystem, root, config)
    listers = {"image_folder": _image_folder, "tar": _tar, "parquet": _parquet, "released_npy": _released_npy}
    class_names, rows = listers[config.source](filesystem, root, files)
    if not rows:
        raise UserError(f"{config.source_path} holds no images for data.source {config.source}.")
    labels = [label for label, *_ in rows]
    names = class_names or tuple(str(label) for label in range(max(labels) + 1))
    if min(labels) < 0:
        raise UserError(f"{config.source_path} holds the label {min(labels)}; labels start at 0.")
    return Listing(f"{config.source} {config.source_path}", names, _table(rows))


def _table(rows: list[tuple[int, str, int, int]]) -> pa.Table:
    labels, paths, starts, sizes = zip(*rows, strict=True)
    columns = [range(len(rows)), labels, pa.array(paths).dictionary_encode(), starts, sizes]
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, f.type)
        for column, f in zip(columns, SCHEMA, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _files(filesystem: pa.fs.FileSystem, root: str, config: DataConfig) -> list[str]:
    """All files below the root, sorted."""
    try:
        found = filesystem.get_file_info(pa.fs.FileSelector(root, recursive=True))
    except FileNotFoundError as error:
        raise UserError(
            f"There is no folder {config.source_path}; data.source_path must name one."
        ) from error
    except OSError as error:
        raise UserError(f"{config.source_path} cannot be listed: {error}") from error
    return sorted(info.path for info in found if info.type == pa.fs.FileType.File)


_Rows = list[tuple[int, str, int, int]]


def _image_folder(filesystem: pa.fs.FileSystem, root: str, files: list[str]) -> tuple[tuple[str, ...], _Rows]:
    """List one folder per class; sorted names get labels 0, 1, ..., so ImageNet's synsets get 0..999."""
    images = [path for path in files if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES]
    relative = [PurePosixPath(path).relative_to(root) for path in images]
    flat = [str(path) for path in relative if len(path.parts) < 2]
    if flat:
        raise UserError(
            f"{root} holds images outside of class folders ({flat[0]} and {len(flat) - 1} more). An image "
            "folder has one folder per class; sort them into folders first."
        )
    names = sorted({path.parts[0] for path in relative})
    labels = {name: label for label, name in enumerate(names)}
    return tuple(names), [
        (labels[place.parts[0]], path, 0, WHOLE_FILE) for place, path in zip(relative, images, strict=True)
    ]


def _tar(filesystem: pa.fs.FileSystem, root: str, files: list[str]) -> tuple[tuple[str, ...], _Rows]:
    """List WebDataset shards: members that share a name up to the first dot are an image and its ``.cls``."""

    def samples(path: str) -> _Rows:
        # On a disk, skip from header to header; over a network one long read is faster than many short ones.
        local = isinstance(filesystem, pa.fs.LocalFileSystem)
        opened = filesystem.open_input_file(path) if local else filesystem.open_input_stream(path)
        with opened as stream, tarfile.open(fileobj=stream, mode="r:" if local else "r|") as archive:
            return _tar_samples(path, archive)

    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        shards = list(pool.map(samples, [path for path in files if path.endswith(".tar")]))
    return (), [row for rows in shards for row in rows]


def _tar_samples(path: str, archive: tarfile.TarFile) -> _Rows:
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        for member in archive:
            place = PurePosixPath(member.name)
            key, _, extension = place.name.partition(".")
            key = str(place.parent / key)
            if f".{extension.lower()}" in IMAGE_SUFFIXES:
                images[key] = (member.offset_data, member.size)
            elif extension == "cls":
                content = archive.extractfile(member)
                assert content is not None
                labels[key] = int(content.read())
    except (tarfile.TarError, ValueError) as error:
        raise UserError(
            f"{path} is not a tar shard with integer .cls members ({error}); make it again."
        ) from error
    missing = sorted(set(images) - set(labels))
    if missing:
        raise UserError(
            f"{path}: {len(missing)} images have no label, the first is {missing[0]} (no .cls beside it)."
        )
    return [(labels[key], path, start, size) for key, (start, size) in images.items()]


def _parquet(filesystem: pa.fs.FileSystem, root: str, files: list[str]) -> tuple[tuple[str, ...], _Rows]:
    """List images in a column ``image`` (bytes, or a struct with ``bytes``), with integers in ``label``."""
    rows: _Rows = []
    for path in (path for path in files if path.endswith(".parquet")):
        try:
            file = pq.ParquetFile(path, filesystem=filesystem)
            labels = file.read(columns=["label"])["label"].to_pylist()
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); it must have the columns image and label."
            ) from error
        if "image" not in file.schema_arrow.names:
            raise UserError(f"{path} has the columns {file.schema_arrow.names}; image and label are needed.")
        rows += [(int(label), path, row, WHOLE_FILE) for row, label in enumerate(labels)]
    return (), rows


def _released_npy(filesystem: pa.fs.FileSystem, root: str, files: list[str]) -> tuple[tuple[str, ...], _Rows]:
    """List the released code's features: ``0.npy``, ``1.npy``, ... with moments and label.

    The label is read later, with the moments.
    """
    numbered = {PurePosixPath(path).stem: path for path in files if path.endswith(".npy")}
    ordered = sorted((int(stem), path) for stem, path in numbered.items() if stem.isdigit())
    return (), [(0, path, 0, WHOLE_FILE) for _, path in ordered]


def describe(row: dict[str, Any]) -> str:
    """Say where a row's image is, for people."""
    inside = "" if row["size"] == WHOLE_FILE and not row["start"] else f" at {row['start']}"
    return f"{row['path']}{inside}"
