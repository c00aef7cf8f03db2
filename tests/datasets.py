"""Small datasets for tests."""

from pathlib import Path

import numpy as np

from orchestrator.data.format import DatasetInfo, LatentDataset, to_table, write_dataset


def write_numbered(path: Path | str, rows: int, row_group_rows: int, size: int = 2) -> LatentDataset:
    """Images of size x size in two files; image i has all pixels i and label i mod 3."""
    info = DatasetInfo(
        kind="pixels",
        shape=(1, size, size),
        source="numbers",
        num_images=rows,
        class_names=("zero", "one", "two"),
    )
    half = rows // 2 // row_group_rows * row_group_rows
    parts = [list(range(half)), list(range(half, rows))]
    tables = [
        to_table(
            info,
            np.tile(np.array(p, np.uint8)[:, None, None, None], (1, 1, size, size)),
            [i % 3 for i in p],
            p,
        )
        for p in parts
    ]
    return write_dataset(str(path), info, tables, row_group_rows)


def write_moments(path: Path, rows: int, size: int) -> LatentDataset:
    """Moments of a VAE with two latent channels; those of image i have the mean i / 100.

    The log-variance is -60, which leaves no spread after clamping.
    """
    info = DatasetInfo(
        kind="moments", shape=(4, size, size), source="numbers", num_images=rows,
        class_names=("zero", "one"), encoder="a-vae", encoder_revision="1", scaling_factor=0.5,
    )  # fmt: skip
    moments = np.full((rows, 4, size, size), -60, np.float16)
    moments[:, :2] = (np.arange(rows) / 100)[:, None, None, None]
    return write_dataset(
        str(path), info, [to_table(info, moments, [i % 2 for i in range(rows)], list(range(rows)))], 8
    )
