"""``ray job submit`` to a cluster of several nodes does what the command does alone."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.checkpoints.selection import newest_valid
from orchestrator.config.plain import to_yaml
from orchestrator.signals import JOB_STOP_SECONDS_VARIABLE
from tests.clusters import RAY, ROOT, asked, cluster
from tests.configs import tiny
from tests.datasets import write_numbered
from tests.spoken import not_ours
from tests.sweeps import arguments, table
from tests.waiting import PATIENCE

PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "planted-storage-key-51c0",
    "MLFLOW_TRACKING_PASSWORD": "planted-tracking-password-77ab",
}
"""Secrets in the environment of the cluster, as its nodes would have them."""


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, str]]:
    """A cluster of three nodes, with token authentication; yields the environment to submit jobs with."""
    with cluster([2, 1, 1], PLANTED) as environment:
        yield environment


def submit(environment: dict[str, str], *entry: str) -> str:
    """Run a job to its end; returns what it printed."""
    submitted = subprocess.run(
        [RAY, "job", "submit", "--working-dir", str(ROOT), "--", sys.executable, *entry],
        env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=ROOT,
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stdout[-3000:] + submitted.stderr[-3000:]
    assert "succeeded" in submitted.stdout
    return submitted.stdout


def tells_no_secret(environment: dict[str, str], said: str, folder: Path) -> None:
    """Assert that no secret is in what a job printed, Ray tells of it, its folder has, or the cluster logged.

    The folder has its runs and MLflow's database.
    """
    told = said.encode() + asked(environment, "job", "list").stdout
    for secret in (*PLANTED.values(), environment["RAY_AUTH_TOKEN"]):
        assert secret.encode() not in told
        places = [folder, environment["RAY_TMPDIR"]]
        found = subprocess.run(["grep", "-rl", secret, *places], capture_output=True, text=True)
        assert found.stdout == ""


@pytest.mark.faults
def test_a_submitted_job_trains_on_several_nodes(tmp_path: Path, head: dict[str, str]) -> None:
    dataset = write_numbered(tmp_path / "data", 60, 10)
    # With reading these are three CPUs, more than any of the nodes has.
    (tmp_path / "config.yaml").write_text(to_yaml(tiny(tmp_path, dataset.path, train={"workers": 2})))
    said = submit(head, "jobs/train_g.py", "--config", str(tmp_path / "config.yaml"))
    scored = json.loads((tmp_path / "tiny" / "metrics.json").read_text())
    assert scored["images_seen"] == 64
    # Between what the command and the job's own manager say stands our own.
    ours = said.partition("Running entrypoint for job")[2].partition("\n")[2]
    ours, mark, last = ours.partition(f"Logs      {tmp_path}/tiny/logs/")
    assert mark and "Connecting to the Ray cluster at" in ours
    assert not_ours(ours + mark + last.partition("\n")[0]) == []
    (log,) = (tmp_path / "tiny" / "logs").iterdir()
    assert "RayTrainWorker" in log.read_text()
    tells_no_secret(head, said, tmp_path)


@pytest.mark.long
def test_without_the_token_nothing_is_submitted(head: dict[str, str]) -> None:
    for stranger in (head | {"RAY_AUTH_TOKEN": "0" * 64}, head | {"RAY_AUTH_MODE": "disabled"}):
        refused = asked(stranger, "job", "submit", "--", "true")
        assert refused.returncode != 0
        assert b"uthentication" in refused.stdout + refused.stderr


@pytest.mark.long
def test_a_submitted_sweep_ends_in_a_table_and_tells_no_secret(tmp_path: Path, head: dict[str, str]) -> None:
    dataset = write_numbered(tmp_path / "data", 60, 10)
    branches = [{"name": "1R", "branches": 1, "match": "parameters"}, {"name": "2R"}]
    axes = [{"name": "branches", "options": branches}]
    said = submit(head, "jobs/ablate.py", *arguments(tmp_path, dataset, axes=axes), "--finalists", "0")
    rows = table(tmp_path)
    assert [row["branches"] for row in rows] == ["1R", "2R"]
    assert {row["status"] for row in rows} <= {"finished", "pruned"}
    assert all(float(row["fd8"]) > 0 for row in rows)
    finished = [row for row in rows if row["status"] == "finished"]
    assert finished
    assert all(f"{float(row['fd8']):.4g}" in said for row in finished)
    tells_no_secret(head, said, tmp_path)


@pytest.mark.faults
def test_stopping_a_job_writes_a_checkpoint_where_it_has_the_time(
    tmp_path: Path, head: dict[str, str]
) -> None:
    dataset = write_numbered(tmp_path / "data", 50, 8)
    config = tiny(tmp_path, dataset.path, train={"images": 10**7, "checkpoint_every_images": 10**7})
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    runtime = json.dumps({"env_vars": {JOB_STOP_SECONDS_VARIABLE: "120"}})
    entry = [sys.executable, "jobs/train_g.py", "--config", str(tmp_path / "config.yaml")]
    subprocess.run(
        [RAY, "job", "submit", "--no-wait", "--submission-id", "stopped", "--runtime-env-json", runtime,
         "--working-dir", str(ROOT), "--", *entry],
        env=head, capture_output=True, timeout=PATIENCE, check=True, cwd=ROOT,
    )  # fmt: skip
    logs = subprocess.Popen(
        [RAY, "job", "logs", "--follow", "stopped"], env=head, text=True, stdout=subprocess.PIPE
    )
    assert logs.stdout is not None
    said = []
    for line in logs.stdout:
        said.append(line)
        if line.startswith("train "):
            break
    stopped = subprocess.run(
        [RAY, "job", "stop", "stopped"], env=head, capture_output=True, timeout=PATIENCE, check=True
    )
    logs.kill()
    assert not any("kills this job" in line for line in said)
    newest = newest_valid(config.directory)
    assert newest is not None and newest.images_seen > 0, stopped.stdout
