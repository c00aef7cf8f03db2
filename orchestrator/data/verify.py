"""Reading every byte of a dataset: is each file what it should be, and what do the rows hold?"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from orchestrator import storage
from orchestrator.data.accounts import SKIPPED_FILE, account_in_words, count_in
from orchestrator.data.format import (
    INFO_FILE,
    DatasetInfo,
    LatentDataset,
    open_dataset,
    read_rows,
    to_arrays,
)
from orchestrator.errors import UserError
from orchestrator.logs import terminal
from orchestrator.storage import filesystem_of

LARGEST_MEAN = 300.0
"""Largest absolute value of a plausible mean; beyond it, half precision or the encoder went wrong."""
SHEET_ROWS, SHEET_COLUMNS = 4, 8
SHOWN_CLASSES = 10


@dataclass
class Findings:
    """What was found in a dataset."""

    rows: int = 0
    classes: Counter[int] = field(default_factory=Counter)
    """Label -> number of its rows."""
    problems: list[str] = field(default_factory=list)
    seen: set[tuple[int, bool]] = field(default_factory=set)
    """(index, flipped) of every row so far."""


def verify(path: str, sheet: str | None = None, vae: str | None = None) -> None:
    """Check every file of the dataset at ``path`` and print a summary.

    Args:
        path: folder or URI of the dataset.
        sheet: PNG to write with a few images of it; latents need ``vae``.
        vae: the AutoencoderKL that decodes latents for the sheet.

    Raises:
        UserError: something is wrong; all of it is listed.
    """
    console = terminal()
    dataset = open_dataset(path)
    findings = Findings()
    for file in dataset.files:
        _verify_file(dataset, file.name, file.sha256, findings)
    findings.problems += _unbalanced(dataset, findings)
    if findings.problems:
        shown = "\n  ".join(findings.problems[:20])
        raise UserError(
            f"{path} has {len(findings.problems)} problems:\n  {shown}\n"
            "Delete the files named and prepare it again."
        )
    _summarize(dataset, findings, console)
    if sheet is not None:
        write_sheet(dataset, Path(sheet), vae)
        console.print(f"Sheet: {sheet}", soft_wrap=True)


def _unbalanced(dataset: LatentDataset, findings: Findings) -> list[str]:
    """Whether everything that the source held is stored or listed, mirrored rows beside their images."""
    account = dataset.account
    if account is None:
        return []
    images = {index for index, _ in findings.seen}
    problems = []
    if not account.is_balanced:
        problems.append(f"{INFO_FILE}: {account_in_words(account)} That is not equal.")
    if len(images) != account.stored:
        problems.append(f"{len(images)} images have rows, and {INFO_FILE} counts {account.stored} as stored")
    if dataset.info.flips:
        alone = sum((index, not flipped) not in findings.seen for index, flipped in findings.seen)
        if alone:
            problems.append(f"{alone} rows have no mirrored row")
    lines = json.loads(storage.read_bytes(storage.join(dataset.path, SKIPPED_FILE)))
    listed = sum(account.listed.values())
    if (named := sum(count_in(line) for line in lines)) != listed:
        problems.append(f"{SKIPPED_FILE} names {named} and {INFO_FILE} counts {listed} that are not stored")
    return problems


def _verify_file(dataset: LatentDataset, name: str, sha256: str, findings: Findings) -> None:
    filesystem, root = filesystem_of(dataset.path)
    with filesystem.open_input_stream(f"{root}/{name}") as stream:
        content = stream.read()
    if hashlib.sha256(content).hexdigest() != sha256:
        findings.problems.append(f"{name}: its checksum is not the one it was written with")
        return
    file = pq.ParquetFile(pa.BufferReader(content))
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        findings.rows += len(table)
        findings.classes.update(table["label"].to_pylist())
        for row in zip(table["index"].to_pylist(), table["flipped"].to_pylist(), strict=True):
            if row in findings.seen:
                findings.problems.append(f"{name}: image {row[0]} (flipped: {row[1]}) is stored twice")
            findings.seen.add(row)
        findings.problems += [f"{name}, row group {group}: {p}" for p in _wrong_values(dataset.info, table)]


def _wrong_values(info: DatasetInfo, table: pa.Table) -> list[str]:
    if info.kind == "pixels":
        return []
    arrays: npt.NDArray[np.float32] = to_arrays(info, table).astype(np.float32)
    mean = arrays[:, : info.shape[0] // 2]
    problems = []
    if not np.isfinite(arrays).all():
        problems.append(f"{int((~np.isfinite(arrays)).any(axis=(1, 2, 3)).sum())} rows hold NaN or infinity")
    elif np.abs(mean).max() > LARGEST_MEAN:
        problems.append(
            f"a mean of {np.abs(mean).max():.0f} is no plausible latent (at most {LARGEST_MEAN:.0f})"
        )
    return problems


def _summarize(dataset: LatentDataset, findings: Findings, console: Console) -> None:
    info, counts = dataset.info, findings.classes
    megabytes = sum(file.size for file in dataset.files) / 1e6
    console.print(
        f"{dataset.path} is whole: {findings.rows} rows of {info.num_images} images, "
        f"{info.kind} {list(info.shape)}, {len(dataset.files)} files, {megabytes:.1f} MB, from {info.source}"
        + (f", encoded by {info.encoder} ({info.encoder_revision})" if info.encoder else ""),
        soft_wrap=True,
    )
    if dataset.account is not None:
        console.print(account_in_words(dataset.account), soft_wrap=True, markup=False, highlight=False)
    table = Table(
        "label", "class", "rows", title=f"rows per class: {min(counts.values())} to {max(counts.values())}"
    )
    shown = sorted(counts)[:SHOWN_CLASSES]
    for label in shown:
        table.add_row(str(label), info.class_names[label], str(counts[label]))
    if len(counts) > len(shown):
        table.add_row("...", f"and {len(counts) - len(shown)} more classes", "")
    console.print(table)


def write_sheet(dataset: LatentDataset, path: Path, vae: str | None) -> None:
    """Write the first rows as one PNG, decoded where they are latents.

    Raises:
        UserError: they are latents and there is no VAE.
    """
    import torch

    from orchestrator.data.vae import decode_means
    from orchestrator.images import save_grid

    info = dataset.info
    if info.kind == "moments" and vae is None:
        raise UserError("A sheet of latents needs the VAE that made them: --vae " + str(info.encoder))
    wanted, tables = SHEET_ROWS * SHEET_COLUMNS, list[pa.Table]()
    for table in read_rows(dataset, wanted):
        tables.append(table)
        if sum(len(t) for t in tables) >= wanted:
            break
    stored = torch.from_numpy(to_arrays(info, pa.concat_tables(tables).slice(0, wanted)).copy())
    if info.kind == "moments" and vae is not None:
        recorded = info.encoder_revision or ""
        stored = decode_means(vae, None if recorded.startswith("sha256:") else recorded, stored)
    save_grid(stored, str(path), SHEET_COLUMNS)
