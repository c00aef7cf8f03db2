"""Reading the experiment config from a preset or a YAML file and dotted command-line overrides, and writing it."""

import dataclasses
import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from orchestrator.config import ExperimentConfig
from orchestrator.errors import UserError

Options = TypeVar("Options")
PRESETS = Path(__file__).resolve().parent.parent / "jobs" / "configs"


@dataclasses.dataclass(frozen=True)
class _NoOptions:
    """Of a job that takes the config alone."""


def to_dict(config: ExperimentConfig) -> dict[str, Any]:
    """Plain nested dictionaries and lists, as in the YAML file."""
    plain: dict[str, Any] = _lists(dataclasses.asdict(config))
    return plain


def to_yaml(config: ExperimentConfig) -> str:
    """The resolved whole as YAML; reading it back gives an equal config."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def from_dict(plain: dict[str, Any]) -> ExperimentConfig:
    """The inverse of :func:`to_dict`."""
    return _instantiate(_parser("").parse_object(plain))


def flatten(config: ExperimentConfig) -> dict[str, Any]:
    """Dotted key -> value, as on the command line."""

    def walk(prefix: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {prefix: value}
        return {
            key: leaf
            for name, inner in value.items()
            for key, leaf in walk(f"{prefix}.{name}", inner).items()
        }

    return {key: leaf for name, inner in to_dict(config).items() for key, leaf in walk(name, inner).items()}


def with_absolute_paths(config: ExperimentConfig) -> ExperimentConfig:
    """Local paths made absolute in the job's own process; a worker's current directory is another."""

    def absolute(path: str) -> str:
        return path if "://" in path else str(Path(path).expanduser().absolute())

    source, vae = config.data.source_path, config.sampling.vae
    reference, weights = config.evaluation.reference, config.evaluation.extractor_weights
    held_out, init_from = config.data.held_out_path, config.train.init_from
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data,
            path=absolute(config.data.path),
            source_path=absolute(source) if source else None,
            held_out_path=absolute(held_out) if held_out else None,
        ),
        train=dataclasses.replace(config.train, init_from=absolute(init_from) if init_from else None),
        evaluation=dataclasses.replace(
            config.evaluation,
            reference=absolute(reference) if reference else None,
            extractor_weights=absolute(weights) if weights else None,
        ),
        # A VAE's name can be one on the hub.
        sampling=dataclasses.replace(
            config.sampling, vae=absolute(vae) if vae and Path(vae).expanduser().is_dir() else vae
        ),
        run=dataclasses.replace(config.run, root=absolute(config.run.root)),
    )


def parse(description: str, default: str, arguments: Sequence[str] | None = None) -> ExperimentConfig:
    """Read ``--config NAME|PATH`` (else the preset ``default``) and dotted overrides from the command line.

    ``--config`` may be given several times; later ones override what they set.

    Raises:
        UserError: a preset, key or value is not valid; the message names the nearest valid one.
    """
    return parse_with(_NoOptions, description, default, arguments)[0]


def parse_with(
    options: type[Options], description: str, default: str | None, arguments: Sequence[str] | None = None
) -> tuple[ExperimentConfig, Options]:
    """The same, and a job's own options, the fields of a dataclass; without a ``default``, --config must be given.

    Raises:
        UserError: a preset, key or value is not valid; the message names the nearest valid one.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(description, options)
    names = {argument.split("=")[0] for argument in arguments}
    if default is not None and "--config" not in names:
        arguments = ["--config", default, *arguments]
    if not names & {"--config", "-h", "--help"} and default is None:
        raise UserError(f"Say which: --config NAME or a YAML file. Presets: {', '.join(preset_names())}.")
    try:
        parsed = parser.parse_args(_resolve_presets(arguments))
    except ArgumentError as error:
        own = [f.name for f in dataclasses.fields(options)]  # type: ignore[arg-type]
        raise UserError(_explain(str(error), arguments, own)) from error
    return _instantiate(parsed), _built(options, parsed)


def _parser(description: str, options: type[Any] = _NoOptions) -> ArgumentParser:
    parser = ArgumentParser(
        description=f"{description} Presets: {', '.join(preset_names())}; after one of them: {', '.join(protocol_names())}.",
        exit_on_error=False,
        allow_abbrev=False,
        default_meta=False,
    )
    parser.add_argument("--config", action="config", help="Preset name or path of a YAML file.")
    parser.add_class_arguments(ExperimentConfig, as_group=False)
    if dataclasses.fields(options):
        parser.add_class_arguments(options, as_group=False)
    return parser


def _instantiate(parsed: Namespace) -> ExperimentConfig:
    return _built(ExperimentConfig, parsed)


def _built(kind: type[Options], parsed: Namespace) -> Options:
    """The dataclass whose fields are among what was parsed."""
    parser = ArgumentParser(exit_on_error=False)
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if names:
        parser.add_class_arguments(kind, as_group=False)
    try:
        built = parser.instantiate_classes(Namespace(**{name: parsed[name] for name in names}))
        return kind(**{name: getattr(built, name) for name in names})
    except ValueError as error:
        raise UserError(str(error)) from error


def preset_names() -> list[str]:
    """Names that ``--config`` takes beside paths."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def protocol_names() -> list[str]:
    """Names of settings for sampling and evaluation alone, to be given after a preset."""
    return sorted(path.stem for path in (PRESETS / "protocols").glob("*.yaml"))


def _resolve_presets(arguments: list[str]) -> list[str]:
    """Replace the value of every ``--config`` by the path of the file it names."""
    resolved = []
    for position, argument in enumerate(arguments):
        if position and arguments[position - 1] == "--config":
            resolved.append(str(_preset_path(argument)))
        elif argument.startswith("--config="):
            resolved.append(f"--config={_preset_path(argument.removeprefix('--config='))}")
        else:
            resolved.append(argument)
    return resolved


def _preset_path(name: str) -> Path:
    for candidate in (PRESETS / f"{name}.yaml", PRESETS / "protocols" / f"{name}.yaml", Path(name)):
        if candidate.is_file():
            return candidate
    names = [*preset_names(), *protocol_names()]
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.3)
    hint = f"Did you mean {nearest[0]}? " if nearest else ""
    raise UserError(f"There is no preset or file {name!r}. {hint}Presets: {', '.join(names)}.")


def _explain(message: str, arguments: list[str], own: list[str]) -> str:
    """The parser's message, with the nearest valid key where a key is unknown; ``own`` are the job's own."""
    valid = _valid_keys(ExperimentConfig) + own
    written = [argument.lstrip("-").split("=")[0] for argument in arguments if argument.startswith("--")]
    quoted = re.findall(r"['\"]([\w.]+)['\"]", message) + re.findall(r"--([\w.]+)", message)
    for key in [*quoted, *written]:
        if key in valid or key in ("config", "print_config", "help"):
            continue
        if "." in key or key in written:
            return f"There is no setting {key!r}. {_suggestion(key, valid)} (--help lists all settings.)"
    return f"{' '.join(message.split())} (--help lists all settings, --print_config shows what is set.)"


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


def _lists(value: Any) -> Any:
    """Tuples as lists, all the way down: YAML has no tuples."""
    if isinstance(value, dict):
        return {key: _lists(inner) for key, inner in value.items()}
    return [_lists(inner) for inner in value] if isinstance(value, (list, tuple)) else value
