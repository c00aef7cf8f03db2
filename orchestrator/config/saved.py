"""The config that lies in a folder: a run's, or a checkpoint's."""

from typing import Any

import yaml
from jsonargparse import ArgumentError

from orchestrator import storage
from orchestrator.config.plain import from_dict
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError

CONFIG_FILE = "config.yaml"


def read_config(folder: str) -> ExperimentConfig:
    """The config in a folder that has one.

    Raises:
        UserError: it is no config, or one of another version of the code.
    """
    plain = read_plain(folder)
    try:
        return from_dict(plain)
    except (ArgumentError, UserError) as error:
        raise _is_no_config(folder, error) from error


def read_plain(folder: str) -> dict[str, Any]:
    """The same as nested dictionaries, as they were written. This takes a twentieth of the time.

    Raises:
        UserError: it holds no settings.
    """
    try:
        plain = yaml.safe_load(storage.read_bytes(storage.join(folder, CONFIG_FILE)))
    except yaml.YAMLError as error:
        raise _is_no_config(folder, error) from error
    if not isinstance(plain, dict):
        raise _is_no_config(folder, "it holds no settings.")
    return plain


def _is_no_config(folder: str, reason: object) -> UserError:
    return UserError(
        f"{storage.join(folder, CONFIG_FILE)} is no config of this version of the code: "
        f"{' '.join(str(reason).split())} Use the version that wrote it."
    )
