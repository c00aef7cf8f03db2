"""Files by path or URI: a local disk and an object store behind the same few functions.

pyarrow streams what is large (parquet, checkpoint shards). fsspec lists folders, and reads and deletes
small objects; on S3 it does so through s3fs. One library would be simpler, but s3fs is too slow for the
large part: read by four threads it takes 4.8 times the CPU of pyarrow and 1.3 times as long (row groups of
8 MB, 2026-11-25).

S3's credentials come from the standard AWS sources (environment, profile, instance role).
``AWS_ENDPOINT_URL`` names another server than AWS.
"""

import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.fs
from fsspec import AbstractFileSystem
from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.implementations.local import LocalFileSystem

S3_ATTEMPTS = 10
S3_LEAST_PART = 5 << 20
"""Bytes of the smallest object to which S3 can add without it being sent again."""
HASHED_AT_ONCE_BYTES = 1 << 24
OLD_SECONDS = 3600.0


def filesystem_of(path: str) -> tuple[pa.fs.FileSystem, str]:
    """The pyarrow filesystem of a local path or URI, and the path within it."""
    if path.startswith("s3://"):
        return connect_to_s3(), path.removeprefix("s3://").rstrip("/")
    if "://" in path:
        filesystem, inner = pa.fs.FileSystem.from_uri(path)
        return filesystem, inner
    return pa.fs.LocalFileSystem(), path


@lru_cache(maxsize=1)
def connect_to_s3() -> pa.fs.S3FileSystem:
    """Connect to the S3 that the environment describes; one connection pool per process."""
    environment = os.environ
    return pa.fs.S3FileSystem(
        endpoint_override=environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL"),
        region=environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION"),
        # Throttling and server errors are tried again, for about a minute.
        retry_strategy=pa.fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
    )


@lru_cache(maxsize=1)
def s3_objects() -> AbstractFileSystem:
    """Connect to the same S3 for small objects; listings are not remembered, because others write too."""
    import s3fs

    retries = {"mode": "standard", "max_attempts": S3_ATTEMPTS}
    return s3fs.S3FileSystem(
        use_listings_cache=False, skip_instance_cache=True, config_kwargs={"retries": retries}
    )


@contextmanager
def _objects(path: str) -> Iterator[tuple[AbstractFileSystem, str]]:
    """Whatever holds ``path``, and the path within it.

    A store that does not answer raises OSError, as a disk does.
    """
    if is_local(path):
        yield LocalFileSystem(), path
    elif path.startswith("s3://"):
        from botocore.exceptions import BotoCoreError

        try:
            yield s3_objects(), path
        except BotoCoreError as error:
            raise OSError(str(error)) from error
    else:
        filesystem, inner = filesystem_of(path)
        yield ArrowFSWrapper(filesystem), inner


def is_local(path: str) -> bool:
    """Whether ``path`` is on a disk that this machine mounts."""
    return "://" not in path


def join(folder: str, *names: str) -> str:
    """The path or URI of something in a folder."""
    return "/".join([folder.rstrip("/"), *names])


def is_file(path: str) -> bool:
    """Whether there is a file."""
    with _objects(path) as (objects, inner):
        return bool(objects.isfile(inner))


