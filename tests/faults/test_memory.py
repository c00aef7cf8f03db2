"""Ray ends processes because memory runs out: a paragraph, and the same command completes the run."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from orchestrator.config.plain import to_yaml
from tests.commands import ROOT
from tests.configs import tiny
from tests.datasets import write_numbered
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("mlflow_store")]
ALLOWED_BYTES = 0.8e9
"""What the run may use before Ray's monitor ends its processes; two workers need more."""


def test_a_run_that_needs_more_memory_than_there_is(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 60, 10, size=8)
    config = tiny(tmp_path, dataset.path, model={"input_size": 8}, train={"workers": 2})
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    words = [sys.executable, "jobs/train_g.py", "--config", str(tmp_path / "config.yaml")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + ALLOWED_BYTES) / memory.total
    monitor = {"RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "200"}
    ended = subprocess.run(
        words, cwd=ROOT, env=environment | monitor, capture_output=True, text=True, timeout=PATIENCE
    )
    said = ended.stderr.rpartition("Error: ")[2]
    assert ended.returncode in (1, 2), ended.stdout + ended.stderr
    assert "Memory ran out on" in said and "most of it by" in said and "Traceback" not in said
    assert "--sampling.actors" in said
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
