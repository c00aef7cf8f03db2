"""Our own words reach the terminal; everything else goes into a file."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import logs
from tests.waiting import PATIENCE

SAYS = """
import logging, os, subprocess, sys, warnings
from orchestrator import logs
early = logs.terminal()
with logs.kept(sys.argv[1], show={show}):
    print("a library prints")
    warnings.warn("a library warns")
    logging.getLogger("ray.data").warning("Ray logs")
    os.write(2, b"C++ writes\\n")
    subprocess.run(["echo", "a child process says"], check=True)
    logging.getLogger("orchestrator.anything").warning("do something")
    early.print("we say [old]", "so" * 60)
print(logs.newest())
"""
OTHERS = ("a library prints", "a library warns", "Ray logs", "C++ writes", "a child process says")


def said(folder: Path, show: bool) -> subprocess.CompletedProcess[str]:
    """What a process of its own says, whose standard output is nothing but a pipe."""
    # readline and xdist set COLUMNS, and a user's pipe has none.
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return subprocess.run(
        [sys.executable, "-c", SAYS.format(show=show), str(folder)],
        env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip


def test_only_we_speak_in_the_terminal(tmp_path: Path) -> None:
    done = said(tmp_path, show=False)
    (file,) = (tmp_path / "logs").iterdir()
    assert done.stdout.splitlines() == ["Warning: do something", "we say [old] " + "so" * 60, str(file)]
    assert done.stderr == ""
    text = file.read_text()
    assert [words for words in OTHERS if words not in text] == []
    assert "we say" not in text


def test_one_setting_brings_all_of_it_back(tmp_path: Path) -> None:
    done = said(tmp_path, show=True)
    assert [words for words in OTHERS if words not in done.stdout + done.stderr] == []
    assert "Warning: do something\n" in done.stdout and done.stdout.endswith("None\n")
    assert list(tmp_path.iterdir()) == []


def record(name: str, level: str, message: str) -> str:
    """A line as Ray's worker processes log it."""
    return json.dumps({"asctime": "now", "levelname": level, "message": message, "name": name})


def batch(pid: int, *lines: str) -> dict[str, object]:
    """Lines of a worker as Ray hands them to the driver."""
    return {"pid": pid, "ip": "10.0.0.1", "actor_name": "Worker", "task_name": None, "lines": list(lines)}


def test_what_our_code_warns_of_in_workers_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = record("orchestrator.precision", "WARNING", "set train.precision to fp32")
    theirs = record("ray.train", "ERROR", "Failed to send resource request")
    ours_too = record("orchestrator.data", "INFO", "nothing to do")
    with logs.kept(str(tmp_path), show=False):
        assert logs._open is not None
        for pid in (1, 2):
            logs._open._take(batch(pid, "printed", '{"asctime" is no record', ours, theirs, ours_too))
        assert logs.last_lines("1")[-1] == "now INFO orchestrator.data: nothing to do"
        assert logs.last_lines("3") == []
    assert capsys.readouterr().out == "Warning: set train.precision to fp32\n"
    text = Path(str(logs.newest())).read_text()
    assert "(Worker pid=2, ip=10.0.0.1) now ERROR ray.train: Failed to send resource request\n" in text
    assert text.count("printed") == 2 and "is no record" in text


def test_a_message_that_a_process_repeats_is_written_once(tmp_path: Path) -> None:
    same, other = (record("ray.train", "WARNING", text) for text in ("no answer", "an answer"))
    with logs.kept(str(tmp_path), show=False):
        assert logs._open is not None
        for _ in range(3):
            logs._open._take(batch(1, same, same))
        logs._open._take(batch(2, same))
        logs._open._take(batch(1, other, same, "printed", "printed"))
    text = Path(str(logs.newest())).read_text()
    assert text.count("pid=1, ip=10.0.0.1) now WARNING ray.train: no answer") == 2
    assert text.count("pid=2, ip=10.0.0.1) now WARNING ray.train: no answer") == 1
    assert text.count("an answer") == 1 and text.count("printed") == 2


def test_a_table_of_the_autoscaler_every_few_seconds_is_left_out(tmp_path: Path) -> None:
    with logs.kept(str(tmp_path), show=False):
        assert logs._open is not None
        logs._open._take(
            {"pid": "autoscaler", "ip": "10.0.0.1", "lines": ["Active:", ":event_summary:Resized"]}
        )
    assert Path(str(logs.newest())).read_text() == "( pid=autoscaler, ip=10.0.0.1) :event_summary:Resized\n"


def test_a_folder_that_cannot_be_written_loses_no_logs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with logs.kept(str(tmp_path / "file"), show=False):
        print("something")
    assert Path(str(logs.newest())).read_text() == "something\n"


def test_what_is_said_inside_of_an_error_is_not_lost(tmp_path: Path) -> None:
    before = sys.stdout, sys.stderr, list(logging.getLogger("orchestrator").handlers)
    with pytest.raises(ZeroDivisionError), logs.kept(str(tmp_path), show=False):
        raise ZeroDivisionError
    assert (sys.stdout, sys.stderr, list(logging.getLogger("orchestrator").handlers)) == before
