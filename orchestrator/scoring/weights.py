"""Files of extractors' weights: given by their path, or published, fetched once and checked by their hash."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from orchestrator import storage
from orchestrator.errors import UserError

MOST_NAMED = 3


@dataclass(frozen=True)
class Published:
    """A file that others have published."""

    name: str
    """Whose weights they are."""
    url: str
    sha256: str
    """Its hash, or the beginning of it."""
    setting: str
    """The setting that names another place of the file."""

    @property
    def cached(self) -> Path:
        """Where torch's cache has it."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self._file_name

    @property
    def _file_name(self) -> str:
        name = os.path.basename(self.url)
        # Names like pytorch_model.bin say nothing of whose they are.
        return name if self.sha256[:8] in name or self.name.lower() in name else f"{self.name.lower()}-{name}"


def sha256_of(path: str) -> str:
    """A file's hash; the same file is read once, because large ones take seconds."""
    return _sha256_of(path, storage.stamp_of(path))


@lru_cache(maxsize=16)
def _sha256_of(path: str, stamp: str) -> str:
    return storage.sha256_of(path)


def find_weights(given: str | None, published: Published) -> Path:
    """The file of weights: the ``given`` one, or torch's cached one, downloaded if it is not there.

    Raises:
        UserError: there is none and it cannot be downloaded, or the cached file is another.
    """
    if given is not None:
        path = Path(given).expanduser()
        if not path.is_file():
            raise UserError(f"{published.setting} names {path}, which is no file.")
        return path
    cached = published.cached
    if not cached.is_file():
        _download(published)
    elif not sha256_of(str(cached)).startswith(published.sha256):
        raise UserError(
            f"{cached} is not the published file: its sha256 does not begin with {published.sha256}. Delete "
            f"it, and it is fetched again, or fetch {published.url} elsewhere and put it there."
        )
    return cached


def _download(published: Published) -> None:
    cached = published.cached
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            published.url, str(cached), hash_prefix=published.sha256, progress=False
        )
    except Exception as error:  # Of the network, the disk, or a wrong hash.
        raise UserError(
            f"The weights of {published.name} are not on this machine and cannot be downloaded ({error}). "
            f"Fetch {published.url} elsewhere and put it at {cached}, or give its path with "
            f"--{published.setting}. Without it, --evaluation.extractors '[efficientnet_lite0]' scores with "
            "a network that ships in a package; its numbers carry its own name."
        ) from error


def read_tensors(weights: Path, published: Published) -> dict[str, Tensor]:
    """The tensors of a file, safetensors or pickled ones; nothing else that is pickled is read.

    Raises:
        UserError: it holds anything but tensors, or is damaged.
    """
    try:
        if weights.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(weights)
        loaded = torch.load(weights, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(loaded, Mapping) or not all(isinstance(one, Tensor) for one in loaded.values()):
            raise TypeError("it holds more than tensors by name")
        return dict(loaded)
    except Exception as error:  # torch names what it refuses in errors of several kinds.
        raise UserError(
            f"{weights} cannot be read as {published.name}'s weights ({type(error).__name__}). Fetch "
            f"{published.url} again, or name another file with --{published.setting}."
        ) from error


def require_tensors(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], weights: Path, published: Published
) -> dict[str, Tensor]:
    """The tensors that a network has, of those that a file holds.

    Raises:
        UserError: one is missing or of another shape.
    """
    wrong = [
        f"{name} is {list(tensors[name].shape) if name in tensors else 'missing'} and not {list(shape)}"
        for name, shape in shapes.items()
        if name not in tensors or tensors[name].shape != shape
    ]
    if wrong:
        raise UserError(
            f"{weights} holds the weights of another network than {published.name}: {len(wrong)} of "
            f"{len(shapes)} tensors differ, such as {'; '.join(wrong[:MOST_NAMED])}. Name the right file "
            f"with --{published.setting}; it is published at {published.url}."
        )
    return {name: tensors[name] for name in shapes}
