"""What a job says in a terminal or a pipe, and which lines of it are not our own words."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
OURS = tuple(
    re.compile(pattern)
    for pattern in (
        r"There is no dataset at .*: preparing it from \w+\.",
        r"(Starting Ray on this machine|Connecting to the Ray cluster at \S+)\.",
        r"Warning: Ray did not start \(.*\)\. It is tried again\.",
        r"Continuing \S+ from \d+ images\.",
        r"Extracting [\w ]+ features of \d+ real images\.",
        r"Training a classifier on (\d+|the dataset's) images\.",
        r"Waiting for the previews, exports and scores of the checkpoints\.",
        r"Waiting for the statistics of the real images\.",
        # The progress of a part.
        r"(train|reference|sample|reconstruct): waiting for [\w ]+",
        r"(train|reference|sample|reconstruct) \d+/\d+ images \(\d+%\).*",
        r"(train|reference|sample|reconstruct) [━╸╺ ]+ *\d+/\d+( .*)?",
        # The summary.
        r" *\S+ after \d+ images",
        r"[┏┡└┃│].*",
        r"(Samples|Gallery|Metrics|Weights|Logs) +/\S+.*",
        r"Took +prepare \d+ s, train .*, total \d+ s",
        r"MLflow +(MLFLOW_SERVER|open http).*",
        # What asks for something, or says that nothing is asked for.
        r"Warning: \d+ samples .*",
        r"Note: .* submit it with .*",
        r"Warning: Training failed and is started again from the newest checkpoint \(\d of \d times\)\..*",
    )
)


def not_ours(said: str) -> list[str]:
    """The lines that are not ours."""
    lines = (line.rstrip() for line in re.split(r"[\r\n]+", CONTROL.sub("", said)))
    return [line for line in lines if line and not any(words.fullmatch(line) for words in OURS)]


def in_terminal(*arguments: str) -> tuple[int, str]:
    """Run a job in a pseudo-terminal of 140 columns; returns its exit code and what stood there."""
    ours, its = pty.openpty()
    environment = {**os.environ, "COLUMNS": "140", "TERM": "xterm-256color"}
    job = subprocess.Popen(
        [sys.executable, *arguments], stdin=its, stdout=its, stderr=its, cwd=ROOT, env=environment
    )
    os.close(its)
    said, deadline = b"", time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if not select.select([ours], [], [], 1.0)[0]:
            continue
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # The last process that could write has ended.
            break
        said += part
    os.close(ours)
    return job.wait(PATIENCE), said.decode()
