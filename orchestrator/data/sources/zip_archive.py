"""ZIP archives of images with ``dataset.json``, as the tools of StyleGAN and edm2 write them."""

import struct
import zipfile
import zlib
from dataclasses import dataclass, field

from orchestrator.config.data import DataConfig
from orchestrator.data.sources import dataset_json, reasons
from orchestrator.data.sources.files import (
    MOST_ENCODED_BYTES,
    File,
    Omitted,
    Tree,
    UnreadableError,
    open_file,
    patiently,
    read_part,
)
from orchestrator.data.sources.names import (
    SNIFFED_BYTES,
    is_below_hidden,
    is_image_name,
    looks_like_image,
    printable,
)
from orchestrator.data.sources.rows import Found, Row
from orchestrator.data.sources.splits import files_of_split
from orchestrator.errors import UserError

ZIP_SUFFIX = ".zip"
_ENCRYPTED, _SIZES_FOLLOW = 1, 8
_MAGIC = b"PK\3\4"
_HEADER = struct.Struct("<4sHHHHHIIIHH")
_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, struct.error)


@dataclass
class _Directory:
    """What the end of a ZIP says of it."""

    members: list[zipfile.ZipInfo]
    described: bytes | None
    """Its ``dataset.json``."""
    images: set[str] = field(default_factory=set)
    """Members that are images."""


def list_archives(config: DataConfig, tree: Tree) -> Found:
    """List the images of all ZIP archives; each holds its own ``dataset.json``.

    Raises:
        UserError: an archive is damaged or cut short, or has no labels.
    """
    archives = [file for file in tree.files if file.name.lower().endswith(ZIP_SUFFIX)]
    named = {file.name for file in archives}
    found = Found()
    found.omitted = [
        Omitted(printable(file.path), reasons.NOT_AN_IMAGE, "no ZIP archive")
        for file in tree.files
        if file.name not in named
    ]
    for file in files_of_split(archives, config.split, tree):
        _list(tree.root, file, found)
    return found


def _list(source_path: str, file: File, found: Found) -> None:
    place = printable(file.path)
    try:
        directory = patiently(lambda: _read_directory(source_path, file), file.path)
    except (*_ERRORS, UnreadableError) as error:
        raise UserError(
            f"{place} cannot be read as a ZIP archive: {error}. It is cut short or damaged. Fetch it again "
            "and compare its size."
        ) from error
    labels = None
    if directory.described is not None:
        labels = dataset_json.read_labels(directory.described, f"{file.path}: {dataset_json.NAME}")
    if labels is None:
        raise UserError(
            f"{place} holds no {dataset_json.NAME} with labels. data.source zip reads what the dataset tools "
            "of StyleGAN and edm2 write. Unpack another archive, and use --data.source image_folder."
        )
    last = {member.filename: number for number, member in enumerate(directory.members)}
    for number, member in enumerate(directory.members):
        name = member.filename.replace("\\", "/")
        left_out = _left_out(member, directory)
        if left_out is None and last[member.filename] != number:
            left_out = (reasons.DUPLICATE, "its name comes again in the archive")
        if left_out is None and name not in labels:
            left_out = (reasons.WITHOUT_LABEL, f"{dataset_json.NAME} does not name it")
        if left_out is not None:
            found.omitted.append(Omitted(f"{place}: {printable(name)}", *left_out))
        else:
            start, size = member.header_offset, member.compress_size
            found.rows.append(Row(labels[name], file.path, start, size, file.stamp, name))
    there = {member.filename.replace("\\", "/") for member in directory.members}
    found.omitted += dataset_json.without_image(labels, there, file.path)


def _read_directory(source_path: str, file: File) -> _Directory:
    with open_file(source_path, file.path) as stream, zipfile.ZipFile(stream) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        for member in members:
            end = member.header_offset + _HEADER.size + member.compress_size
            if member.header_offset < 0 or end > file.size:
                raise zipfile.BadZipFile(f"{printable(member.filename)} lies outside of it")
        described = next((m for m in members if m.filename == dataset_json.NAME), None)
        if described is not None and described.file_size > dataset_json.MOST_BYTES:
            raise zipfile.BadZipFile(f"{dataset_json.NAME} has {described.file_size} bytes")
        directory = _Directory(members, archive.read(described) if described is not None else None)
        for member in members:
            if is_image_name(member.filename) or _starts_as_image(archive, member):
                directory.images.add(member.filename)
        return directory


def _starts_as_image(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    if member.filename == dataset_json.NAME or _locked(member) is not None:
        return False
    try:
        with archive.open(member) as stream:
            return looks_like_image(stream.read(SNIFFED_BYTES))
    except _ERRORS:
        return True  # Nobody knows; reading it will say what is wrong.


def _left_out(member: zipfile.ZipInfo, directory: _Directory) -> tuple[str, str] | None:
    """The reason and the detail of what cannot be stored, whatever its label."""
    if is_below_hidden(member.filename):
        return reasons.HIDDEN, ""
    locked = _locked(member)
    if locked is not None:
        return reasons.UNREADABLE, locked
    return None if member.filename in directory.images else (reasons.NOT_AN_IMAGE, "")


def _locked(member: zipfile.ZipInfo) -> str | None:
    if member.flag_bits & _ENCRYPTED:
        return "it is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "it is compressed by another method than deflate"
    return None


def read_member(source_path: str, path: str, start: int, size: int) -> bytes:
    """The bytes of a member whose header is at ``start`` and which takes ``size`` bytes in the archive.

    Raises:
        UnreadableError: it is damaged, or larger than any image.
    """
    header = _HEADER.unpack(read_part(source_path, path, start, _HEADER.size))
    magic, _, flags, method, _, _, checksum, _, _, name, extra = header
    if magic != _MAGIC or method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnreadableError("its header in the ZIP archive is damaged")
    content = read_part(source_path, path, start + _HEADER.size + name + extra, size)
    if method == zipfile.ZIP_DEFLATED:
        content = _inflated(content)
    if not flags & _SIZES_FOLLOW and zlib.crc32(content) != checksum:
        raise UnreadableError("its bytes are not those that the ZIP archive has a checksum of")
    return content


def _inflated(content: bytes) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        whole = stream.decompress(content, MOST_ENCODED_BYTES)
    except zlib.error as error:
        raise UnreadableError(f"it cannot be unpacked ({error})") from error
    if not stream.eof:
        raise UnreadableError("it cannot be unpacked: it is cut short, or larger than any image")
    return whole
