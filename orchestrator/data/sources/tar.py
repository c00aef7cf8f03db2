"""Tar files: WebDataset shards, whose members are images and labels, and tar files of tar files."""

import tarfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

from orchestrator.config.data import DataConfig
from orchestrator.data.sources import reasons
from orchestrator.data.sources.classes import name_classes
from orchestrator.data.sources.files import (
    File,
    ForwardReader,
    Omitted,
    Tree,
    UnreadableError,
    open_file,
    patiently,
)
from orchestrator.data.sources.ground_truth import label_rows
from orchestrator.data.sources.names import is_below_hidden, printable
from orchestrator.data.sources.rows import Found
from orchestrator.data.sources.samples import (
    LABEL_SUFFIXES,
    MOST_LABEL_BYTES,
    Member,
    Shard,
    samples_of,
    unlabelled_images,
)
from orchestrator.data.sources.splits import files_of_split
from orchestrator.data.sources.tar_of_tars import UNPACK, classes_of
from orchestrator.errors import UserError
from orchestrator.storage import filesystem_of, is_local

SHARDS_AT_ONCE = 16
BLOCK = tarfile.BLOCKSIZE
MOST_HEADER_BYTES = 1 << 20
MOST_NAMED = 5
_COMPRESSED = {
    b"\x1f\x8b": "gzip -d",
    b"\x28\xb5\x2f\xfd": "zstd -d",
    b"BZh": "bzip2 -d",
    b"\xfd7zXZ": "xz -d",
}
_SHARD_SUFFIXES = (".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst")
_INNER_SUFFIXES = (*_SHARD_SUFFIXES, ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


class BrokenShardError(Exception):
    """A shard of which a part cannot be read, and so an unknown number of images."""


def is_shard_name(name: str) -> bool:
    """Whether a file is a tar file by its name, compressed or not."""
    lower = PurePosixPath(name).name.lower()
    return lower.endswith(_SHARD_SUFFIXES) or ".tar." in lower


def list_shards(config: DataConfig, tree: Tree) -> Found:
    """List all images of all shards.

    Raises:
        UserError: a shard is damaged, cut short or compressed, so that images would be lost.
    """
    assert config.source_path is not None
    source_path = config.source_path
    shards = files_of_split([file for file in tree.files if is_shard_name(file.name)], config.split, tree)
    found = Found()
    named = {file.name for file in tree.files if is_shard_name(file.name)}
    found.omitted += [
        Omitted(printable(file.path), reasons.NOT_AN_IMAGE, "no tar shard")
        for file in tree.files
        if file.name not in named
    ]

    def read(file: File) -> Shard:
        try:
            members = patiently(lambda: list(members_of(source_path, file)), file.path)
            return _images_of(config, file, members)
        except BrokenShardError as error:
            return Shard(broken=f"{printable(file.path)}: {error}")
        except UnreadableError as error:
            return Shard(broken=f"{printable(file.path)}: it cannot be read ({error})")

    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        read_shards = list(pool.map(read, shards))
    refuse_broken([shard.broken for shard in read_shards if shard.broken], len(shards))
    endings: Counter[str] = Counter()
    class_names: set[str] = set()
    for shard in read_shards:
        found.rows += shard.rows
        found.omitted += shard.omitted
        endings += shard.endings
        class_names |= shard.classes
    if config.ground_truth is not None:
        label_rows(found, [row.name for row in found.rows], config)
    else:
        name_classes(found, class_names, "tar files", config)
    if endings:
        counts = ", ".join(f"{count} .{ending}" for ending, count in sorted(endings.items()))
        found.notes.append(
            f"Some samples hold several images ({counts}), and each is stored with its sample's label. "
            "--data.image_column ENDING takes those of one ending alone."
        )
    return found


def _images_of(config: DataConfig, file: File, members: list[Member]) -> Shard:
    assert config.source_path is not None
    source_path, ending = config.source_path, config.image_column
    tars = [member for member in members if member.members is not None]
    direct = [member for member in members if member.members is None]
    if config.ground_truth is not None and not tars:
        advice = "data.ground_truth is for images without labels; take the setting away"
        return unlabelled_images(source_path, file, direct, ending, None, advice)
    shard = samples_of(source_path, file, direct, ending)
    if tars and (shard.rows or config.ground_truth is not None):
        labels = "images with labels" if shard.rows else "images whose labels are in data.ground_truth"
        raise UserError(
            f"{printable(file.path)} holds {labels} and also tar files, such as "
            f"{printable(tars[0].name)}, so these are no classes. {UNPACK}, or take them out."
        )
    for inner in classes_of(source_path, file, tars, ending):
        shard.rows += inner.rows
        shard.omitted += inner.omitted
        shard.classes |= inner.classes
    return shard


def refuse_broken(broken: list[str], count: int) -> None:
    """Name the shards that hide images.

    Raises:
        UserError: there are some.
    """
    if broken:
        few = "\n  ".join(broken[:MOST_NAMED])
        raise UserError(
            f"{len(broken)} of {count} tar shards cannot be read to their end, so an unknown number of "
            "images "
            f"would be lost:\n  {few}\nFetch or make these again, or take them out of the source."
        )


def members_of(source_path: str, file: File) -> Iterator[Member]:
    """All files in a tar file, in order, also of archives that are put one after another.

    Raises:
        BrokenShardError: it is damaged, cut short, compressed, or no tar file.
    """
    if file.size == 0:
        raise BrokenShardError("it is empty (0 bytes); its writer was never closed")
    with _opened(source_path, file.path) as stream:
        yield from archive_members(stream, file.size, 0)


def archive_members(stream: BinaryIO, end: int, start: int, is_inner: bool = False) -> Iterator[Member]:
    """All files in the tar archive between two places of a stream that is read forward.

    A tar file in it is a member with members; ``is_inner`` says that the archive is such a one.
    """
    at = start
    is_first = True
    while at < end:
        stream.seek(at)
        block = stream.read(min(BLOCK, end - at))
        if is_first:
            _refuse_compressed(block)
        if not block.strip(b"\0"):
            if not is_first or len(block) == BLOCK:
                at += len(block)
                is_first = False
                continue
            raise BrokenShardError(f"it holds {len(block)} bytes and no archive")
        member, at = _next_member(stream, block, at, end, is_inner)
        is_first = False
        if member is not None:
            yield member
        if at >= end:
            raise BrokenShardError(f"it is cut short: after byte {min(at, end)} its end is missing")


def _next_member(
    stream: BinaryIO, block: bytes, at: int, end: int, is_inner: bool
) -> tuple[Member | None, int]:
    """The member whose header begins at ``at``, and the place after it."""
    reader = _Replayed(block, stream, at)
    # All of a TarFile that reading one header takes. A whole one ends in silence at a damaged header.
    archive: Any = SimpleNamespace(
        fileobj=reader, offset=at, pax_headers={}, encoding="utf-8", errors="surrogateescape"
    )
    try:
        info = tarfile.TarInfo.fromtarfile(archive)
    except (tarfile.HeaderError, ValueError, OverflowError) as error:
        raise BrokenShardError(f"the header at byte {at} is damaged ({error})") from error
    after = int(archive.offset)
    if info.isreg() and info.offset_data + info.size > end:
        raise BrokenShardError(f"it is cut short: {printable(info.name)} ends after its last byte")
    if info.isdir():
        return None, after
    if not info.isreg():
        return Member(info.name, 0, 0, link=info.linkname or "?", is_symbolic=info.issym()), after
    if info.name.lower().endswith(_INNER_SUFFIXES) and not is_below_hidden(info.name):
        return _inner_tar(stream, info, is_inner), after
    reads_all = (
        PurePosixPath(info.name).suffix[1:].lower() in LABEL_SUFFIXES and info.size <= MOST_LABEL_BYTES
    )
    wanted = info.size if reads_all else min(info.size, 16)
    content = b"" if info.issparse() else reader.read(wanted)
    return Member(info.name, info.offset_data, info.size, content), after


def _inner_tar(stream: BinaryIO, info: tarfile.TarInfo, is_inner: bool) -> Member:
    """A tar file in a tar file: it lies there as it is, so its members have places in the outer one."""
    end = info.offset_data + info.size
    try:
        if is_inner:
            raise BrokenShardError("it is a tar file in a tar file in a tar file; unpack the outermost one")
        if info.issparse() or not info.size:
            raise BrokenShardError("it is empty" if not info.size else "it is stored as a sparse file")
        members = tuple(archive_members(stream, end, info.offset_data, is_inner=True))
    except BrokenShardError as error:
        raise BrokenShardError(f"{printable(info.name)} in it: {error}") from error
    return Member(info.name, info.offset_data, info.size, members=members)


class _Replayed:
    """A stream of which one block was read already; what headers claim of sizes is not believed."""

    def __init__(self, block: bytes, stream: BinaryIO, at: int) -> None:
        self._block, self._stream, self._at = block, stream, at

    def tell(self) -> int:
        return self._at

    def seek(self, at: int) -> None:
        self._stream.seek(at)
        self._block, self._at = b"", at

    def read(self, size: int) -> bytes:
        if size > MOST_HEADER_BYTES:
            raise BrokenShardError(f"the header at byte {self._at} claims a name of {size} bytes")
        content, self._block = self._block[:size], self._block[size:]
        if len(content) < size:
            content += self._stream.read(size - len(content))
        self._at += len(content)
        return content


def _opened(source_path: str, path: str) -> BinaryIO:
    # On a disk, skip from header to header; over a network one long read is faster than many short ones.
    if is_local(source_path):
        return open_file(source_path, path)
    stream = filesystem_of(source_path)[0].open_input_stream(path)
    return cast(BinaryIO, ForwardReader(cast(BinaryIO, stream)))


def _refuse_compressed(start: bytes) -> None:
    for magic, command in _COMPRESSED.items():
        if start.startswith(magic):
            raise BrokenShardError(
                f"it is compressed. Images are read from any place of a shard, so unpack it first: {command}"
            )
