"""From the labels that a source has to class numbers: ``data.classes``, folders' names, numbers, texts."""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from orchestrator import storage
from orchestrator.config.data import DataConfig
from orchestrator.data.sources import reasons
from orchestrator.data.sources.files import Omitted
from orchestrator.data.sources.names import is_number, natural, printable
from orchestrator.data.sources.rows import Found, Row, shown
from orchestrator.errors import UserError

MOST_CLASSES = 1_000_000
"""Larger labels are identifiers of something and no class numbers."""
IMAGENET = "imagenet"
_SYNSETS = Path(__file__).with_name("imagenet_synsets.txt")
_MAP_HELP = (
    "A class map fixes it: --data.classes FILE, with one name per line in label order, or JSON that maps the "
    'source\'s labels to class numbers, such as {"1": 0, "2": 1}'
)


@dataclass(frozen=True)
class ClassMap:
    """What ``data.classes`` says."""

    names: tuple[str, ...]
    """In label order."""
    numbers: dict[str, int]
    """What the source calls a class -> its number."""


def read_class_map(place: str) -> ClassMap:
    """Read a class map: ``imagenet``, a text with a name per line, or JSON (a list, or an object either way).

    Raises:
        UserError: it is not there, or it is none.
    """
    try:
        text = _SYNSETS.read_text() if place == IMAGENET else storage.read_bytes(place).decode("utf-8-sig")
        found = _from_json(json.loads(text)) if place.endswith(".json") else _from_lines(text)
    except FileNotFoundError as error:
        raise UserError(
            f"There is no class map at {place}; data.classes must name a file, or {IMAGENET}."
        ) from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"The class map {place} cannot be read: {error}.") from error
    return found


def _from_lines(text: str) -> ClassMap:
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if lines and all(re.match(r"n\d{8}(\s|$)", line) for line in lines):
        lines = [line.split()[0] for line in lines]  # a synset, then words for it
    return _in_order(lines)


def _from_json(content: object) -> ClassMap:
    if isinstance(content, list):
        return _in_order([str(name) for name in content])
    if not isinstance(content, dict) or not content:
        raise ValueError("it is neither a list of names nor an object")
    if all(type(value) is int for value in content.values()):
        numbers = {str(name): int(number) for name, number in content.items()}
        names = {number: name for name, number in numbers.items()}
    else:
        texts = {int(n): list(v) if isinstance(v, list) else [v] for n, v in content.items()}
        names = {number: str(words[0]) for number, words in texts.items()}
        numbers = {str(word): number for number, words in texts.items() for word in words[:1]}
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"its class numbers are not 0..{len(names) - 1}, each at least once")
    return ClassMap(tuple(names[number] for number in range(len(names))), numbers)


def _in_order(names: list[str]) -> ClassMap:
    double = [name for name, count in Counter(names).items() if count > 1]
    if not names or "" in names or double:
        raise ValueError(f"{double[0]} is there twice" if double and double[0] else "a name is missing")
    return ClassMap(tuple(names), {name: number for number, name in enumerate(names)})


def name_classes(found: Found, names: set[str], what: str, config: DataConfig) -> None:
    """Note the classes that folders or archives are; an empty one keeps its number, unless a map fixes it."""
    used = {str(row.label) for row in found.rows}
    empty = sorted(names - used)
    if config.classes is not None:
        found.folders = tuple(sorted(names & used))
        return
    found.folders = tuple(sorted(names))
    if empty:
        found.notes.append(
            f"Class {what} without an image: {shown(empty)}. They keep their place in the order of the "
            "labels."
        )


def resolve(found: Found, classes: ClassMap | None, source_path: str) -> tuple[list[int], tuple[str, ...]]:
    """The class number of every row, and the classes' names; rows without a label are moved to ``omitted``.

    Raises:
        UserError: the labels do not make sense; the message says what they are and what to do.
    """
    labels = _kept(found, source_path)
    if not labels:
        return [], ()
    kinds = {type(label) for label in labels}
    if classes is None and len(kinds) > 1:
        text = next(label for label in labels if isinstance(label, str))
        raise UserError(
            f"{printable(source_path)}: some labels are numbers and some are texts, such as the label "
            f"{printable(str(text))!r}. {_MAP_HELP}."
        )
    if classes is not None:
        return _mapped(found, labels, classes, source_path), classes.names
    if kinds == {str}:
        names = _names_in_order(found, {str(label) for label in labels}, source_path)
        numbers = {name: number for number, name in enumerate(names)}
        return [numbers[str(label)] for label in labels], tuple(map(printable, names))
    plain = [int(label) for label in labels]
    given = found.class_names or _numbered(plain, found, source_path)
    if max(plain) >= len(given):
        raise UserError(
            f"{printable(source_path)} holds the label {max(plain)}, and names only {len(given)} classes: "
            f"{shown(given)}. {_MAP_HELP}."
        )
    return plain, given


