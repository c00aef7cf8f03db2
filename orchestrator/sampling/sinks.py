"""Where samples go besides their features: one .npz as ADM's evaluator reads it, and grids to look at."""

import zipfile
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.images import save_grid, to_pixels, to_rgb
from orchestrator.sampling.grids import GRID_IMAGES, grid_columns
from orchestrator.sampling.parts import Parts, Range
from orchestrator.sampling.sampler import labels_of

IMAGES_FOLDER = "images"
CLASS_GRID_IMAGES = 24
CLASS_GRID_COLUMNS = 6


def save_first(config: ExperimentConfig, parts: Parts, ranges: list[Range], path: str) -> None:
    """Write the first hundred images as a grid, uncurated."""
    pieces = [piece for piece in ranges if piece.start < GRID_IMAGES]
    images = np.concatenate([columns["grid"] for columns in parts.read(pieces)])
    save_grid(torch.from_numpy(images), path, grid_columns(config))


def class_indices(config: ExperimentConfig, label: int, count: int = CLASS_GRID_IMAGES) -> list[int]:
    """The indices of the first ``count`` images that show class ``label``."""
    found: list[int] = []
    start = 0
    while len(found) < count:
        indices = list(range(start, start + 100 * config.model.num_classes))
        shown = torch.nonzero(labels_of(config, indices) == label).flatten().tolist()
        found += [indices[place] for place in shown]
        start = indices[-1] + 1
    return found[:count]


def save_class_grid(images: Tensor, folder: str, label: int) -> str:
    """Write ``grids/class-<label>.png`` into ``folder``, and return its path there."""
    file = f"grids/class-{label:04d}.png"
    save_grid(images, storage.join(folder, file), CLASS_GRID_COLUMNS)
    return file


def write_npz(folder: str, ranges: list[Range], path: str) -> None:
    """Collect the parquet files of images into one .npz.

    Its ``arr_0`` is uint8 ``[N, H, W, 3]``, and its ``arr_1`` the labels. One range at a time is in memory.
    """
    count = sum(piece.stop - piece.start for piece in ranges)
    labels = np.empty(count, np.int64)
    with storage.writing(path) as target, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as entry:
            for number, piece in enumerate(ranges):
                images, labels[piece.start : piece.stop] = _read_images(folder, piece)
                if number == 0:
                    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *images.shape[1:])}
                    np.lib.format.write_array_header_1_0(entry, header)
                entry.write(images.tobytes())
        with archive.open("arr_1.npy", "w") as entry:
            np.lib.format.write_array(entry, labels)


def _read_images(folder: str, piece: Range) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    filesystem, inner = storage.filesystem_of(storage.join(folder, IMAGES_FOLDER, f"{piece.name}.parquet"))
    table = pq.read_table(inner, filesystem=filesystem)
    images = to_rgb(torch.stack([to_pixels(png) for png in table["image"].to_pylist()]))
    return images.movedim(1, -1).contiguous().numpy(), table["label"].to_numpy()
