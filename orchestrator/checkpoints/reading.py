"""Torch's distributed checkpoint, read as data: torch's own reader would run whatever the files name.

Torch keeps a checkpoint's table of contents (``.metadata``) and its plain numbers pickled. A checkpoint may
come from somebody else, and its checksums would be theirs too.
"""

import io
import pickle
from typing import Any

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

from orchestrator import storage
from orchestrator.checkpoints.files import CheckpointFiles
from orchestrator.errors import UserError
from orchestrator.storage.unpickling import RestrictedUnpickler

METADATA_FILE = ".metadata"
_FORMAT = "torch.distributed.checkpoint"
_METADATA_CLASSES = (
    "Metadata",
    "TensorStorageMetadata",
    "BytesStorageMetadata",
    "ChunkStorageMetadata",
    "TensorProperties",
    "_MEM_FORMAT_ENCODING",
    "MetadataIndex",
    "StorageMeta",
)
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_WHOLE_NUMBERS = ("int64", "int32", "int16", "int8", "uint8", "bool")
_ALLOWED = {
    *((f"{_FORMAT}.metadata", name) for name in _METADATA_CLASSES),
    (f"{_FORMAT}.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    *(("torch", name) for name in _FLOATS + _WHOLE_NUMBERS),
}


class CheckpointReader(FileSystemReader):
    """Reads shards from the folder ``path``, and from nowhere else.

    Raises:
        OSError: there is no table of contents, or it cannot be read.
        UserError: it holds anything but data, or points outside of the folder.
    """

    def __init__(self, path: str) -> None:
        super().__init__("")
        files = CheckpointFiles()
        # Torch types `fs` as the local filesystem, though any will do; its fsspec reader sets it like this.
        self.fs, self.path = files, files.init_path(path)  # type: ignore[assignment]
        # Read at once: torch would make an AssertionError of what this raises.
        self._metadata = _read_metadata(path)
        self._metadata.storage_meta = self._metadata.storage_meta or StorageMeta()
        self._metadata.storage_meta.load_id = self.load_id

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The table of contents."""
        return self._metadata


class DataLoadPlanner(DefaultLoadPlanner):
    """Takes tensors and plain numbers, as a state dict of ours has them."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put one plain value in its place.

        Raises:
            UserError: the checkpoint holds something else there.
        """
        try:
            plain = torch.load(value, weights_only=True)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{read_item.dest_index.fqn} in the checkpoint is no plain value; it was not loaded. {error}"
            ) from error
        # Torch's own method would unpickle anything, so it gets what was read safely, pickled anew.
        again = io.BytesIO()
        torch.save(plain, again)
        again.seek(0)
        super().load_bytes(read_item, again)


def _read_metadata(path: str) -> Metadata:
    file = storage.join(path, METADATA_FILE)
    content = io.BytesIO(storage.read_bytes(file))
    try:
        metadata: Metadata = RestrictedUnpickler(content, _ALLOWED).load()
        places = [info.relative_path for info in metadata.storage_data.values()]
    except (pickle.UnpicklingError, AttributeError, TypeError, ValueError, EOFError, LookupError) as error:
        raise UserError(
            f"{file} is not a checkpoint's table of contents: {error}. Nothing of it was run."
        ) from error
    outside = [place for place in places if "/" in place]
    if outside:
        raise UserError(f"{file} points outside of the checkpoint: {outside[0]}.")
    return metadata
