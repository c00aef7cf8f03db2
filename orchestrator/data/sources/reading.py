"""The bytes of one row of a listing."""

import os
from typing import Any

from orchestrator.config.data import DataConfig
from orchestrator.data.sources.features import labels_beside
from orchestrator.data.sources.files import read_part
from orchestrator.data.sources.huggingface import read_saved
from orchestrator.data.sources.parquet import read_cell
from orchestrator.data.sources.zip_archive import read_member


def read_encoded(config: DataConfig, row: dict[str, Any]) -> bytes:
    """Read the encoded bytes of a row of a listing.

    Raises:
        LookupError: the row of a table holds no image.
        UnreadableError: this user may not read it, or it is larger than any image.
        UserError: it is gone, or the disk or the store fails.
    """
    assert config.source_path is not None
    path = os.fsdecode(row["path"])
    if config.source == "parquet":
        return read_cell(config, path, row["start"])
    if config.source == "huggingface":
        return read_saved(config, path, row["start"])
    if config.source == "zip":
        return read_member(config.source_path, path, row["start"], row["size"])
    return read_part(config.source_path, path, row["start"], row["size"])


def read_label_beside(config: DataConfig, row: dict[str, Any]) -> bytes:
    """Read the file with the label of fast-DiT's features."""
    assert config.source_path is not None
    return read_part(config.source_path, labels_beside(os.fsdecode(row["path"])))