def sizes(folder: str) -> dict[str, int | None]:
    """List what lies in a folder: name -> a file's size, None for a folder; empty if there is no folder."""
    with _objects(folder) as (objects, inner):
        try:
            found = objects.ls(inner, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        itself = objects._strip_protocol(inner)  # Files, and the marker objects of folders, list themselves.
    named = {
        info["name"].rstrip("/").rpartition("/")[2]: info
        for info in found
        if info["name"].rstrip("/") != itself
    }
    return {name: info["size"] if info["type"] == "file" else None for name, info in named.items()}


def tree(folder: str) -> dict[str, int]:
    """Every file in a folder and the folders in it: path within the folder -> size."""
    with _objects(folder) as (objects, inner):
        found = objects.find(inner, detail=True)
        itself = objects._strip_protocol(inner).rstrip("/")
    return {name.removeprefix(f"{itself}/"): int(info["size"]) for name, info in found.items()}


def stamp_of(file: str) -> str:
    """A text that changes when a file is written anew; it is told without reading the file."""
    with _objects(file) as (objects, inner):
        info = objects.info(inner)
    return f"{info['size']} {info.get('ETag') or info.get('mtime')}"


def read_bytes(path: str) -> bytes:
    """Read a file's content.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
    """
    with _objects(path) as (objects, inner):
        return bytes(objects.cat_file(inner))


def read_from(path: str, start: int) -> bytes:
    """Read what a file holds after its first ``start`` bytes; nothing where there is no file.

    Raises:
        OSError: it cannot be read.
    """
    with _objects(path) as (objects, inner):
        try:
            # A store refuses a range that begins at the end.
            return bytes(objects.cat_file(inner, start=start)) if objects.size(inner) > start else b""
        except FileNotFoundError:
            return b""


def append(path: str, content: bytes, *, at: int) -> bool:
    """Add to the end of an object that is ``at`` bytes long, without sending those again.

    The store copies them itself, and puts the whole in place in one step. It returns False, and does nothing,
    where the object is of another length, or too small for S3 to copy.

    Raises:
        OSError: it cannot be written.
    """
    if not path.startswith("s3://") or at < S3_LEAST_PART:
        return False
    with _objects(path) as (objects, inner):
        if not objects.isfile(inner) or objects.size(inner) != at:
            return False
        with _uploading(objects, inner, "ab") as upload:
            upload.write(content)
    return True


def sha256_of(path: str) -> str:
    """The hash of a file of any size."""
    filesystem, inner = filesystem_of(path)
    found = hashlib.sha256()
    with filesystem.open_input_file(inner) as stream:
        while chunk := stream.read(HASHED_AT_ONCE_BYTES):
            found.update(chunk)
    return found.hexdigest()


def write_bytes(path: str, content: bytes | pa.Buffer) -> None:
    """Put a file in place in one step, so that readers see the old or the new one, never half of it.

    Raises:
        OSError: it cannot be written.
    """
    with writing(path) as stream:
        stream.write(content)


@contextmanager
def writing(path: str) -> Iterator[BinaryIO]:
    """Open a stream into a file that is put in place in one step at the end, and not at all after an error.

    On a disk the file is written aside, flushed to the device and renamed. On S3 the upload is completed at
    the end, or aborted. What was there before stays until then.

    Raises:
        OSError: it cannot be written.
    """
    if path.startswith("s3://"):
        with _objects(path) as (objects, inner), _uploading(objects, inner) as upload:
            yield upload
    elif not is_local(path):
        # Closing a stream into another store puts half a file in place as well as a whole one.
        filesystem, inner = filesystem_of(path)
        with tempfile.TemporaryFile() as whole:
            yield whole
            whole.seek(0)
            with filesystem.open_output_stream(inner) as stream:
                shutil.copyfileobj(whole, stream)
    else:
        with _written_aside(Path(path)) as file:
            yield file


@contextmanager
def _uploading(objects: AbstractFileSystem, path: str, mode: str = "wb") -> Iterator[BinaryIO]:
    upload = objects.open(path, mode)
    try:
        yield upload
        upload.close()
    except BaseException:
        upload.discard()
        upload.closed = True  # Nothing is sent when it is collected.
        raise


@contextmanager
def _written_aside(target: Path) -> Iterator[BinaryIO]:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(target)
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def aside_of(target: Path) -> Path:
    """A place beside a file to write it first; no other process has it, on whichever machine."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.writing")


def delete_left_aside(folder: str) -> None:
    """Remove what killed processes left of files that they had not finished, on a disk.

    Only what is an hour old is taken for that.
    """
    if is_local(folder):
        for aside in Path(folder).rglob(".*.writing"):
            with suppress(FileNotFoundError):
                if time.time() - aside.stat().st_mtime > OLD_SECONDS:
                    aside.unlink()


def delete_file(path: str) -> None:
    """Remove a file, if it is there."""
    with _objects(path) as (objects, inner):
        if objects.isfile(inner):
            objects.rm_file(inner)


def delete_folder(path: str) -> None:
    """Remove a folder and all that is in it."""
    with _objects(path) as (objects, inner):
        objects.rm(inner, recursive=True)
