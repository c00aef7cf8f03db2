"""Which folders are checkpoints, and which one to continue from; importing this does not import torch.

``checkpoints/<images_seen>/`` holds the shards, ``config.yaml`` and the marker ``COMPLETE.json``. The marker
is written last and lists every file with its size and sha256. Only a folder whose marker agrees with its
files is a checkpoint.
"""

import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property

from orchestrator import storage
from orchestrator.config.saved import read_config
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError

MARKER = "COMPLETE.json"
SCHEMA_VERSION = 1
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileDescription:
    """What the marker says of a file."""

    size: int
    """Size in bytes."""
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on a disk or an object store."""

    path: str
    """Its folder, a path or URI."""
    images_seen: int

    @property
    def config(self) -> ExperimentConfig:
        """The config that it was trained with.

        Raises:
            UserError: another version of the code wrote it.
        """
        return read_config(self.path)

    @cached_property
    def marker(self) -> "Marker":
        """What was written when it became complete.

        Raises:
            FileNotFoundError: it never did.
        """
        return Marker.read(self.path)


@dataclass(frozen=True)
class Marker:
    """What makes a folder a checkpoint."""

    files: dict[str, FileDescription]
    metrics: dict[str, float] = field(default_factory=dict)
    """The newest metrics when the marker was written; they decide which checkpoint is the best."""

    @staticmethod
    def read(folder: str) -> "Marker":
        """The marker in a checkpoint's folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is broken.
            UserError: another version of this code wrote it.
        """
        content = json.loads(storage.read_bytes(storage.join(folder, MARKER)))
        if content.get("schema_version") != SCHEMA_VERSION:
            version = content.get("schema_version")
            raise UserError(
                f"The checkpoint {folder} has schema version {version}, this code reads {SCHEMA_VERSION}. "
                "Continue it with the code that wrote it."
            )
        files = {name: FileDescription(**description) for name, description in content["files"].items()}
        return Marker(files, content["metrics"])

    def write(self, checkpoint: Checkpoint) -> None:
        """Declare a checkpoint complete; after a crash the marker is either whole or absent."""
        content = {"images_seen": checkpoint.images_seen, "schema_version": SCHEMA_VERSION, **asdict(self)}
        storage.write_bytes(storage.join(checkpoint.path, MARKER), json.dumps(content, indent=1).encode())


def checkpoints_folder(run_directory: str) -> str:
    """Where a run keeps its checkpoints."""
    return storage.join(run_directory, "checkpoints")


def marked(run_directory: str) -> list[Checkpoint]:
    """The folders that have a marker, oldest first; their files are not compared with it."""
    return [found for found in _folders(run_directory) if storage.is_file(storage.join(found.path, MARKER))]


def unfinished(run_directory: str) -> list[Checkpoint]:
    """The folders without a marker, oldest first."""
    return [
        found for found in _folders(run_directory) if not storage.is_file(storage.join(found.path, MARKER))
    ]


def newest_valid(run_directory: str) -> Checkpoint | None:
    """Find the newest complete checkpoint of a run; broken newer ones are named in a warning and passed over.

    This reads every byte of the checkpoint that it returns.
    """
    for checkpoint in reversed(_folders(run_directory)):
        problem = problem_of(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning("Passing over the checkpoint %s: %s.", checkpoint.path, problem)
    return None


def _folders(run_directory: str) -> list[Checkpoint]:
    folder = checkpoints_folder(run_directory)
    names = sorted(
        int(name) for name, size in storage.sizes(folder).items() if name.isdigit() and size is None
    )
    return [Checkpoint(storage.join(folder, str(images_seen)), images_seen) for images_seen in names]


def problem_of(checkpoint: Checkpoint) -> str | None:
    """Say why a folder is no checkpoint, or None if it is one; reads every byte of it."""
    try:
        expected = Marker.read(checkpoint.path).files
    except FileNotFoundError:
        return f"it has no {MARKER}, so writing it was interrupted"
    except (ValueError, KeyError, TypeError):
        return f"its {MARKER} is broken"
    found = storage.sizes(checkpoint.path)
    for name, description in expected.items():
        if found.get(name) is None:
            return f"{name} is missing"
        if found[name] != description.size:
            return f"{name} has {found[name]} bytes instead of {description.size}"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hashes = pool.map(lambda name: storage.sha256_of(storage.join(checkpoint.path, name)), expected)
        for (name, description), sha256 in zip(expected.items(), hashes, strict=True):
            if sha256 != description.sha256:
                return f"{name} differs from what {MARKER} lists"
    return None


def discard(checkpoint: Checkpoint) -> None:
    """Delete a checkpoint's folder, the marker first: half a checkpoint must not look like a whole one."""
    storage.delete_file(storage.join(checkpoint.path, MARKER))
    storage.delete_folder(checkpoint.path)
