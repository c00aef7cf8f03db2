"""Files on a disk and through any other filesystem behave alike."""

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
