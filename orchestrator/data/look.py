"""What is in a source, before anything is made of it."""

import re
import shlex
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from orchestrator.config.data import DataConfig, SourceKind
from orchestrator.config.plain import absolute
from orchestrator.data.sources.decode import Decoding, decode_image, open_image
from orchestrator.data.sources.files import Tree, UnreadableError, walk_source
from orchestrator.data.sources.huggingface import ARROW_SUFFIX
from orchestrator.data.sources.listing import LABELS_IN_FILES, Listing, counts_of, list_source
from orchestrator.data.sources.names import is_image_name
from orchestrator.data.sources.reading import read_encoded
from orchestrator.data.sources.rows import describe
from orchestrator.data.sources.tar import is_shard_name
from orchestrator.data.sources.zip_archive import ZIP_SUFFIX
from orchestrator.errors import UserError

SAMPLED = 200
"""Images that are decoded, evenly spread over the source."""
SHEET_IMAGES, SHEET_COLUMNS, SHEET_SIZE = 32, 8, 96
SHOWN = 10


@dataclass
class _Seen:
    """What the decoded images are like."""

    sizes: list[tuple[int, int]] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    sheet: list[Any] = field(default_factory=list)


def look(
    source: str,
    kind: SourceKind | None = None,
    split: str | None = None,
    classes: str | None = None,
    ground_truth: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    sheet: str | None = None,
) -> None:
    """Say what is in a source: images, classes, sizes, oddities, and the command that prepares it.

    Args:
        source: folder or s3:// URI of the source.
        kind: data.source; by default it is told by the files.
        split: data.split.
        classes: data.classes.
        ground_truth: data.ground_truth.
        image_column: data.image_column.
        label_column: data.label_column.
        sheet: PNG to write with some of the images.

    Raises:
        UserError: it is not there, or it is no source; the message says what to do.
    """
    source = absolute(source) or source
    config = DataConfig(
        path="none",
        source=kind or guess_kind(walk_source(source)),
        source_path=source,
        split=split,
        classes=classes,
        ground_truth=ground_truth,
        image_column=image_column,
        label_column=label_column,
    )
    listing = list_source(config)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(f"{listing.source}: {listing.found} found, of which {listing.rows.num_rows} are images.")
    for reason, count in counts_of(listing.omitted).items():
        example = next(omitted for omitted in listing.omitted if omitted.reason == reason)
        console.print(f"  {count} {reason}, for example {example.place}")
    for note in listing.notes:
        console.print(f"  {note}")
    if config.source not in LABELS_IN_FILES:
        console.print(_classes(listing))
        _print_images(_decode_some(config, listing), listing, sheet, console)
    console.print(f"Prepare it with\n  {command(config, listing)}")


def guess_kind(tree: Tree) -> SourceKind:
    """The kind of source that the names of most files tell."""
    votes: Counter[SourceKind] = Counter()
    for file in tree.files:
        name = file.name.lower()
        if is_shard_name(name):
            votes["tar"] += 1
        elif name.endswith(ZIP_SUFFIX):
            votes["zip"] += 1
        elif is_image_name(name):
            votes["image_folder"] += 1
        elif name.endswith((".parquet", ".pq")):
            votes["parquet"] += 1
        elif name.endswith(ARROW_SUFFIX):
            votes["huggingface"] += 1
        elif name.endswith(".npy"):
            votes["fast_dit" if "_features/" in name or "_labels/" in name else "released_npy"] += 1
    return votes.most_common(1)[0][0] if votes else "image_folder"


def command(config: DataConfig, listing: Listing) -> str:
    """The command that prepares what was looked at."""
    assert config.source_path is not None
    words = ["python", "jobs/prepare_latents.py", "--data.source", config.source]
    words += ["--data.source_path", config.source_path]
    for name in ("split", "classes", "ground_truth", "image_column", "label_column"):
        if getattr(config, name) is not None:
            words += [f"--data.{name}", getattr(config, name)]
    if config.source not in LABELS_IN_FILES:
        words += ["--model.num_classes", str(len(listing.class_names))]
    name = re.sub(r"\.(tar|zip)$", "", Path(config.source_path).name, flags=re.IGNORECASE)
    words += ["--data.path", f"datasets/{name}"]
    return shlex.join(words)


def _classes(listing: Listing) -> Table:
    counts = Counter(listing.rows["label"].to_pylist())
    names = listing.class_names
    few = [counts[label] for label in range(len(names))]
    table = Table(
        "label", "class", "images", title=f"{len(names)} classes of {min(few)} to {max(few)} images"
    )
    for label in range(min(SHOWN, len(names))):
        table.add_row(str(label), names[label], str(counts[label]))
    if len(names) > SHOWN:
        table.add_row("...", f"and {len(names) - SHOWN} more, to {names[-1]}", "")
    return table


def _decode_some(config: DataConfig, listing: Listing) -> _Seen:
    count = listing.rows.num_rows
    places = np.unique(np.linspace(0, count - 1, min(SAMPLED, count)).round().astype(int))
    on_sheet = set(
        places[np.linspace(0, len(places) - 1, min(SHEET_IMAGES, len(places))).round().astype(int)]
    )
    seen = _Seen()
    for place, row in zip(places, listing.rows.take(places).to_pylist(), strict=True):
        try:
            content = read_encoded(config, row)
            image, remarks = open_image(content, "RGB", Decoding())
            if place in on_sheet:
                seen.sheet.append(decode_image(content, SHEET_SIZE, 3)[0])
        except (LookupError, UnreadableError, OSError, ValueError, SyntaxError) as error:
            seen.broken.append(f"{describe(row['path'], row['start'], row['size'])}: {error}")
            continue
        seen.sizes.append(image.size)
        seen.kinds[kind_of(content)] += 1
        seen.remarks.update(remarks)
    return seen


def kind_of(content: bytes) -> str:
    """Format and mode of an encoded image, such as JPEG RGB."""
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            return f"{image.format} {image.mode}"
    except (OSError, ValueError, SyntaxError):
        return "compressed"


def _print_images(seen: _Seen, listing: Listing, sheet: str | None, console: Console) -> None:
    total = len(seen.sizes) + len(seen.broken)
    if seen.sizes:
        sides = sorted(min(size) for size in seen.sizes)
        console.print(
            f"Of {total} images that were decoded: shorter side {sides[0]} to {sides[-1]} pixels, in "
            "the middle "
            f"{sides[len(sides) // 2]}; "
            + ", ".join(f"{count} {kind}" for kind, count in seen.kinds.most_common())
            + "."
        )
    for remark, count in seen.remarks.most_common():
        console.print(f"  {count} {remark}")
    for line in seen.broken[:SHOWN]:
        console.print(f"  cannot be stored: {line}")
    if sheet is not None and seen.sheet:
        import torch

        from orchestrator.images import save_grid

        save_grid(torch.from_numpy(np.stack(seen.sheet)), sheet, SHEET_COLUMNS)
        console.print(f"Sheet: {sheet}")
    if not seen.sizes:
        raise UserError(f"None of {total} images of {listing.source} that were tried can be decoded.")
