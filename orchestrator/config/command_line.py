"""How every job begins and ends.

The command line is read, one function is called, and a user's mistake is explained in a paragraph.
"""

import dataclasses
import difflib
import json
import re
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, Namespace, auto_cli
from rich.console import Console

from orchestrator.config.plain import build
from orchestrator.config.presets import preset_names, preset_path, protocol_names
from orchestrator.config.schema import ExperimentConfig
from orchestrator.config.yaml_files import as_whole_number, read_yaml
from orchestrator.errors import UserError
from orchestrator.memory import memory_advice
from orchestrator.signals import Stopper

Options = TypeVar("Options")
Plain = dict[str, Any]
"""A config as nested dictionaries."""
MOST_OF_A_REASON = 300
"""Characters."""
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


@contextmanager
def mistakes_explained() -> Iterator[None]:
    """Turn what ends a job into a paragraph.

    The exit code is 2 for a :class:`UserError`, 1 where Ray failed, and 130 for an interruption.
    """
    console = Console(stderr=True)
    try:
        with Stopper():
            yield
    except UserError as error:
        console.print(f"Error: {error}", style="red", soft_wrap=True, markup=False, highlight=False)
        sys.exit(2)
    except Exception as error:
        # A task's own exception is a fault of the program, and its traceback is wanted. Ray is not loaded to
        # ask, because most mistakes are found without it.
        kind = type(error)
        if not kind.__module__.startswith("ray.") or kind.__name__.startswith("RayTaskError"):
            raise
        reason = " ".join(str(error).split())[:MOST_OF_A_REASON] or kind.__name__
        text = memory_advice(str(error)) or (
            f"a process of Ray died or does not answer, and the job cannot go on: {reason}\nWhat is finished "
            "is kept. Run the same command again: it goes on from there. Ray's logs are in "
            "/tmp/ray/session_latest/logs."
        )
        console.print(f"Error: {text}", style="red", soft_wrap=True, markup=False, highlight=False)
        sys.exit(1)
    except KeyboardInterrupt as interruption:
        console.print(str(interruption) or "Interrupted. The same command continues from where it was.")
        sys.exit(130)


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
        printed = [argument for argument in arguments if not argument.startswith("--print_config")]
        base = base(build(options, _parsed(options, description, merged(["quickstart"]), printed)))
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
        _overlay(whole, _with_whole_numbers(read_yaml(preset_path(name))))
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
        return _parser(description, options).parse_args(written)
    except ArgumentError as error:
        own = [f.name for f in dataclasses.fields(options)]
        raise UserError(_explain(str(error), arguments, own)) from error


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
    return str(as_whole_number(value)) if option.removeprefix("--") in _integers() else value


def _with_whole_numbers(plain: Plain, prefix: str = "") -> Plain:
    """The config with integers where they are due and were written as 1e6."""
    whole = {}
    for name, value in plain.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            whole[name] = _with_whole_numbers(value, f"{key}.")
        else:
            whole[name] = (
                as_whole_number(value) if key in _integers() and not isinstance(value, str) else value
            )
    return whole


@lru_cache
def _integers() -> frozenset[str]:
    """The dotted keys of settings that are integers."""
    return frozenset(_keys_of_integers(ExperimentConfig, ""))


def _keys_of_integers(kind: Any, prefix: str) -> Iterator[str]:
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            yield from _keys_of_integers(hint, f"{prefix}{name}.")
        elif hint is int or int in typing.get_args(hint):
            yield f"{prefix}{name}"


def _explain(message: str, arguments: list[str], own: list[str]) -> str:
    """The parser's message, or the nearest valid key for an unknown one; ``own`` are the job's own keys."""
    valid = _valid_keys(ExperimentConfig) + own
    written = [argument.lstrip("-").split("=")[0] for argument in arguments if argument.startswith("--")]
    inside = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
    if inside:
        key = f"{inside[1]}.{inside[2]}"
        return f"There is no setting {key!r}. {_suggestion(key, valid)} (--help lists all settings.)"
    for loose in re.findall(r"(?<=unrecognized arguments: )\S+", message):
        key = loose.lstrip("-").partition("=")[0]
        if key in valid:
            return f"{loose} is no option; settings begin with two dashes: --{key} VALUE."
    quoted = re.findall(r"['\"]([\w.]+)['\"]", message) + re.findall(r"--([\w.]+)", message)
    for key in [*quoted, *written]:
        if key in valid or key in ("config", "print_config", "help"):
            continue
        if "." in key or key in written:
            return f"There is no setting {key!r}. {_suggestion(key, valid)} (--help lists all settings.)"
    return (
        f"{' '.join(message.split())}{_remedy(message)} (--help lists all settings, --print_config "
        "shows what "
        "is set.)"
    )


def _remedy(message: str) -> str:
    """What to write instead of a value that does not fit."""
    wanted = re.search(r"Literal\[(.+?)\]\. Got value: (\S+)", message)
    if wanted:
        nearest = difflib.get_close_matches(wanted[2], re.findall(r"'([^']*)'", wanted[1]), n=1)
        return f" Did you mean {nearest[0]!r}?" if nearest else ""
    return " Put it in quotes." if "Expected a <class 'str'>" in message else ""


def _suggestion(key: str, valid: list[str]) -> str:
    leaves = [name for name in valid if not any(other.startswith(f"{name}.") for other in valid)]
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


def _valid_keys(kind: type, prefix: str = "") -> list[str]:
    keys = []
    for f in dataclasses.fields(kind):
        keys.append(prefix + f.name)
        if isinstance(f.type, type) and dataclasses.is_dataclass(f.type):
            keys += _valid_keys(f.type, f"{prefix}{f.name}.")
    return keys
