"""Starting Ray on a slow machine: its node gets more time than Ray gives it, and is started again."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray._private import services

from orchestrator import embedded_ray
from orchestrator.embedded_ray import start_embedded
from orchestrator.errors import UserError
from tests.waiting import PATIENCE, wait_until


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that a Ray which never starts has left behind, one for each try."""
    found: list[subprocess.Popen[bytes]] = []

    def init(**options: Any) -> None:
        found.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # Other tests' Ray goes on.
    return found


def test_a_ray_that_does_not_start_is_tried_again_leaves_no_process_and_is_said(
    left: list[subprocess.Popen[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match=r"did not start on this machine in 5 tries \(The current node timed"):
        start_embedded()
    assert [process.wait(PATIENCE) for process in left] == [-9] * embedded_ray.TRIES
    assert caplog.text.count("It is tried again") == embedded_ray.TRIES - 1


@contextmanager
def running_raylet(folder: Path) -> Iterator[psutil.Popen]:
    """A process that is called as Ray's node is."""
    shutil.copy(shutil.which("sleep") or "", folder / "raylet")
    process = psutil.Popen([str(folder / "raylet"), "600"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_late_node_is_waited_for_while_its_process_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([RuntimeError("not yet"), RuntimeError("not yet"), {"node": 1}])

    def get_node(*arguments: str) -> Any:
        answer = next(answers)
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    monkeypatch.setattr(services, "get_node", get_node)
    with running_raylet(tmp_path), embedded_ray._node_may_take(600):
        assert services.get_node("address", "id") == {"node": 1}
    assert services.get_node is get_node


def test_a_node_that_ended_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def get_node(*arguments: str) -> Any:
        raise RuntimeError("no such node")

    monkeypatch.setattr(services, "get_node", get_node)
    with running_raylet(tmp_path) as raylet, embedded_ray._node_may_take(600):
        own = psutil.Process(raylet.pid)
        monkeypatch.setattr(psutil.Process, "children", lambda self: [own])  # Not those of other tests' Ray.
        raylet.kill()  # Nobody has waited for it, so it is still in the list of processes.
        wait_until(lambda: own.status() == psutil.STATUS_ZOMBIE, "the end of a process")
        with pytest.raises(RuntimeError, match="no such node"):
            services.get_node("address", "id")
