"""What can be seen of GPUs without one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.commands import ROOT


def printed_by(module: str, folder: Path) -> list[dict[str, Any]]:
    """The lines of JSON that a module here prints, run in a process of its own."""
    words = [sys.executable, "-m", f"tests.simulated.{module}", str(folder)]
    done = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
