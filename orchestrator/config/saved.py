"""The config that lies in a folder: a run's, or a checkpoint's."""

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
    path = storage.join(folder, CONFIG_FILE)
    try:
        plain = yaml.safe_load(storage.read_bytes(path))
        if not isinstance(plain, dict):
            raise TypeError("it holds no settings.")
        return from_dict(plain)
    except (ArgumentError, TypeError, yaml.YAMLError) as error:
        raise UserError(
            f"{path} is no config of this version of the code: {' '.join(str(error).split())} Use the "
            "version that wrote it."
        ) from error
