"""What is wrong with given values, in our own words and with the nearest valid choice."""

import dataclasses
import difflib
import math
from collections.abc import Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def did_you_mean(word: str, choices: Iterable[str], cutoff: float = 0.3) -> str:
    """A question that names the choice nearest to ``word``, with a space behind it; empty where none is."""
    nearest = difflib.get_close_matches(word, list(choices), n=1, cutoff=cutoff)
    return f"Did you mean {nearest[0]}? " if nearest else ""


def did_you_mean_path(path: str) -> str:
    """The same for a local path that is not there, among what lies beside it."""
    wanted = Path(path).expanduser()
    if wanted.exists() or "://" in path:
        return ""
    while not wanted.parent.is_dir() and wanted != wanted.parent:
        wanted = wanted.parent
    try:
        beside = {entry.name: entry for entry in wanted.parent.iterdir()}
    except OSError:
        return ""
    nearest = difflib.get_close_matches(wanted.name, beside, n=1, cutoff=0.5)
    return f"Did you mean {beside[nearest[0]]}? " if nearest else ""


def mistake_in(kind: Any, value: Any, name: str) -> str | None:
    """Say what is wrong with a value from a YAML file or the command line; None where nothing is found.

    Args:
        kind: the type it must have: a dataclass, a Literal, a union, a list, tuple or dictionary, or plain.
        name: the setting's dotted name; empty for a whole file.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _mistake_in_settings(kind, value, name)
    if origin is Literal:
        choices = [str(choice) for choice in inner]
        if value in inner:
            return None
        hint = did_you_mean(str(value), choices, cutoff=0.5)
        return f"{name} is {_shown(value)}, and must be one of: {', '.join(choices)}. {hint}".strip()
    if origin in (Union, UnionType):
        found = [mistake_in(one, value, name) for one in inner if one is not NoneType]
        return None if None in found or (value is None and NoneType in inner) else found[0]
    if origin in (list, tuple):
        return _mistake_in_sequence(kind, value, name)
    if origin is dict:
        if not isinstance(value, dict):
            return f"{name} is {_shown(value)}, and must have names with a value each."
        parts = [mistake_in(inner[0], key, f"a name in {name}") for key in value]
        parts += [mistake_in(inner[1], part, f"{name}.{key}") for key, part in value.items()]
        return next((part for part in parts if part), None)
    if kind in KINDS and not _fits(kind, value):
        return f"{name} is {_shown(value)}, and must be {KINDS[kind]}."
    return None


def type_of(kind: Any, key: str) -> Any:
    """The type of a dataclass's setting by its dotted key; None where there is no such setting."""
    for part in key.split("."):
        kind = get_type_hints(kind).get(part) if dataclasses.is_dataclass(kind) else None
    return kind


def _mistake_in_settings(kind: Any, value: Any, name: str) -> str | None:
    hints = {f.name: get_type_hints(kind)[f.name] for f in dataclasses.fields(kind)}
    inside = f"{name}." if name else ""
    if not isinstance(value, dict):
        where = f"{name} is {_shown(value)}, and" if name else "It"
        return f"{where} must have settings of its own: {', '.join(hints)}."
    for key, part in value.items():
        if key not in hints:
            nearest = did_you_mean(f"{inside}{key}", [f"{inside}{one}" for one in hints], cutoff=0.6)
            hint = nearest or f"There are: {', '.join(hints)}."
            return f"There is no setting '{inside}{key}'. {hint}".strip()
        if found := mistake_in(hints[key], part, f"{inside}{key}"):
            return found
    return None


def _mistake_in_sequence(kind: Any, value: Any, name: str) -> str | None:
    inner = get_args(kind)
    is_any_length = get_origin(kind) is list or inner[-1] is Ellipsis
    if not isinstance(value, list | tuple):
        return f"{name} is {_shown(value)}, and must be a list, such as {_example(inner, is_any_length)}."
    if not is_any_length and len(value) != len(inner):
        return f"{name} has {len(value)} values, and must have {len(inner)}."
    kinds = [inner[0]] * len(value) if is_any_length else inner
    names = [_named(part, f"{name}[{place}]") for place, part in enumerate(value)]
    found = (mistake_in(*parts) for parts in zip(kinds, value, names, strict=True))
    return next((part for part in found if part), None)


def _named(value: Any, otherwise: str) -> str:
    """How to speak of a part of a list: by its own name, where it has one."""
    own = value.get("name") if isinstance(value, dict) else None
    return f"{otherwise.rpartition('[')[0]}[{own}]" if isinstance(own, str) else otherwise


def _example(inner: tuple[Any, ...], is_any_length: bool) -> str:
    examples = {int: "1", float: "0.5", str: "a"}
    choices = get_args(inner[0]) if get_origin(inner[0]) is Literal else ()
    one = str(choices[0]) if choices else examples.get(inner[0], "…")
    return f"'[{', '.join([one] * (1 if is_any_length else len(inner)))}]'"


def _fits(kind: Any, value: Any) -> bool:
    """Whether a plain value may be meant for its type; in doubt it is."""
    if kind is bool or value is None or isinstance(value, dict | list):
        return isinstance(value, bool) if kind is bool else False
    if kind is str:
        return True
    try:
        number = float(value)
    except ValueError:
        return False
    if not math.isfinite(number):
        return kind is float
    return not isinstance(value, bool) and (kind is float or number == int(number))


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)
