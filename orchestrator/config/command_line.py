"""How every job begins: its command line becomes a config, and the job's own options."""

import copy
import dataclasses
import difflib
import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, Namespace, auto_cli, set_parsing_settings

from orchestrator.config.mistakes import mistake_in, type_of
from orchestrator.config.plain import build, flat
from orchestrator.config.presets import preset_names, preset_path, protocol_names
from orchestrator.config.schema import ExperimentConfig
from orchestrator.config.yaml_files import (
    as_whole_number,
    keys_of_whole_numbers,
    read_value,
    read_yaml,
    with_whole_numbers,
)
from orchestrator.errors import UserError
from orchestrator.exits import mistakes_explained

Options = TypeVar("Options")
Plain = dict[str, Any]
"""A config as nested dictionaries."""
HELP = frozenset({"-h", "--help"})


@dataclasses.dataclass(frozen=True)
class _NoOptions:
    """The options of a job that takes the config alone."""


def run_job(function: Callable[[ExperimentConfig], None], description: str, default: str) -> None:
    """Run ``function`` on the config that the command line describes.

    A user's mistake is explained in a paragraph, and the exit code is 2.
    """
    with mistakes_explained():
        function(parse(description, default))


def run_function(components: Any, arguments: Sequence[str] | None = None) -> None:
    """Run a function with the command line's arguments.

    Args:
        components: the function, or a dictionary of functions, of which the first argument names one.
        arguments: by default those that the process was started with.
    """
    with mistakes_explained():
        auto_cli(components, args=list(sys.argv[1:] if arguments is None else arguments))


def parse(description: str, default: str, arguments: Sequence[str] | None = None) -> ExperimentConfig:
    """Read ``--config NAME|PATH`` (else the preset ``default``) and dotted overrides from the command line.

    ``--config`` may be given several times; later ones override what they set.

    Raises:
        UserError: a preset, key or value is not valid; the message names the nearest valid one.
    """
    return parse_with(_NoOptions, description, default, arguments)[0]


def parse_with(
    options: type[Options],
    description: str,
    base: str | Plain | Callable[[Options], Plain] | None,
    arguments: Sequence[str] | None = None,
) -> tuple[ExperimentConfig, Options]:
    """Read the config as :func:`parse` does, and a job's own options, which are the fields of a dataclass.

    Args:
        base: what the command line changes. It is the name of a preset, which counts where there is no
            ``--config``; or a config as a dictionary; or a function of the job's own options that gives one.
            None: there must be a ``--config``.

    Raises:
        UserError: a preset, key or value is not valid; the message names the nearest valid one.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    is_help = bool(HELP & set(arguments))
    if base is None and not names_config(arguments) and not is_help:
        raise UserError(f"Say which: --config NAME or a YAML file. Presets: {', '.join(preset_names())}.")
    if callable(base):
        # The options are known before the config that they choose. To read them, the types of any complete
        # config will do; whether its values fit together is seen below, with the right one.
        asked = [a for a in arguments if not a.startswith("--print_config") and a not in HELP]
        try:
            base = base(build(options, _parsed(options, description, merged(["quickstart"]), asked)))
        except UserError:
            if not is_help:
                raise
            base = {}  # Nothing says yet which run or suite it will be.
    if isinstance(base, str):
        base = {} if names_config(arguments) else merged([base])
    parsed = _parsed(options, description, base or {}, arguments)
    return build(ExperimentConfig, parsed), build(options, parsed)


def names_config(arguments: Sequence[str]) -> bool:
    """Whether a ``--config`` is given."""
    return any(argument.split("=")[0] == "--config" for argument in arguments)


def merged(names: Sequence[str]) -> Plain:
    """Presets or YAML files as one nested dictionary; later ones override what they set.

    Raises:
        UserError: there is no such preset or file, or it is no YAML.
    """
    whole: Plain = {}
    for name in names:
        _overlay(whole, with_whole_numbers(read_yaml(preset_path(name))))
    return whole


def _overlay(below: Plain, above: Plain) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _overlay(below[key], value)
        else:
            below[key] = value


def _parsed(options: type[Any], description: str, base: Plain, arguments: list[str]) -> Namespace:
    written = [*(["--config", json.dumps(base)] if base else []), *_resolve(arguments)]
    try:
        if HELP & set(arguments):
            return _helpful_parser(description, options, base, arguments).parse_args(["--help"])
        return _parser(description, options).parse_args(written)
    except ArgumentError as error:
        raise UserError(_explain(str(error), arguments, options)) from error


def _parser(description: str, options: type[Any]) -> ArgumentParser:
    presets, protocols = ", ".join(preset_names()), ", ".join(protocol_names())
    parser = ArgumentParser(
        description=f"{description} Presets: {presets}; after one of them: {protocols}.",
        exit_on_error=False,
        allow_abbrev=False,
        default_meta=False,
    )
    parser.add_argument("--config", action="config", help="Preset name or path of a YAML file.")
    parser.add_class_arguments(ExperimentConfig, as_group=False)
    if dataclasses.fields(options):
        parser.add_class_arguments(options, as_group=False)
    return parser


def _helpful_parser(
    description: str, options: type[Any], base: Plain, arguments: list[str]
) -> ArgumentParser:
    """The parser whose help says what each setting is, and what it is set to where nothing is said."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    try:
        parser = _parser(description, options)
    finally:
        # Other command lines would take twice as long.
        set_parsing_settings(docstring_parse_attribute_docstrings=False)
    chosen = copy.deepcopy(base)
    for name in filter(None, _configs(arguments)):
        _overlay(chosen, merged([name]))
    leaves = _leaves(_valid_keys(ExperimentConfig))
    known = {name: value for name, value in flat(chosen).items() if name in leaves}
    parser.set_defaults(known)
    for name in known:
        parser._option_string_actions[f"--{name}"].required = False
    parser.usage = "%(prog)s [--config NAME|PATH ...] [--SETTING VALUE ...]"
    return parser


