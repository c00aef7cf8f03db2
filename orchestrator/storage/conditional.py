"""Writing a small file only where nobody else has written it meanwhile.

S3 does so by conditional PUT (``If-None-Match`` and ``If-Match``), a disk by links and renames. Other stores
offer nothing of the kind here: there the last one to write wins.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator import storage


def read_version(path: str) -> tuple[bytes, str] | None:
    """A file's content and what stands for this version of it, or None where there is no file.

    Raises:
        OSError: it cannot be read.
    """
    try:
        if path.startswith("s3://"):
            return _get(path)
        content = storage.read_bytes(path)
    except FileNotFoundError:
        return None
    return content, content.hex()


def write_over(path: str, content: bytes, version: str | None) -> bool:
    """Write a file where it still is the ``version`` that was read, or, with None, where there is none.

    Returns:
        Whether it was written.

    Raises:
        OSError: it cannot be written.
    """
    if path.startswith("s3://"):
        return _put(path, content, version)
    if not storage.is_local(path):
        storage.write_bytes(path, content)
        return True
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = storage.aside_of(target)
    try:
        if version is not None and not _take_away(target, version, aside):
            return False
        aside.write_bytes(content)
        os.link(aside, target)
    except FileExistsError:
        return False
    finally:
        aside.unlink(missing_ok=True)
    return True


def _take_away(target: Path, version: str, aside: Path) -> bool:
    """Move a file aside, which only one of several can do, if it still is this version."""
    try:
        target.rename(aside)
    except FileNotFoundError:
        return False
    if aside.read_bytes().hex() == version:
        return True
    with suppress(FileExistsError):  # Put it back.
        os.link(aside, target)
    return False


def _place(path: str) -> dict[str, str]:
    bucket, _, key = path.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}


def _get(path: str) -> tuple[bytes, str]:
    from fsspec.asyn import sync

    objects: Any = storage.s3_objects()

    async def read() -> tuple[bytes, str]:
        found = await objects._call_s3("get_object", **_place(path))
        async with found["Body"] as body:
            return await body.read(), found["ETag"]

    return sync(objects.loop, read)  # type: ignore[no-any-return]


def _put(path: str, content: bytes, version: str | None) -> bool:
    objects: Any = storage.s3_objects()
    condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
    try:
        objects.call_s3("put_object", Body=content, **_place(path), **condition)
    except (FileExistsError, FileNotFoundError):
        return False
    except OSError as error:
        code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
        if code in ("PreconditionFailed", "ConditionalRequestConflict"):
            return False
        raise
    return True
