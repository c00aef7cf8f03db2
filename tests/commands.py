"""Jobs as a user starts them, but in this process: what they print and how they exit."""

import runpy
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]


class Done(NamedTuple):
    """How a job ended."""

    returncode: int
    stdout: str
    stderr: str


def job(capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> Done:
    """Run ``jobs/<name>`` with these arguments."""
    capsys.readouterr()
    before, sys.argv = sys.argv, [f"jobs/{name}", *arguments]
    code: object = 0
    try:
        runpy.run_path(str(ROOT / "jobs" / name), run_name="__main__")
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.argv = before
    assert isinstance(code, int)
    return Done(code, *capsys.readouterr())


def refused(capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> str:
    """What a job says, on one line, that must refuse these arguments as a user's mistake."""
    done = job(capsys, name, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    return " ".join(done.stderr.split())
