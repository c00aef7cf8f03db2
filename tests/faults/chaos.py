"""Runs of the command while its processes are killed, one after another, whichever they are."""

import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.commands import ROOT
from tests.waiting import PATIENCE

SHORTEST_PAUSE, LONGEST_PAUSE = 10.0, 20.0
PARAGRAPHS = re.compile(r"^Traceback", re.MULTILINE)


@dataclass
class Toll:
    """What was killed, and what it took to finish all the same."""

    kills: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    problems: list[str] = field(default_factory=list)
    """Calls that hung, or ended in a traceback."""


def kind_of(process: psutil.Process, command: int) -> str:
    """What a process is, without the numbers that differ from one to the next."""
    if process.pid == command:
        return "the command"
    words = process.cmdline()
    title = words[0] if words else process.name()
    if title.startswith("ray::"):
        return re.sub(r"[(\[].*|\d+", "", title)
    script = next((word for word in words[1:] if word.endswith(".py")), "")
    # Ray counts the starts of its dashboard's processes.
    return re.sub(r"-\d+$", "", Path(script or title).name)


def processes_of(command: subprocess.Popen[str]) -> dict[str, list[psutil.Process]]:
    """All processes that a command started, and itself, by kind."""
    found: dict[str, list[psutil.Process]] = {}
    top = psutil.Process(command.pid)
    for process in [top, *top.children(recursive=True)]:
        try:
            found.setdefault(kind_of(process, command.pid), []).append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def next_victim(
    command: subprocess.Popen[str], killed: Counter[str], draw: random.Random
) -> tuple[str, psutil.Process] | None:
    """A process of a kind that was killed least, at random among those; None where it is not worth it yet.

    While a command has started nothing, it is killed once and not each time: it would never start anything.
    """
    found = processes_of(command)
    if not found or (len(found) == 1 and sum(killed.values()) > 0):
        return None
    fewest = min(killed[kind] for kind in found)
    kind = draw.choice(sorted(kind for kind in found if killed[kind] == fewest))
    return kind, draw.choice(found[kind])


def run_under_kills(words: list[str], log: Path, toll: Toll, kills: int, draw: random.Random) -> None:
    """Call ``python`` with ``words`` until it succeeds, and kill up to ``kills`` processes meanwhile."""
    done = 0
    while True:
        toll.calls += 1
        with log.open("a") as stream:
            stream.write(f"== call {toll.calls}\n")
        start = log.stat().st_size
        with log.open("a") as stream:
            command = subprocess.Popen(
                [sys.executable, *words], cwd=ROOT, text=True,
                stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        was_killed = False
        while command.poll() is None:
            pause = draw.uniform(SHORTEST_PAUSE, LONGEST_PAUSE)
            try:
                command.wait(pause)
            except subprocess.TimeoutExpired:
                if done < kills:
                    victim = next_victim(command, toll.kills, draw)
                    if victim is None:
                        continue
                    kind, process = victim
                    with log.open("a") as stream:
                        stream.write(f"== kill {kind} ({process.pid})\n")
                    was_killed |= kind == "the command"
                    toll.kills[kind] += 1
                    done += 1
                    process.send_signal(signal.SIGKILL)
                    deadline = time.monotonic() + PATIENCE
                elif time.monotonic() > deadline:
                    toll.problems.append(f"call {toll.calls} hung")
                    kill_all(command)
        said = log.read_text()[start:]
        if command.returncode == 0:
            return
        if not was_killed and PARAGRAPHS.search(said.rpartition("== kill")[2]):
            toll.problems.append(f"call {toll.calls} ended in a traceback")


def kill_all(command: subprocess.Popen[str]) -> None:
    """End a command that hangs, and everything that it started."""
    for processes in processes_of(command).values():
        for process in processes:
            process.kill()
    command.wait()
