"""What a training worker does before its first step."""

import subprocess
import sys
from pathlib import Path

from tests.waiting import PATIENCE

READS = """
import sys
from types import SimpleNamespace

import torch
from orchestrator.training.worker import _reading

def blocks(**options):
    yield sorted(name for name in sys.modules if name.startswith("torch._dynamo.polyfills"))

with _reading(SimpleNamespace(data=SimpleNamespace(iter_batches=blocks))) as tables:
    (then,) = tables
    torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
    now = sorted(name for name in sys.modules if name.startswith("torch._dynamo.polyfills"))
    print(len(now) > 0, then == now)
"""


def test_reading_begins_when_no_module_is_taken_away_any_more() -> None:
    """Pickling fails in any thread while torch._dynamo's polyfills are loaded, as AdamW does."""
    found = subprocess.run(
        [sys.executable, "-c", READS],
        cwd=Path(__file__).resolve().parents[4], capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert found.stdout == "True True\n", found.stdout + found.stderr
