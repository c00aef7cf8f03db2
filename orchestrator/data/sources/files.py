"""The files of a source, on a disk or in a store: found without loss, read without giving up at once."""

import errno
import hashlib
import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, TypeVar

import pyarrow.fs

from orchestrator.data.sources import reasons
from orchestrator.data.sources.names import is_below_hidden, is_hidden, printable
from orchestrator.errors import UserError
from orchestrator.storage import filesystem_of, is_local

READ_TRIES = 4
WAIT_SECONDS = 1.0
MOST_ENCODED_BYTES = 1 << 29
"""No image that can be decoded in bounded memory has a larger file."""
_GONE = (errno.ENOENT, errno.ENOTDIR)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENXIO, errno.ELOOP)
Read = TypeVar("Read")


class UnreadableError(Exception):
    """A file that is there and that this user may not read, or that is too large to be an image."""


@dataclass(frozen=True)
class File:
    """A file of a source."""

    path: str
    """Within the source's filesystem; bytes that are not UTF-8 are surrogates."""
    name: str
    """Relative to the source, with ``/``."""
    size: int
    stamp: str
    """A text that changes when the file is replaced."""


@dataclass(frozen=True)
class Omitted:
    """What lies in a source and is not stored."""

    place: str
    """Where it lies, printable."""
    reason: str
    """One of :mod:`orchestrator.data.sources.reasons`."""
    detail: str = ""
    count: int = 1
    """How many files, members or rows these are."""


@dataclass
class Tree:
    """Everything below the root of a source."""

    root: str
    files: list[File] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    """Relative names of all folders, empty ones too; not the root's."""
    omitted: list[Omitted] = field(default_factory=list)


def walk(source_path: str) -> Tree:
    """Everything below a folder, sorted by name; links are followed, and what is hidden is listed as such.

    Raises:
        UserError: it is no folder, or a part of it cannot be listed.
    """
    tree = Tree(source_path)
    try:
        if is_local(source_path):
            _walk_disk(source_path, tree)
        else:
            _walk_store(source_path, tree)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"There is no folder {source_path}; data.source_path must name one.") from error
    except OSError as error:
        raise UserError(
            f"{printable(source_path)} cannot be listed: {printable(str(error))}. Nothing of it may be left "
            "out, so mend that (permissions, the connection, the disk) and start again."
        ) from error
    tree.files.sort(key=lambda file: file.name.split("/"))
    return tree


def walk_source(source_path: str) -> Tree:
    """Everything below a folder, as :func:`walk` finds it, or the one archive that ``source_path`` names.

    Raises:
        UserError: there is neither, or a part of it cannot be listed.
    """
    if is_local(source_path):
        if not os.path.isfile(source_path):
            return walk(source_path)
        status = os.stat(source_path)
        path, size, changed = source_path, status.st_size, status.st_mtime_ns
    else:
        filesystem, path = filesystem_of(source_path)
        info = filesystem.get_file_info(path)
        if info.type != pyarrow.fs.FileType.File:
            return walk(source_path)
        size, changed = info.size, info.mtime_ns
    return Tree(source_path, [File(path, os.path.basename(path), size, f"{size}-{changed}")])


def _walk_disk(root: str, tree: Tree) -> None:
    real_root = os.path.realpath(root)

    def omit(entry: os.DirEntry[str], reason: str, detail: str = "", count: int = 1) -> None:
        tree.omitted.append(Omitted(printable(entry.path), reason, detail, count))

    def visit(folder: str, prefix: str) -> None:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            name = prefix + entry.name
            if is_hidden(entry.name):
                is_folder = entry.is_dir(follow_symlinks=False)
                omit(entry, reasons.HIDDEN, count=max(1, _count(entry.path)) if is_folder else 1)
            elif entry.is_symlink() and not os.path.exists(entry.path):
                omit(entry, reasons.UNREADABLE, "a link to nothing")
            elif entry.is_symlink() and _is_listed_anyway(os.path.realpath(entry.path), real_root):
                omit(entry, reasons.DUPLICATE, "a link to what is here under another name")
            elif entry.is_dir():
                tree.folders.add(name)
                visit(entry.path, f"{name}/")
            elif not entry.is_file():
                omit(entry, reasons.NOT_AN_IMAGE, "no regular file")
            else:
                status = entry.stat()
                stamp = f"{status.st_size}-{status.st_mtime_ns}"
                tree.files.append(File(entry.path, name, status.st_size, stamp))

    if not os.path.isdir(root):
        raise FileNotFoundError(root)
    visit(root, "")


