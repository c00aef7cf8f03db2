"""Small sources for tests, and what a preparation makes of them, in this process and without Ray."""

import dataclasses
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.accounts import PartAccount, whole_account
from orchestrator.data.encode import _failures_and_remarks, decode_chunk, plan_encoding
from orchestrator.data.format import Account
from orchestrator.data.prepare import collection_info
from orchestrator.data.sources.listing import Listing, list_source
from tests.configs import tiny

SIZE = 8


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, format=kind, **options)
    return content.getvalue()


def png(number: int, size: int = SIZE) -> bytes:
    """An image whose colour is its number."""
    return encoded(Image.new("RGB", (size, size), (number % 256, number // 256, 7)))


def number_of(pixels: bytes) -> int:
    """The number of an image that :func:`png` made."""
    array = np.frombuffer(pixels, np.uint8).reshape(3, SIZE, SIZE)
    return int(array[0, 0, 0]) + 256 * int(array[1, 0, 0])


def write_tar(path: Path, members: Sequence[tuple[str, bytes | str]]) -> Path:
    """Write a shard; a text instead of bytes makes a hard link to the member of that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.LNKTYPE, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def write_tar_of_tars(path: Path, classes: dict[str, Sequence[tuple[str, bytes | str]]]) -> Path:
    """Write an archive as ImageNet's for training: a tar file per class, named for it, in a tar file."""
    inner = path.parent / "inner"
    members = [
        (f"{name}.tar", write_tar(inner / f"{name}.tar", held).read_bytes()) for name, held in classes.items()
    ]
    shutil.rmtree(inner)
    return write_tar(path, members)


def write_zip(
    path: Path,
    members: Sequence[tuple[str, bytes]],
    labels: Any = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Write an archive as edm2's ``dataset_tool.py convert`` does; ``labels`` go into ``dataset.json``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


@lru_cache
def _base(num_classes: int) -> ExperimentConfig:
    model = {
        "input_size": SIZE, "channels": 3, "num_classes": num_classes, "depths": [1, 1], "widths": [8, 8],
        "num_heads": 2,
    }  # fmt: skip
    return tiny(Path("unused"), "unused", model=model, prepare={"use_gpu": False, "max_skipped": 0.99})


def settings(kind: str, place: Path | str, /, num_classes: int = 3, **data: Any) -> ExperimentConfig:
    base = _base(num_classes)
    changed = dataclasses.replace(base.data, source=kind, source_path=str(place), **data)
    return dataclasses.replace(base, data=changed)


def listed(kind: str, path: Path | str, **data: Any) -> Listing:
    return list_source(settings(kind, path, **data).data)


def prepared(
    kind: str, path: Path | str, **data: Any
) -> tuple[dict[int, tuple[int, bytes]], Account, list[str], Listing]:
    """What is stored as index -> (label, pixels), the account, the list of the rest, and the listing."""
    config = settings(kind, path, **data)
    listing = list_source(config.data)
    plan = plan_encoding(config, collection_info(config, listing), listing)
    rows = decode_chunk(plan, listing.rows)
    account, lines = whole_account(listing, [PartAccount("", *_failures_and_remarks(rows))])
    stored = {
        row["index"]: (row["label"], row["image"]) for row in rows.to_pylist() if row["image"] is not None
    }
    assert len(stored) == account.stored
    assert account.is_balanced
    return stored, account, lines, listing


def by_number(stored: dict[int, tuple[int, bytes]]) -> dict[int, int]:
    """Number of each image -> its label."""
    return {number_of(pixels): label for label, pixels in stored.values()}
