"""What is made once of a dataset and kept: statistics, baselines, classifiers."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.storage.lease import holding

Made = TypeVar("Made")
FOLDER = "statistics"


def cache_path(config: ExperimentConfig, facts: dict[str, Any], name: str) -> str:
    """The path, without a suffix, at which what is made of ``facts`` is kept.

    It lies beside a local dataset's files, or else with the runs. A dataset that cannot be written is only
    looked at.

    Args:
        facts: the part of the protocol that says what it was made from. Its ``source`` says where the images
            were, which changes nothing.
    """
    key = json.dumps({name: fact for name, fact in facts.items() if name != "source"}, sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    data, named = config.data.path, f"{name}-{digest}"
    beside = storage.join(data, FOLDER)
    if storage.is_local(data) and storage.sizes(data):
        is_there = any(found.startswith(named) for found in storage.sizes(beside))
        if is_there or os.access(beside if os.path.isdir(beside) else data, os.W_OK):
            return storage.join(beside, named)
    return storage.join(config.run.root, FOLDER, named)


def get_or_make(
    base: str, files: Sequence[str], make: Callable[[Sequence[str]], None], read: Callable[[str], Made]
) -> list[Made]:
    """What ``read`` gives for each of ``files``. Those that are missing are written by ``make`` first.

    One process makes them, in the folder ``base``. Others wait, and use what it has made.
    """

    def missing() -> list[str]:
        return [file for file in files if not storage.is_file(file)]

    if missing():
        with holding(base, "statistics", "--run.root", waits=True):
            if still := missing():
                make(still)
    return [read(file) for file in files]
