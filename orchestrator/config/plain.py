"""The experiment config as plain dictionaries, as YAML, and as dotted keys."""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser, Namespace

from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError

Dataclass = TypeVar("Dataclass")


def to_dict(config: ExperimentConfig) -> dict[str, Any]:
    """The config as plain nested dictionaries and lists, as in the YAML file."""
    plain: dict[str, Any] = _lists(dataclasses.asdict(config))
    return plain


def to_yaml(config: ExperimentConfig) -> str:
    """The whole resolved config as YAML; reading it back gives an equal config."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def from_dict(plain: dict[str, Any]) -> ExperimentConfig:
    """The inverse of :func:`to_dict`; what is left out takes its default.

    Raises:
        ArgumentError: a key or a type is wrong.
        UserError: a value is not possible.
    """
    return read(ExperimentConfig, plain)


def read(kind: type[Dataclass], plain: dict[str, Any]) -> Dataclass:
    """A dataclass from nested dictionaries.

    Raises:
        ArgumentError: a key or a type is wrong.
        UserError: a value is not possible.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, as_group=False)
    return build(kind, parser.parse_object(plain))


def build(kind: type[Dataclass], parsed: Namespace) -> Dataclass:
    """The dataclass whose fields are among what was parsed.

    Raises:
        UserError: a value is not possible.
    """
    parser = ArgumentParser(exit_on_error=False)
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if names:
        parser.add_class_arguments(kind, as_group=False)
    try:
        built = parser.instantiate_classes(Namespace(**{name: parsed[name] for name in names}))
        return kind(**{name: getattr(built, name) for name in names})
    except ValueError as error:
        raise UserError(str(error)) from error


def flatten(config: ExperimentConfig) -> dict[str, Any]:
    """The config as one dictionary with dotted keys, as on the command line."""
    return flat(to_dict(config))


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def absolute(path: str | None) -> str | None:
    """A local path from the root on; URIs and None stay as they are."""
    return path if path is None or "://" in path else str(Path(path).expanduser().absolute())


def with_absolute_paths(config: ExperimentConfig) -> ExperimentConfig:
    """The config with absolute local paths, for workers: their current directory is not the job's."""

    def changed(section: Any, *names: str) -> Any:
        return dataclasses.replace(section, **{name: absolute(getattr(section, name)) for name in names})

    vae = config.sampling.vae
    return dataclasses.replace(
        config,
        run=changed(config.run, "root"),
        # A class map can be one by name.
        data=changed(
            config.data,
            "path",
            "source_path",
            "held_out_path",
            "ground_truth",
            *_files(config.data, "classes"),
        ),
        train=changed(config.train, "init_from"),
        evaluation=changed(
            config.evaluation,
            "reference",
            "extractor_weights",
            "dinov2_weights",
            "clip_weights",
            "dataset_classifier_weights",
        ),
        # A VAE's name can be one on the hub.
        sampling=changed(config.sampling, *(["vae"] if vae and Path(vae).expanduser().is_dir() else [])),
    )


def _files(section: Any, *names: str) -> list[str]:
    """Those of the settings that name a file that is there."""
    return [name for name in names if Path(getattr(section, name) or "").expanduser().is_file()]


def _lists(value: Any) -> Any:
    """The value with lists for tuples, all the way down: YAML has no tuples."""
    if isinstance(value, dict):
        return {key: _lists(inner) for key, inner in value.items()}
    return [_lists(inner) for inner in value] if isinstance(value, (list, tuple)) else value
