"""`ray start --head` and `ray job submit` do what the command does alone."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.latents.format import LatentDataset

ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).parent / "ray")


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Ray head of its own on free loopback ports; yields the environment to reach it with."""
    # All but the random ones; another Ray may run beside it.
    ports = {"port": 26379, "dashboard-port": 28265, "dashboard-agent-listen-port": 28266}
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": f"/tmp/dimr-{os.getpid()}"}
    environment.pop("RAY_ADDRESS", None)
    command = [
        RAY,
        "start",
        "--head",
        "--num-cpus=4",
        "--object-store-memory=500000000",
        "--disable-usage-stats",
    ]
    command += [f"--temp-dir={environment['RAY_TMPDIR']}", "--node-ip-address=127.0.0.1"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    process = subprocess.Popen(
        [*command, "--block"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield environment | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{ports['dashboard-port']}"}
    finally:
        process.terminate()
        process.wait(180)
        shutil.rmtree(environment["RAY_TMPDIR"], ignore_errors=True)


def wait_until_ready(environment: dict[str, str]) -> None:
    """The job server answers some seconds after the head; ask it until it does."""
    for _ in range(60):
        listed = subprocess.run(
            [RAY, "job", "list"], env=environment, capture_output=True, timeout=60, check=False
        )
        if listed.returncode == 0:
            return
    raise AssertionError(listed.stderr.decode())


def test_a_submitted_job_trains_and_scores(
    tmp_path: Path, head: dict[str, str], digits: LatentDataset
) -> None:
    wait_until_ready(head)
    entry = [
        sys.executable, "jobs/train_g.py", "--config", "quickstart", f"--run.root={tmp_path}",
        f"--data.path={digits.path}", "--train.images=160", "--train.checkpoint_every_images=160",
        "--train.preview_every_images=0", "--evaluation.images=20", "--evaluation.class_agreement=false",
        "--sampling.sampler.steps=2",
    ]  # fmt: skip
    submitted = subprocess.run(
        [RAY, "job", "submit", "--working-dir", str(ROOT), "--", *entry],
        env=head, capture_output=True, text=True, timeout=800, check=False, cwd=ROOT,
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stdout[-3000:] + submitted.stderr[-3000:]
    assert "succeeded" in submitted.stdout
    scored = json.loads((tmp_path / "quickstart" / "metrics.json").read_text())
    assert scored["images_seen"] == 160
