"""Tables of images: parquet files with a column of encoded images and one of labels."""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.config.data import DataConfig
from orchestrator.data.sources import reasons
from orchestrator.data.sources.files import File, Omitted, Tree, UnreadableError, open_file, patiently
from orchestrator.data.sources.names import printable
from orchestrator.data.sources.rows import Found, Row
from orchestrator.data.sources.splits import files_of_split
from orchestrator.errors import UserError

MOST_GROUP_BYTES = 1 << 30
"""The largest column of images of a row group: it is read as a whole."""
IMAGE_COLUMN, LABEL_COLUMN = "image", "label"


def list_tables(config: DataConfig, tree: Tree) -> Found:
    """List all rows of all parquet files.

    Raises:
        UserError: a file is damaged, or has no such columns.
    """
    found = Found()
    files = [file for file in tree.files if file.name.lower().endswith((".parquet", ".pq"))]
    found.omitted += [
        Omitted(printable(file.path), reasons.NOT_AN_IMAGE, "no parquet file")
        for file in tree.files
        if file not in files
    ]
    assert config.source_path is not None
    names: dict[str, tuple[str, ...] | None] = {}
    for file in files_of_split(files, config.split, tree):
        table = _open(config.source_path, file)
        columns = columns_of(table.schema_arrow, config, file.path)
        names[file.path] = class_names_of(table.schema_arrow, columns[1])
        _refuse_large_groups(table, columns[0], file)
        found.rows += [
            Row(label, file.path, start, stamp=file.stamp)
            for start, label in enumerate(_labels(table, columns[1], file))
        ]
    different = set(names.values())
    if len(different) > 1:
        one, first = next(iter(names.items()))
        other = next(path for path, named in names.items() if named != first)
        raise UserError(
            f"{printable(one)} and {printable(other)} have different names of classes in their "
            "metadata: their "
            "labels do not mean the same. Read them one by one, or write them again with the same classes."
        )
    found.class_names = different.pop() if different else None
    return found


def _open(source_path: str, file: File) -> pq.ParquetFile:
    try:
        return patiently(lambda: pq.ParquetFile(open_file(source_path, file.path)), file.path)
    except (pa.ArrowException, UnreadableError) as error:
        raise UserError(
            f"{printable(file.path)} cannot be read ({error}). It is damaged, cut short or no parquet file; "
            "fetch or make it again, or take it out of the source."
        ) from error


def columns_of(schema: pa.Schema, config: DataConfig, path: str) -> tuple[str, str]:
    """The columns with images and labels: those that are set, or are called so, or are the only ones.

    Raises:
        UserError: there is none, or there are several that could be meant.
    """
    features = _features(schema)
    images = [name for name in schema.names if _is_image_type(schema.field(name).type)]
    typed_images = [name for name, feature in features.items() if feature.get("_type") == "Image"]
    typed_labels = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    image = config.image_column or _the_one(schema, IMAGE_COLUMN, typed_images or images)
    label = config.label_column or _the_one(schema, LABEL_COLUMN, typed_labels)
    for column, setting in ((image, "image_column"), (label, "label_column")):
        if column is None or column not in schema.names:
            raise UserError(
                f"{printable(path)} has the columns {', '.join(schema.names)}; which of them holds the "
                f"{setting.partition('_')[0]}s is not clear. Say it with --data.{setting} NAME."
            )
    assert image is not None
    assert label is not None
    if not _is_image_type(schema.field(image).type):
        raise UserError(
            f"{printable(path)}: the column {image} is of the type {schema.field(image).type}, and "
            "holds no encoded "
            "images. It must hold the bytes of image files, or structs with bytes; where it holds "
            "paths, write "
            "the table again with the images in it. --data.image_column names another column."
        )
    return image, label


def _the_one(schema: pa.Schema, usual: str, candidates: list[str]) -> str | None:
    if usual in schema.names:
        return usual
    return candidates[0] if len(candidates) == 1 else None


def _is_image_type(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_image_type(kind.value_type)
    if pa.types.is_struct(kind):
        return "bytes" in {field.name for field in kind}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return bool(kind.value_type in (pa.uint8(), pa.int8()))
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or kind == pa.binary_view()
    )


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What Hugging Face's datasets notes of the columns."""
    try:
        whole = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = whole["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def class_names_of(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """The names of the classes in Hugging Face's metadata."""
    names = _features(schema).get(label, {}).get("names")
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _refuse_large_groups(table: pq.ParquetFile, column: str, file: File) -> None:
    for group in range(table.metadata.num_row_groups):
        row_group = table.metadata.row_group(group)
        size = sum(
            row_group.column(i).total_uncompressed_size
            for i in range(row_group.num_columns)
            if row_group.column(i).path_in_schema.partition(".")[0] == column
        )
        if size > MOST_GROUP_BYTES:
            raise UserError(
                f"{printable(file.path)}: the images of row group {group} take {size / 1e9:.1f} GB, and "
                "a row group is "
                "read as a whole. Write the file again with smaller ones, for example "
                "pyarrow.parquet.write_table(..., row_group_size=100)."
            )


def _labels(table: pq.ParquetFile, column: str, file: File) -> Iterator[int | float | str | None]:
    for batch in table.iter_batches(batch_size=1 << 16, columns=[column]):
        values = batch.column(0)
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        for value in values.to_pylist():
            yield one_label(value, f"{printable(file.path)}: the column {column}")


def one_label(value: Any, place: str) -> int | float | str | None:
    """A label as a number or a text.

    Raises:
        UserError: it is something else, such as several labels.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if value is None or isinstance(value, int | float | str):
        return value
    raise UserError(
        f"{place} holds {str(value)[:60]!r}, which is no single label. --data.label_column names the "
        "column with "
        "class numbers or names."
    )


def image_bytes(value: Any) -> bytes:
    """The encoded image in a table's cell.

    Raises:
        LookupError: the cell is empty, or holds a path alone.
    """
    if isinstance(value, dict):
        if value.get("bytes") is None:
            path = value.get("path")
            raise LookupError(
                f"it holds the path {path!r} and no bytes: the table was saved without its images"
                if path
                else "null"
            )
        value = value["bytes"]
    if value is None:
        raise LookupError("null")
    return bytes(byte & 0xFF for byte in value) if isinstance(value, list) else bytes(value)


def read_cell(config: DataConfig, path: str, row: int) -> bytes:
    """The encoded image in a row of a parquet file.

    Raises:
        LookupError: the cell is empty, or holds a path alone.
    """
    assert config.source_path is not None
    table = patiently(lambda: _opened(config.source_path, path), path)
    image, _ = columns_of(table.schema_arrow, config, path)
    group = 0
    while row >= (count := table.metadata.row_group(group).num_rows):
        row, group = row - count, group + 1
    return image_bytes(patiently(lambda: _column(config.source_path, path, group, image), path)[row].as_py())


@lru_cache(maxsize=16)
def _opened(source_path: str, path: str) -> pq.ParquetFile:
    return pq.ParquetFile(open_file(source_path, path))


@lru_cache(maxsize=2)
def _column(source_path: str, path: str, group: int, column: str) -> pa.ChunkedArray:
    return _opened(source_path, path).read_row_group(group, columns=[column])[column]
