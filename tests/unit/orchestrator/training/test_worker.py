"""What a training worker does before its first step."""

import subprocess
import sys
from pathlib import Path

READS_WHILE_ADAMW_IS_BUILT = """
import pickle, sys
from operator import getitem
from types import SimpleNamespace

import torch
from orchestrator.training.worker import _reading

finished = False

def blocks(**options):
    while not finished:
        pickle.dumps(getitem)
    yield "a block"

sys.setswitchinterval(1e-6)
with _reading(SimpleNamespace(data=SimpleNamespace(iter_batches=blocks))) as tables:
    torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
    finished = True
    print(*tables)
"""


def test_reading_pickles_while_the_optimizer_loads_what_it_needs() -> None:
    found = subprocess.run(
        [sys.executable, "-c", READS_WHILE_ADAMW_IS_BUILT],
        cwd=Path(__file__).resolve().parents[4], capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert found.stdout == "a block\n", found.stderr
