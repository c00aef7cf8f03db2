"""YAML as people write it: numbers in any notation, and no key twice."""

import dataclasses
import re
import typing
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError

_NUMBER = re.compile(
    r"[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
_WHOLE = re.compile(r"[-+]?\d[\d_]*(?:\.[\d_]*)?(?:[eE]\+?\d+)?$")
MOST_DIGITS = 18


class _Loader(yaml.SafeLoader):
    """Reads what PyYAML reads as YAML 1.1, and also 1e6 and +.5 as numbers."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are there once.

        Raises:
            yaml.MarkedYAMLError: a key is there twice.
        """
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = key_node.value, key_node.start_mark.line + 1
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"{key} is there twice, in lines {seen[key]} and {line}")
            seen[key] = line
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds settings.

    Raises:
        UserError: it is no YAML, holds a key twice, or no settings.
    """
    try:
        content = yaml.load(Path(path).read_text(), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds no settings but {str(content)[:60]!r}. It must hold `section:` and keys."
        )
    return content


def as_whole_number(value: Any) -> Any:
    """A number that was written as 1e6 or 20000.0 as an integer, where it is one; anything else as it is."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 10**MOST_DIGITS:
        return int(value)
    if isinstance(value, str) and _WHOLE.match(value.strip()):
        return as_whole_number(float(value.replace("_", "")))
    return value


def read_value(text: str) -> Any:
    """What a value on the command line means; what is no YAML is a text."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text


def with_whole_numbers(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The config with integers where they are due and were written as 1e6."""
    whole = {}
    for name, value in plain.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            whole[name] = with_whole_numbers(value, f"{key}.")
        else:
            whole[name] = (
                as_whole_number(value)
                if key in keys_of_whole_numbers() and not isinstance(value, str)
                else value
            )
    return whole


@lru_cache
def keys_of_whole_numbers() -> frozenset[str]:
    """The dotted keys of settings that are integers."""
    return frozenset(_keys_of_integers(ExperimentConfig, ""))


def _keys_of_integers(kind: Any, prefix: str) -> Iterator[str]:
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            yield from _keys_of_integers(hint, f"{prefix}{name}.")
        elif hint is int or int in typing.get_args(hint):
            yield f"{prefix}{name}"
