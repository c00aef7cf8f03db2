"""What is made once of a dataset: by one of several at a time, and where it can be written."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator import storage
from orchestrator.scoring import cache
from orchestrator.scoring.cache import cache_path, get_or_make
from orchestrator.storage import lease
from tests.configs import tiny


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_of_two_that_need_the_same_one_makes_it_and_the_other_waits(
    place: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "WAIT_SECONDS", 0.05)
    root = str(tmp_path) if place == "disk" else f"{request.getfixturevalue('s3_server')}/{tmp_path.name}"
    base, makers, start = storage.join(root, "real-1234"), list[int](), threading.Barrier(2)
    results: dict[int, list[bytes]] = {}

    def work(number: int) -> None:
        def make(missing: Sequence[str]) -> None:
            makers.append(number)
            storage.write_bytes(storage.join(base, "features", "part"), b"part")
            storage.write_bytes(f"{base}.npz", str(number).encode())
            storage.delete_folder(storage.join(base, "features"))

        start.wait()
        results[number] = get_or_make(base, [f"{base}.npz"], make, storage.read_bytes)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (maker,) = makers
    assert results == {number: [str(maker).encode()] for number in range(2)}
    assert set(storage.sizes(root)) <= {"real-1234", "real-1234.npz"} and storage.sizes(base) == {}


def test_beside_a_dataset_that_cannot_be_written_it_is_only_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").touch()
    config = tiny(tmp_path / "runs", str(tmp_path / "data"))
    beside = cache_path(config, {"what": "key"}, "real")
    assert beside.startswith(str(tmp_path / "data" / "statistics"))
    monkeypatch.setattr(cache.os, "access", lambda path, mode: False)
    assert cache_path(config, {"what": "key"}, "real").startswith(str(tmp_path / "runs" / "statistics"))
    storage.write_bytes(f"{beside}.npz", b"made earlier")
    assert cache_path(config, {"what": "key"}, "real") == beside
    assert cache_path(config, {"what": "another"}, "real").startswith(str(tmp_path / "runs"))
