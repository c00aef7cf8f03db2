"""The tests for GPUs hold on a CPU, where they can run there, so that they are right when there is a GPU."""

import os
import subprocess
import sys

import pytest
import torch

from tests.commands import ROOT


@pytest.mark.faults
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, on which `-m gpu` runs them")
def test_they_hold_on_a_cpu() -> None:
    words = [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-p", "no:cacheprovider", "tests/gpu"]
    done = subprocess.run(
        words, cwd=ROOT, env=os.environ | {"TRY_ON_CPU": "1"}, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout.splitlines()[-1]
