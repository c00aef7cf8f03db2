"""Files on a disk and through any other filesystem behave alike."""

import os
from pathlib import Path

import pytest

from orchestrator import storage


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_small_files_by_path_and_by_uri(tmp_path: Path, scheme: str) -> None:
    folder = f"{scheme}{tmp_path}/runs"
    if scheme:
        (tmp_path / "runs").mkdir()
    assert storage.sizes(folder) == {}
    storage.write_bytes(storage.join(folder, "a.json"), b"first")
    storage.write_bytes(storage.join(folder, "a.json"), b"second")
    (tmp_path / "runs" / "inner").mkdir()
    assert storage.sizes(folder) == {"a.json": 6, "inner": None}
    assert storage.sizes(storage.join(folder, "a.json")) == {}
    assert storage.read_bytes(storage.join(folder, "a.json")) == b"second"
    assert storage.is_file(storage.join(folder, "a.json"))
    assert not storage.is_file(storage.join(folder, "inner"))
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(folder, "b.json"))
    storage.delete_file(storage.join(folder, "a.json"))
    storage.delete_file(storage.join(folder, "a.json"))
    storage.delete_folder(folder)
    assert not (tmp_path / "runs").exists()


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(OSError):
        storage.write_bytes(str(tmp_path / "target"), b"content")
    assert [entry.name for entry in tmp_path.iterdir()] == ["target"]


def write_half(path: str, size: int) -> None:
    with storage.writing(path) as stream:
        stream.write(bytes(size))
        raise ZeroDivisionError


@pytest.mark.parametrize("place", ["disk", "other", "s3"])
@pytest.mark.parametrize("size", [10, 60_000_000], ids=["small", "in parts"])
def test_a_write_that_fails_keeps_what_was_there(
    tmp_path: Path, place: str, size: int, request: pytest.FixtureRequest
) -> None:
    folder = {"disk": str(tmp_path), "other": f"file://{tmp_path}"}.get(place)
    if folder is None:
        folder = f"{request.getfixturevalue('s3_server')}/{tmp_path.name}-{size}"
    path = storage.join(folder, "file")
    storage.write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError):
        write_half(path, size)
    assert storage.read_bytes(path) == b"old"
    assert sorted(storage.sizes(folder)) == ["file"]
    with storage.writing(path) as stream:
        stream.write(bytes(size))
    assert storage.sizes(folder) == {"file": size}
    if place == "s3":
        bucket = folder.removeprefix("s3://").partition("/")[0]
        assert not storage.s3_objects().call_s3("list_multipart_uploads", Bucket=bucket).get("Uploads")


def test_what_killed_processes_left_aside_is_removed_when_it_is_old(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    old, new = tmp_path / "inner" / ".a.json.77.writing", tmp_path / ".b.json.78.writing"
    old.touch()
    new.touch()
    os.utime(old, (1, 1))
    storage.delete_left_aside(str(tmp_path))
    assert not old.exists() and new.exists()
