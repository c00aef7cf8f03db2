"""From encoded bytes to square images, as ADM (Dhariwal and Nichol, 2021) prepares ImageNet."""

import io
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from orchestrator.data.sources.listing import WHOLE_FILE
from orchestrator.storage import filesystem_of


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Cut out the centre square of an image, at ``size``.

    The shorter side is halved with a box filter while it is at least twice the size. Then it is resized
    bicubically.
    """
    # As center_crop_arr in ADM's guided_diffusion/image_datasets.py, so that scores can be compared.
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def decode_image(content: bytes, size: int, channels: int) -> npt.NDArray[np.uint8]:
    """Encoded bytes -> uint8 ``[C, size, size]``.

    Raises:
        OSError, ValueError, SyntaxError: the bytes are no complete image (PIL's own errors).
    """
    with Image.open(io.BytesIO(content)) as opened:
        image = opened.convert("RGB" if channels == 3 else "L")
    pixels = np.asarray(centre_crop(image, size), dtype=np.uint8)
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def read_encoded(source_path: str, row: dict[str, Any], kind: str) -> bytes:
    """Read the encoded bytes of a row of a listing."""
    if kind == "parquet":
        return _parquet_image(source_path, row["path"], row["start"])
    filesystem, _ = filesystem_of(source_path)
    with filesystem.open_input_file(row["path"]) as stream:
        if row["size"] == WHOLE_FILE:
            return bytes(stream.read())
        stream.seek(row["start"])
        return bytes(stream.read(row["size"]))


def _parquet_image(source_path: str, path: str, row: int) -> bytes:
    group, offset = _row_group(source_path, path, row)
    value = _image_column(source_path, path, group)[offset].as_py()
    return bytes(value["bytes"] if isinstance(value, dict) else value)


@lru_cache(maxsize=16)
def _parquet_file(source_path: str, path: str) -> pq.ParquetFile:
    return pq.ParquetFile(path, filesystem=filesystem_of(source_path)[0])


def _row_group(source_path: str, path: str, row: int) -> tuple[int, int]:
    """(row group, row within it) of a file's row."""
    metadata = _parquet_file(source_path, path).metadata
    for group in range(metadata.num_row_groups):
        count = metadata.row_group(group).num_rows
        if row < count:
            return group, row
        row -= count
    raise IndexError(f"{path} has no row {row}")


@lru_cache(maxsize=2)
def _image_column(source_path: str, path: str, group: int) -> pa.ChunkedArray:
    return _parquet_file(source_path, path).read_row_group(group, columns=["image"])["image"]
