"""What is made once of a dataset and kept: statistics, baselines, classifiers."""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig

Made = TypeVar("Made")


def cache_path(config: ExperimentConfig, key: list[Any], name: str) -> str:
    """The path, without a suffix, at which what ``key`` decides is kept.

    It lies beside a local dataset's files, or else with the runs.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    data = config.data.path
    is_beside = storage.is_local(data) and storage.sizes(data)
    return storage.join(data if is_beside else config.run.root, "statistics", f"{name}-{digest}")


def get_or_make(files: Sequence[str], make: Callable[[], None], read: Callable[[str], Made]) -> list[Made]:
    """What ``read`` gives for each of ``files``; where one is missing, ``make`` writes them all first."""
    if not all(storage.is_file(file) for file in files):
        make()
    return [read(file) for file in files]
