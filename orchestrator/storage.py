"""Files by path or URI: a local disk and an object store behind the same few functions.

S3's credentials come from the standard AWS sources (environment, profile, instance role); ``AWS_ENDPOINT_URL`` points it
at another server.
"""

import os
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.fs

S3_ATTEMPTS = 10


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
    """The S3 that the environment describes; one connection pool per process."""
    environment = os.environ
    return pa.fs.S3FileSystem(
        endpoint_override=environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL"),
        region=environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION"),
        # Throttling and server errors are tried again, for about a minute.
        retry_strategy=pa.fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
    )


def is_local(path: str) -> bool:
    """Whether ``path`` is on a disk that this machine mounts."""
    return "://" not in path


def join(folder: str, *names: str) -> str:
    """The path or URI of something in a folder."""
    return "/".join([folder.rstrip("/"), *names])


def is_file(path: str) -> bool:
    """Whether there is a file."""
    filesystem, inner = filesystem_of(path)
    return bool(filesystem.get_file_info(inner).type == pa.fs.FileType.File)


def sizes(folder: str) -> dict[str, int | None]:
    """What lies in a folder: name -> bytes of a file, None of a folder; nothing where there is no such folder."""
    filesystem, inner = filesystem_of(folder)
    found = filesystem.get_file_info(pa.fs.FileSelector(inner, allow_not_found=True))
    return {info.base_name: info.size if info.is_file else None for info in found}


def read_bytes(path: str) -> bytes:
    """A file's content.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
    """
    filesystem, inner = filesystem_of(path)
    with filesystem.open_input_stream(inner) as stream:
        return bytes(stream.read())


def write_bytes(path: str, content: bytes | pa.Buffer) -> None:
    """Put a file in place in one step, so that readers see the old or the new one, never half of it.

    An object store does so by itself; on a disk the file is written aside, flushed to the device and renamed.

    Raises:
        OSError: it cannot be written.
    """
    if is_local(path):
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{os.getpid()}.writing")
        try:
            with aside.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)
        return
    filesystem, inner = filesystem_of(path)
    with filesystem.open_output_stream(inner) as stream:
        stream.write(content)


def delete_file(path: str) -> None:
    """Remove a file, if it is there."""
    if is_file(path):
        filesystem, inner = filesystem_of(path)
        filesystem.delete_file(inner)


def delete_folder(path: str) -> None:
    """Remove a folder and all that is in it."""
    filesystem, inner = filesystem_of(path)
    filesystem.delete_dir(inner)
