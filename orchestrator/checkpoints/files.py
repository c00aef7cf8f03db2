"""Torch's distributed checkpoint over :mod:`orchestrator.storage`.

Shards go straight to a disk or an object store. What is written is hashed on the way, so that the marker's
checksums cost no second reading.
"""

import hashlib
import io
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemBase, FileSystemWriter

from orchestrator import storage
from orchestrator.checkpoints.selection import FileDescription
from orchestrator.errors import UserError

S3_READ_AHEAD = 1 << 23


class HashingStream(io.RawIOBase):
    """Passes on what is written, and hashes it."""

    def __init__(self, target: Any) -> None:
        self._target = target
        self._sha256 = hashlib.sha256()
        self._size = 0

    def writable(self) -> bool:
        """Say that one can write."""
        return True

    def write(self, content: Any) -> int:
        """Write all of ``content``."""
        view = memoryview(content).cast("B")
        self._target.write(view)
        self._sha256.update(view)
        self._size += len(view)
        return len(view)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._size

    def flush(self) -> None:
        """Hand buffered bytes on."""
        if not self.closed:
            self._target.flush()

    def fileno(self) -> int:
        """The file's descriptor, for fsync; an object store has none and raises OSError."""
        return int(self._target.fileno())

    def description(self) -> FileDescription:
        """Size and hash of everything written so far."""
        return FileDescription(self._size, self._sha256.hexdigest())


class CheckpointFiles(FileSystemBase):
    """The file operations that torch's checkpoints need; remembers what it wrote."""

    def __init__(self) -> None:
        self.written: dict[str, FileDescription] = {}
        """File's name -> its size and hash."""

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        """Open a file to read (``rb``) or to write (``wb``)."""
        filesystem, inner = storage.filesystem_of(str(path))
        if mode == "rb":
            with filesystem.open_input_file(inner) as source:
                yield io.BufferedReader(source, S3_READ_AHEAD)
            return
        is_local = storage.is_local(str(path))
        with open(inner, "wb") if is_local else filesystem.open_output_stream(inner) as target:
            hashing = HashingStream(target)
            yield cast(io.IOBase, hashing)
        self.written[_name(path)] = hashing.description()

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        """The path of a file in a folder."""
        return storage.join(str(path), suffix)

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Give a written file its final name."""
        filesystem, inner = storage.filesystem_of(str(path))
        filesystem.move(inner, storage.filesystem_of(str(new_path))[1])
        self.written[_name(new_path)] = self.written.pop(_name(path))

    def init_path(self, path: str | os.PathLike[str]) -> str:
        """The path or URI as a plain string."""
        return str(path)

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        """Make a folder on a disk; an object store has none."""
        if storage.is_local(str(path)):
            os.makedirs(path, exist_ok=True)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Take any path or URI."""
        return True

    def exists(self, path: str | os.PathLike[str]) -> bool:
        """Whether there is such a file."""
        return storage.is_file(str(path))

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        """Remove a file."""
        storage.delete_file(str(path))


def writer(path: str, files: CheckpointFiles) -> FileSystemWriter:
    """A writer of a checkpoint's shards into the folder ``path``."""
    made = FileSystemWriter("", sync_files=storage.is_local(path))
    # Torch types `fs` as the local filesystem, though any will do; its own fsspec writer sets it like this.
    made.fs, made.path = files, files.init_path(path)  # type: ignore[assignment]
    return made


@contextmanager
def failures_as_errors() -> Generator[None, None, None]:
    """Raise OSError for what torch's checkpoints raise, which is no Exception and would end the process.

    Raises:
        UserError: one of the ranks raised it.
    """
    try:
        yield
    except CheckpointException as failed:
        for error, _ in failed.failures.values():
            if isinstance(error, UserError):
                raise error from failed
        ranks = "; ".join(f"rank {rank}: {error!r}" for rank, (error, _) in sorted(failed.failures.items()))
        raise OSError(ranks) from failed


def _name(path: str | os.PathLike[str]) -> str:
    return str(path).rpartition("/")[2]
