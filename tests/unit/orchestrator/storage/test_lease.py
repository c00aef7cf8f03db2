"""One process at a time works in a folder, on a disk and in an object store."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator import storage
from orchestrator.errors import UserError
from orchestrator.storage import lease
from orchestrator.storage.conditional import read_version, write_over
from orchestrator.storage.lease import LEASE_FILE, holding
from tests.waiting import wait_until


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "run")
    return f"{request.getfixturevalue('s3_server')}/lease-{tmp_path.name}"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.4)


def left_behind(folder: str, **changed: Any) -> None:
    """A lease whose holder is not this process."""
    with holding(folder, "run", "--run.name"):
        content = json.loads(storage.read_bytes(storage.join(folder, LEASE_FILE)))
    storage.write_bytes(storage.join(folder, LEASE_FILE), json.dumps(content | changed).encode())


def test_a_file_is_written_only_over_the_version_that_was_read(folder: str) -> None:
    path = storage.join(folder, "file")
    assert read_version(path) is None
    assert write_over(path, b"one", None)
    assert not write_over(path, b"two", None)
    found = read_version(path)
    assert found is not None and found[0] == b"one"
    assert write_over(path, b"three", found[1])
    assert not write_over(path, b"four", found[1])
    assert storage.read_bytes(path) == b"three"
    assert sorted(storage.sizes(folder)) == ["file"]


def test_of_many_who_want_to_write_one_does(tmp_path: Path) -> None:
    path, start, written = str(tmp_path / "file"), threading.Barrier(8), list[int]()

    def write(number: int) -> None:
        start.wait()
        if write_over(path, str(number).encode(), None):
            written.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(number) for number in written] == [Path(path).read_text()]


def test_who_holds_the_folder_is_said_and_nothing_is_changed(folder: str) -> None:
    with holding(folder, "run", "--run.name"):
        before = storage.read_bytes(storage.join(folder, LEASE_FILE))
        with (
            pytest.raises(UserError, match=r"The run .* by process \d+ on .+, since 20.*--run.name"),
            holding(folder, "run", "--run.name"),
        ):
            pytest.fail("two hold it")
        assert storage.read_bytes(storage.join(folder, LEASE_FILE)) == before
    assert LEASE_FILE not in storage.sizes(folder)
    with holding(folder, "run", "--run.name"):
        pass


def test_a_holder_on_this_machine_that_died_is_taken_over_at_once(folder: str) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for changed in ({"pid": ended.pid}, {"started": 1.0}):  # The second is another process of this number.
        left_behind(folder, **changed)
        with holding(folder, "run", "--run.name"):
            assert json.loads(storage.read_bytes(storage.join(folder, LEASE_FILE)))["started"] > 1


@pytest.mark.usefixtures("quick")
def test_a_holder_elsewhere_is_taken_over_when_it_does_not_stir(folder: str) -> None:
    left_behind(folder, host="elsewhere")
    with holding(folder, "run", "--run.name"):
        assert json.loads(storage.read_bytes(storage.join(folder, LEASE_FILE)))["host"] != "elsewhere"


def test_a_holder_elsewhere_that_renews_its_lease_is_left_alone(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 20.0)
    left_behind(folder, host="elsewhere")
    file = storage.join(folder, LEASE_FILE)
    renewed, over = json.loads(storage.read_bytes(file)) | {"renewals": 1}, threading.Event()

    def renew() -> None:
        while not over.wait(0.05):
            renewed["renewals"] += 1
            storage.write_bytes(file, json.dumps(renewed).encode())

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(UserError, match="on elsewhere"), holding(folder, "run", "--run.name"):
            pytest.fail("two hold it")
    finally:
        over.set()
        thread.join()


@pytest.mark.usefixtures("quick")
def test_a_lease_is_renewed_and_one_that_was_taken_over_ends_its_process(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = list[int]()
    monkeypatch.setattr("os.kill", lambda pid, number: ended.append(number))
    file = storage.join(folder, LEASE_FILE)

    def renewals() -> int:
        return int(json.loads(storage.read_bytes(file))["renewals"])

    with holding(folder, "run", "--run.name"):
        wait_until(lambda: renewals() > 1, "two renewals")
        other = json.loads(storage.read_bytes(file)) | {"token": "another", "host": "elsewhere"}

        def is_noticed() -> bool:
            # Again and again: a renewal that has looked already writes over it once.
            storage.write_bytes(file, json.dumps(other).encode())
            return bool(ended)

        wait_until(is_noticed, "the end of a process that lost its lease")
    assert json.loads(storage.read_bytes(file))["token"] == "another"