def _is_listed_anyway(real: str, real_root: str) -> bool:
    """Whether what a link leads to is found without the link, or holds the link."""
    if real_root == real or real_root.startswith(f"{real}/"):
        return True
    return real.startswith(f"{real_root}/") and not is_below_hidden(real[len(real_root) + 1 :])


def _count(folder: str) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def _walk_store(source_path: str, tree: Tree) -> None:
    filesystem, root = filesystem_of(source_path)
    for info in filesystem.get_file_info(pyarrow.fs.FileSelector(root, recursive=True)):
        name = info.path.removeprefix(root).lstrip("/")
        if is_below_hidden(name):
            if info.type == pyarrow.fs.FileType.File:
                tree.omitted.append(Omitted(info.path, reasons.HIDDEN))
        elif info.type == pyarrow.fs.FileType.Directory:
            tree.folders.add(name)
        else:
            tree.files.append(File(info.path, name, info.size, f"{info.size}-{info.mtime_ns}"))


def open_file(source_path: str, path: str) -> BinaryIO:
    """Open a file of a source for reading at any place."""
    if is_local(source_path):
        return open(path, "rb")  # pyarrow takes no names that are not UTF-8.
    stream: BinaryIO = filesystem_of(source_path)[0].open_input_file(path)
    return stream


def read_part(source_path: str, path: str, start: int = 0, size: int = -1) -> bytes:
    """Read a file, or ``size`` bytes of it.

    Raises:
        UnreadableError: this user may not read it, or it is larger than any image.
        UserError: it is gone, shorter than it was, or the disk or the store fails.
    """

    def read() -> bytes:
        with open_file(source_path, path) as stream:
            length = size if size >= 0 else stream.seek(0, os.SEEK_END)
            if length > MOST_ENCODED_BYTES:
                raise UnreadableError(f"it has {length} bytes; no image takes more than {MOST_ENCODED_BYTES}")
            stream.seek(start)
            return bytes(stream.read(length))

    content = patiently(read, path)
    if 0 <= size != len(content):
        raise UserError(f"{printable(path)} is shorter than it was when it was listed: {_CHANGED}")
    return content


_CHANGED = (
    "the source has changed while it was read. Let nothing write to it, and start the same command again."
)


def patiently(read: Callable[[], Read], path: str) -> Read:
    """What ``read`` returns; a disk or store that fails is asked again, for some seconds.

    Raises:
        UnreadableError: this user may not read it.
        UserError: it is gone, or cannot be read in ``READ_TRIES`` tries.
    """
    for tried in range(1, READ_TRIES + 1):
        try:
            return read()
        except OSError as error:
            if error.errno in _REFUSED or isinstance(error, PermissionError):
                raise UnreadableError(error.strerror or str(error)) from error
            if error.errno in _GONE or isinstance(error, FileNotFoundError):
                raise UserError(f"{printable(path)} is gone: {_CHANGED}") from error
            if tried == READ_TRIES:
                raise UserError(
                    f"{printable(path)} could not be read in {READ_TRIES} tries: "
                    f"{printable(str(error))}. This is "
                    "no fault of the image, so it is not skipped. See whether the disk or the store answers, "
                    "and start the same command again: what is finished is kept."
                ) from error
            time.sleep(WAIT_SECONDS * 2 ** (tried - 1))
    raise AssertionError


def digest(parts: list[str]) -> str:
    """16 hexadecimal digits of a list of texts."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return found.hexdigest()[:16]


class ForwardReader(io.RawIOBase):
    """A stream that can be skipped through but not rewound: one long read, no memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._at = stream, 0

    def tell(self) -> int:
        """The position, in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go forward to ``offset``."""
        if whence != 0 or offset < self._at:
            raise io.UnsupportedOperation("only forward")
        while self._at < offset and self.read(min(1 << 20, offset - self._at)):
            pass
        return self._at

    def read(self, size: int = -1) -> bytes:
        """The next ``size`` bytes, fewer at the end."""
        content = bytes(self._stream.read(size))
        self._at += len(content)
        return content
