"""Ray's own processes are killed while they start: the start does not wait for them."""

import os
import subprocess
import sys

import pytest

from tests.waiting import PATIENCE

pytestmark = pytest.mark.faults

KILL = """
import os, psutil
driver, killed = psutil.Process(os.getppid()), set()
while len(killed) < 2:
    for process in driver.children(recursive=True):
        try:
            program = process.cmdline()[1:2]
            if program and program[0].endswith("default_worker.py") and process.pid not in killed:
                process.kill()
                killed.add(process.pid)
        except psutil.Error:
            pass
print(len(killed), "killed", flush=True)
"""
"""Kills the first two processes of its parent's Ray that are to become workers, before they are any."""
START = f"""
import subprocess, sys
from orchestrator.embedded_ray import start_embedded
import ray
killer = subprocess.Popen([sys.executable, "-c", {KILL!r}])
start_embedded()
print("answer", ray.get(ray.remote(lambda: 42).remote()), flush=True)
killer.wait()
"""


def test_processes_killed_while_they_start_are_replaced() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_worker_register_timeout_seconds": "20"}
    said = subprocess.run(
        [sys.executable, "-c", START], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert "2 killed" in said.stdout, said.stdout + said.stderr
    assert "answer 42" in said.stdout, said.stdout + said.stderr