def _kept(found: Found, source_path: str) -> list[int | str]:
    """The labels of the rows that have one, as numbers or texts; the other rows are moved to ``omitted``."""
    rows: list[Row] = []
    labels: list[int | str] = []
    for row in found.rows:
        label = _plain(row, source_path)
        if label is None or (isinstance(label, int) and label < 0) or label == "":
            detail = "" if label in (None, "") else f"the label {label}"
            found.omitted.append(Omitted(_place(row), reasons.WITHOUT_LABEL, detail))
        else:
            rows.append(row)
            labels.append(label)
    if found.rows and not rows:
        raise UserError(
            f"None of the {len(found.rows)} images of {printable(source_path)} has a label: all are "
            "missing or "
            f"negative. The first is {_place(found.rows[0])}. Labels start at 0."
        )
    found.rows[:] = rows
    return labels


def _plain(row: Row, source_path: str) -> int | str | None:
    label = row.label
    if isinstance(label, bool):
        return int(label)
    if isinstance(label, float):
        if math.isnan(label):
            return None
        if not label.is_integer():
            raise UserError(
                f"{_place(row)} has the label {label}, which is no class number. data.label_column must name "
                f"the column of {printable(source_path)} with class numbers or names."
            )
        return int(label)
    return label.strip() if isinstance(label, str) else label


def _place(row: Row) -> str:
    inside = row.name or (f"row {row.start}" if row.start or row.size >= 0 else "")
    return printable(row.path) + (f": {printable(inside)}" if inside else "")


def _mapped(found: Found, labels: list[int | str], classes: ClassMap, source_path: str) -> list[int]:
    numbers, named = classes.numbers, found.class_names
    are_places = not any(is_number(name) for name in numbers)

    def number_of(label: int | str) -> int | None:
        if isinstance(label, int) and named is not None:
            label = named[label] if label < len(named) else label
        if str(label) in numbers:
            return numbers[str(label)]
        is_place = are_places and isinstance(label, int) and label < len(classes.names)
        return int(label) if is_place else None

    cache = {label: number_of(label) for label in set(labels)}
    unknown = sorted((str(label) for label, number in cache.items() if number is None), key=natural)
    if unknown:
        raise UserError(
            f"{printable(source_path)} has classes that data.classes does not: {shown(unknown)}. Add "
            "them to the "
            f"class map, or take their images out of the source. The class map has {len(classes.names)}: "
            f"{shown(classes.names)}."
        )
    return [number for label in labels if (number := cache[label]) is not None]


def _names_in_order(found: Found, used: set[str], source_path: str) -> list[str]:
    names = sorted({*found.folders, *used})
    if len(names) > MOST_CLASSES:
        raise UserError(
            f"{printable(source_path)} has {len(names)} different labels, such as {shown(names)}. These "
            "are no "
            "classes. data.label_column must name a column with class numbers or names."
        )
    what = "names" if found.folders else "labels"
    by_value = sorted(names, key=natural)
    if all(map(is_number, names)):
        if [int(name) for name in by_value] != list(range(len(names))) or by_value != names:
            found.notes.append(
                f"All class {what} are numbers, and are taken in the order of their values: label 0 is "
                f"{by_value[0]}, label {len(names) - 1} is {by_value[-1]}."
            )
        return by_value
    if by_value != names:
        other = next(number for number, name in enumerate(names) if by_value[number] != name)
        found.notes.append(
            f"Class {what} are sorted as texts, so that label {other} is {printable(names[other])} and not "
            f"{printable(by_value[other])}. --data.classes FILE gives them another order."
        )
    return names


def _numbered(labels: list[int], found: Found, source_path: str) -> tuple[str, ...]:
    used, largest = set(labels), max(labels)
    if largest >= MOST_CLASSES:
        raise UserError(
            f"{printable(source_path)} holds the label {largest}, which is no class number but an "
            "identifier of "
            f"something: there are {len(used)} different labels. {_MAP_HELP}."
        )
    if used == set(range(1, largest + 1)):
        raise UserError(
            f"{printable(source_path)} holds the labels 1..{largest} and no label 0. Labels start at 0, "
            "and number "
            f"{largest} would be the null class of a network of {largest} classes. {_MAP_HELP}."
        )
    if len(used) <= largest:
        missing = [str(label) for label in range(largest + 1) if label not in used]
        found.notes.append(f"No image has the label {shown(missing)}; these classes stay empty.")
    return tuple(map(str, range(largest + 1)))
