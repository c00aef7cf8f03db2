"""What a collection of encoded images holds, and what lies in it beside them."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from orchestrator.config.data import DataConfig
from orchestrator.data.sources import classes, features, folder, huggingface, parquet, tar, zip_archive
from orchestrator.data.sources.files import Omitted, Tree, walk_source
from orchestrator.data.sources.names import printable
from orchestrator.data.sources.reasons import EXPECTED
from orchestrator.data.sources.rows import Found, shown, table_of
from orchestrator.errors import UserError

LISTERS: dict[str, Callable[[DataConfig, Tree], Found]] = {
    "image_folder": folder.list_folder,
    "tar": tar.list_shards,
    "zip": zip_archive.list_archives,
    "parquet": parquet.list_tables,
    "huggingface": huggingface.list_saved,
    "released_npy": features.list_released,
    "fast_dit": features.list_fast_dit,
}
LABELS_IN_FILES = ("released_npy", "fast_dit")
"""Sources whose labels are read with the features."""
WITH_GROUND_TRUTH = ("image_folder", "tar")
"""Sources whose labels may lie in ``data.ground_truth``."""
"""Sources of which ``data.split`` takes a part."""


@dataclass(frozen=True)
class Listing:
    """A collection of encoded images."""

    source: str
    """Kind and place, for people."""
    class_names: tuple[str, ...]
    """Names in label order; only one for features, whose labels lie in the files."""
    rows: pa.Table
    """One row per image, with the columns that the module lists."""
    stamps: pa.Array
    """A text for each row that changes when its file is replaced."""
    fingerprint: str
    """16 hexadecimal digits that change when images come, go, move or get another label."""
    omitted: tuple[Omitted, ...] = ()
    """What lies in the source and is no image to store."""
    notes: tuple[str, ...] = ()
    """What should be said aloud."""

    @property
    def found(self) -> int:
        """Number of all images, files, members and rows, whether they are to be stored or not."""
        return self.rows.num_rows + sum(omitted.count for omitted in self.omitted)

    @property
    def defects(self) -> int:
        """How many of ``omitted`` should have been images to store."""
        return sum(omitted.count for omitted in self.omitted if omitted.reason not in EXPECTED)

    def classes_in_words(self) -> str:
        """How labels and names go together, and which classes have no image."""
        used = set(self.rows["label"].unique().to_pylist())
        empty = [name for label, name in enumerate(self.class_names) if label not in used]
        text = f"{len(self.class_names)} classes: {shown(self.class_names)}."
        return text + (f" Without an image: {shown(empty)}." if empty else "")


def list_source(config: DataConfig) -> Listing:
    """List the images of ``data.source_path``.

    Raises:
        UserError: it is not there, holds no images, or its labels do not make sense.
    """
    assert config.source_path is not None
    if config.ground_truth is not None and config.source not in WITH_GROUND_TRUTH:
        raise UserError(
            f"data.ground_truth is for {' and '.join(WITH_GROUND_TRUTH)}; data.source {config.source} has "
            "its labels. Take the setting away."
        )
    tree = walk_source(config.source_path)
    found = LISTERS[config.source](config, tree)
    found.omitted += tree.omitted
    labels, names = [0] * len(found.rows), tuple[str, ...](("0",))
    if config.source not in LABELS_IN_FILES:
        class_map = classes.read_class_map(config.classes) if config.classes else None
        labels, names = classes.resolve(found, class_map, config.source_path)
    if not found.rows:
        there = ", ".join(f"{count} {reason}" for reason, count in counts_of(found.omitted).items())
        raise UserError(
            f"{printable(config.source_path)} holds no images for data.source {config.source}"
            + (f": {there}." if there else ".")
        )
    rows = table_of(found.rows, labels)
    return Listing(
        source=f"{config.source} {printable(config.source_path)}",
        class_names=names,
        rows=rows,
        stamps=pa.array([row.stamp for row in found.rows], pa.string()),
        fingerprint=_fingerprint(config.source_path, found, labels),
        omitted=tuple(found.omitted),
        notes=tuple(found.notes),
    )


def _fingerprint(source_path: str, found: Found, labels: list[int]) -> str:
    """16 hexadecimal digits of which images are where, wherever the whole source lies."""
    digest = hashlib.sha256()
    root = len(source_path.removeprefix("s3://").rstrip("/"))
    for row, label in zip(found.rows, labels, strict=True):
        place = f"{label} {row.start} {row.size} {row.path[root:]}\0"
        digest.update(place.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def counts_of(omitted: tuple[Omitted, ...] | list[Omitted]) -> dict[str, int]:
    """How many were left out for each reason."""
    counts: Counter[str] = Counter()
    for each in omitted:
        counts[each.reason] += each.count
    return dict(sorted(counts.items()))
