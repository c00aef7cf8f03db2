"""Samples beside the training images that are nearest to them: did the network learn images by heart?"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from orchestrator.data.format import LatentDataset, read_rows, to_arrays
from orchestrator.images import encode_png, split_grid, to_picture, to_pixels
from orchestrator.sampling.tiles import Row, as_tile, rows_of_tiles, spread, stacked

SHOWN_ROWS = 3
READ_AT_ONCE = 1_000
COMPARED = 100
"""Training images that are compared with all others, evenly spread."""


def nearest_sheet(grid: bytes, columns: int, dataset: LatentDataset) -> bytes:
    """A PNG of the first samples of a grid, each above the training image that differs least from it.

    The difference is the root mean square over pixels, in grey levels of 255. The title has its median over
    the samples. Beside it stands that of training images from the nearest other one: samples that differ
    much less are copies.

    Args:
        grid: a PNG of samples as the dataset's images are, ``columns`` of them in a row.
    """
    images = torch.from_numpy(
        np.concatenate([to_arrays(dataset.info, table) for table in read_rows(dataset, READ_AT_ONCE)])
    )
    samples = split_grid(to_pixels(grid), columns)[:, : images.shape[1]]
    differences, nearest = (found[:, 0] for found in two_nearest(samples, images))
    compared = images[spread(range(len(images)), COMPARED)]
    # The nearest one is the image itself.
    among_themselves = two_nearest(compared, images)[0][:, -1]
    title = (
        f"nearest training images; median difference in grey levels: {differences.median():.1f}, "
        f"of training images among themselves: {among_themselves.median():.1f}"
    )
    blocks = []
    for start in range(0, min(SHOWN_ROWS * columns, len(samples)), columns):
        shown = slice(start, start + columns)
        rows: list[Row] = [("sample", _tiles(samples[shown])), ("nearest", _tiles(images[nearest[shown]]))]
        blocks.append(rows_of_tiles(rows, title="" if start else title))
    return encode_png(stacked(blocks))


def two_nearest(images: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Differences from the two nearest of ``among``, and these two's numbers: ``[N, 2]`` float64 and int64.

    Args:
        images: uint8 ``[N, C, H, W]``, as those of ``among`` are.
    """
    # In float64, where products of grey levels are exact.
    flat = images.flatten(1).double()
    differences = torch.cat(
        [
            torch.cdist(flat, part.flatten(1).double(), compute_mode="use_mm_for_euclid_dist")
            for part in among.split(READ_AT_ONCE)
        ],
        dim=1,
    )
    found = (differences / flat.shape[1] ** 0.5).topk(min(2, len(among)), dim=1, largest=False)
    return found.values, found.indices


def _tiles(images: Tensor) -> list[Image.Image]:
    return [as_tile(to_picture(image)) for image in images]