def _resolve(arguments: list[str]) -> list[str]:
    """Replace the value of every ``--config`` by what its file holds, and 1e6 by an integer."""
    resolved: list[str] = []
    named = ""
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if named:
            resolved.append(_resolved(named, argument))
        elif separator and key.startswith("--"):
            resolved.append(f"{key}={_resolved(key, value)}")
        else:
            resolved.append(argument)
        named = argument if argument.startswith("--") and not separator else ""
    return resolved


def _resolved(option: str, value: str) -> str:
    if option == "--config":
        return json.dumps(merged([value]))
    return str(as_whole_number(value)) if option.removeprefix("--") in keys_of_whole_numbers() else value


def _explain(message: str, arguments: list[str], options: type[Any]) -> str:
    """What is wrong with a command line that the parser refused, which said ``message``."""
    valid = _valid_keys(ExperimentConfig) + _valid_keys(options)
    given = _given(arguments)
    for key in given:
        if key not in valid and key not in ("config", "print_config", "help"):
            return f"There is no setting {key!r}. {_suggestion(key, valid)} (--help lists all settings.)"
    for key, value in given.items():
        if key not in valid:
            continue
        if value is None:
            return f"--{key} needs a value behind it. (--print_config shows what is set.)"
        kind = type_of(options, key) or type_of(ExperimentConfig, key)
        if found := mistake_in(kind, value, key):
            return f"{found} (--help lists all settings.)"
    for path in _configs(arguments):
        if found := mistake_in(ExperimentConfig, merged([path]), ""):
            return f"In {path}: {found}"
    if stray := re.fullmatch(r"unrecognized arguments: (\S+).*", message):
        key = stray[1].lstrip("-").partition("=")[0]
        if key in valid:
            return f"{stray[1]} is no option; settings begin with two dashes: --{key} VALUE."
        return f"{stray[1]!r} is no setting: write --NAME VALUE. (--help lists all settings.)"
    remedy = " Put it in quotes." if "Expected a <class 'str'>" in message else ""
    said = " ".join(message.split())
    return f"{said}{remedy} (--help lists all settings, --print_config shows what is set.)"


def _given(arguments: list[str]) -> dict[str, Any]:
    """The settings that a command line names, as key -> value, or None where no value follows."""
    found: dict[str, Any] = {}
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=True):
        if argument.startswith("--"):
            key, equals, value = argument.removeprefix("--").partition("=")
            text = value if equals else None if following.startswith("--") else following
            found[key] = None if text is None else read_value(text)
            if text is not None and found[key] is None:
                found.pop(key)  # It is set to null.
    return found


def _configs(arguments: list[str]) -> list[str]:
    """What is given as ``--config``."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    return [
        after if one == "--config" else one.removeprefix("--config=")
        for one, after in pairs
        if one == "--config" or one.startswith("--config=")
    ]


def _suggestion(key: str, valid: list[str]) -> str:
    leaves = _leaves(valid)
    nearest = difflib.get_close_matches(key, leaves, n=1, cutoff=0.75)
    if nearest:
        return f"Did you mean {nearest[0]!r}?"
    section = key.split(".")[0]
    inside = [name for name in leaves if name.startswith(f"{section}.")]
    return (
        f"{section} has: {', '.join(inside)}."
        if inside
        else f"Sections: {', '.join(sorted({n.split('.')[0] for n in valid}))}."
    )


def _leaves(keys: list[str]) -> list[str]:
    """Those that are settings, not sections."""
    return [name for name in keys if not any(other.startswith(f"{name}.") for other in keys)]


def _valid_keys(kind: type, prefix: str = "") -> list[str]:
    keys = []
    for f in dataclasses.fields(kind):
        keys.append(prefix + f.name)
        if isinstance(f.type, type) and dataclasses.is_dataclass(f.type):
            keys += _valid_keys(f.type, f"{prefix}{f.name}.")
    return keys
