"""Every setting with its type, default and meaning, made from the dataclasses.

``python -m orchestrator.config.reference`` prints it; ``jobs/configs/REFERENCE.md`` keeps what is printed.
"""

import dataclasses
import re
import typing
from collections.abc import Iterator
from typing import Any

from docstring_parser import parse_from_object

from orchestrator.config.recipes import recipes
from orchestrator.config.schema import ExperimentConfig

HEAD = """# Settings

Every setting of an experiment, as in a preset's YAML file and on the command line (`--train.images 20000`).
Made from the code by `python -m orchestrator.config.reference > jobs/configs/REFERENCE.md`; a test checks
that it is current.
"""


def reference() -> str:
    """The whole reference as Markdown: a section for each part of the config, a row for each setting.

    The last section has published recipes.
    """
    return "\n".join([HEAD, *_sections(ExperimentConfig, ""), recipes()])


def _sections(kind: Any, prefix: str) -> Iterator[str]:
    described = parse_from_object(kind)
    hints, texts = typing.get_type_hints(kind), {p.arg_name: p.description or "" for p in described.params}
    nested = {
        f.name: hints[f.name] for f in dataclasses.fields(kind) if dataclasses.is_dataclass(hints[f.name])
    }
    rows = [
        _row(f, hints[f.name], texts.get(f.name, ""))
        for f in dataclasses.fields(kind)
        if f.name not in nested
    ]
    if prefix:
        yield f"## {prefix}\n\n{_prose(described.short_description or '')}\n"
    if rows:
        yield "\n".join(["| setting | type | default | what it is |", "|---|---|---|---|", *rows, ""])
    for name, inner in nested.items():
        yield from _sections(inner, f"{prefix}.{name}" if prefix else name)


def _row(field: "dataclasses.Field[Any]", hint: Any, text: str) -> str:
    return f"| `{field.name}` | {_cell(_type_name(hint))} | {_cell(_default(field))} | {_prose(text)} |"


def _cell(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""


def _prose(text: str) -> str:
    return " ".join(text.replace("``", "`").split()).replace("|", "\\|")


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    name = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return re.sub(r"typing\.|Literal", "", name)


def _default(field: "dataclasses.Field[Any]") -> str:
    value: Any = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return "required"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(list(value)) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    print(reference(), end="")
