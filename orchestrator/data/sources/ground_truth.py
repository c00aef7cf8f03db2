"""Labels in a file of their own, as for ImageNet's validation images: ``data.ground_truth``."""

import csv
import posixpath
import re
from dataclasses import replace
from pathlib import PurePosixPath

from orchestrator import storage
from orchestrator.config.data import DataConfig
from orchestrator.data.sources import reasons
from orchestrator.data.sources.classes import read_class_map
from orchestrator.data.sources.files import Omitted
from orchestrator.data.sources.names import natural, printable
from orchestrator.data.sources.rows import Found, shown
from orchestrator.errors import UserError

_HEADERS = ("imageid", "image_id", "image", "filename", "file_name", "file", "name", "path")
_SYNSET = re.compile(r"n\d{8}(?=\s|$)")
_HELP = (
    "Give a file with one synset a line in the order of the images' names, or with NAME,LABEL a line, such "
    "as Kaggle's LOC_val_solution.csv"
)


def label_rows(found: Found, names: list[str], config: DataConfig) -> None:
    """Give every row the label that ``data.ground_truth`` has for it; ``names`` are the images' names.

    A row without one gets None. A label without an image is listed.

    Raises:
        UserError: the file is not there, does not fit, or does not say which classes it means.
    """
    place = config.ground_truth
    assert place is not None
    rows = _read(place)
    labels = [row[-1] for row in rows]
    _refuse_numbers(labels, config)
    if all(len(row) == 1 for row in rows):
        _refuse_other_order(names, labels, place)
        order = sorted(range(len(names)), key=lambda number: posixpath.basename(names[number]))
        for number, only in zip(order, labels, strict=True):
            found.rows[number] = replace(found.rows[number], label=only)
        return
    by_name = _by_name(rows, place)
    used: set[str | None] = set()
    for number, name in enumerate(names):
        key = next((key for key in _keys(name) if key in by_name), None)
        used.add(key)
        label = by_name[key] if key is not None else None
        found.rows[number] = replace(found.rows[number], label=label)
    found.omitted += [
        Omitted(f"{printable(place)}: {name}", reasons.WITHOUT_IMAGE, "only the ground truth names it")
        for name in by_name
        if name not in used
    ]


def _read(place: str) -> list[tuple[str, ...]]:
    """The rows of the file: a label each, or a name and a label each."""
    try:
        text = storage.read_bytes(place).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"There is no file {place}, which data.ground_truth names.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"The ground truth {place} cannot be read: {error}. {_HELP}.") from error
    lines = text.rstrip().splitlines()
    divider = next((mark for mark in "\t," if lines and mark in lines[0]), None)
    rows: list[tuple[str, ...]]
    if divider is None:
        rows = [(_label(line),) for line in lines]
    else:
        split = _fields(lines, divider, place)
        short = next((number for number, fields in enumerate(split, 1) if len(fields) < 2), None)
        if short is not None:
            raise UserError(f"Row {short} of {place} is no name and label: {split[short - 1]}. {_HELP}.")
        if split[0][0].strip().lower() in _HEADERS:
            split = split[1:]
        rows = [(fields[0].strip(), _label(fields[1])) for fields in split]
    empty = next((number for number, row in enumerate(rows, 1) if not all(row)), None)
    if empty is not None or not rows:
        raise UserError(f"The ground truth {place} has no label in its line {empty or 1}. {_HELP}.")
    return rows


def _fields(lines: list[str], divider: str, place: str) -> list[list[str]]:
    try:
        return list(csv.reader(lines, delimiter=divider))
    except csv.Error as error:
        raise UserError(f"The ground truth {place} cannot be read: {error}. {_HELP}.") from error


def _label(text: str) -> str:
    """A label; of Kaggle's ``n01751748 111 108 230 366 n01751748 ...``, the synset that its boxes have."""
    synsets = set(_SYNSET.findall(text))
    return synsets.pop() if len(synsets) == 1 and _SYNSET.match(text.strip()) else text.strip()


def _refuse_numbers(labels: list[str], config: DataConfig) -> None:
    """Take numbers only where ``data.classes`` says what each of them means."""
    numbers = [label for label in labels if re.fullmatch(r"-?\d+(\.0*)?", label)]
    known = read_class_map(config.classes).numbers if config.classes else {}
    if any(label not in known for label in numbers):
        raise UserError(
            f"{config.ground_truth} holds numbers, such as {numbers[0]}, and does not say of which classes. "
            "The numbers of ILSVRC2012_validation_ground_truth.txt are in another order than the synsets: "
            f"its 1 is n02119789 and not n01440764. {_HELP}. Or name with --data.classes a JSON file that "
            'maps each of these numbers to a class number, such as {"1": 278, "2": 212}.'
        )


def _refuse_other_order(names: list[str], labels: list[str], place: str) -> None:
    """Take labels without names only where the order of the images is certain, and none is missing."""
    if len(names) != len(labels):
        raise UserError(
            f"{place} has {len(labels)} labels without names, and the source {len(names)} images, so "
            f"nobody knows which belong together. {_HELP}."
        )
    folders = sorted({posixpath.dirname(name) for name in names})
    if len(folders) > 1 or sorted(names) != sorted(names, key=natural):
        several = f"lie in several folders, {shown(folders)}"
        what = several if len(folders) > 1 else "have numbers without leading zeros"
        raise UserError(
            f"{place} has labels without names, and the images {what}: their order is not certain. Give "
            "NAME,LABEL a line."
        )


def _by_name(rows: list[tuple[str, ...]], place: str) -> dict[str, str]:
    by_name: dict[str, str] = {}
    for name, label in rows:
        if by_name.setdefault(name, label) != label:
            raise UserError(f"{place} gives {name} two labels, {by_name[name]} and {label}. Correct it.")
    return by_name


def _keys(name: str) -> tuple[str, str, str]:
    """What an image may be called: with its folders, without them, and without its ending, as Kaggle does."""
    return name, posixpath.basename(name), PurePosixPath(name).stem
