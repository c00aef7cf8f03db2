"""cluster/slurm/run.sh on a real Slurm of two nodes, each in a network of its own as machines are."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.checkpoints.selection import newest_valid
from orchestrator.config.plain import to_yaml
from tests.configs import tiny
from tests.datasets import write_numbered
from tests.waiting import PATIENCE, wait_until

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = [f"dimr-{os.getpid()}-{node}" for node in (1, 2)]
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(10.99.0.1)
SlurmUser=root
AuthInfo=socket={folder}/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
StateSaveLocation={folder}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/%n
FirstJobId={first_job}
NodeName=n1 NodeHostname={host} NodeAddr=10.99.0.1 CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=10.99.0.2 CPUs=2
PartitionName=all Nodes=ALL Default=YES
"""

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(
        shutil.which("slurmctld") is None or os.geteuid() != 0,
        reason="needs Slurm (apt-get install slurm-wlm), and root for its networks",
    ),
]


@dataclass(frozen=True)
class Slurm:
    """The cluster, as its users see it."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str) -> str:
        """Run a command on the first node; returns what it prints."""
        return subprocess.run(
            on_node(0, *command), env=self.environment, cwd=ROOT, capture_output=True, text=True,
            timeout=PATIENCE, check=True,
        ).stdout  # fmt: skip

    def submit(self, *job: str) -> str:
        """Queue the script with a job of ours; returns the job's number."""
        options = ["--parsable", "--nodes=2", "--gpus-per-node=0", f"--output={self.folder}/%j.out"]
        return self.run("sbatch", *options, "cluster/slurm/run.sh", *job).strip()

    def output(self, job: str) -> str:
        path = self.folder / f"{job}.out"
        return path.read_text() if path.exists() else ""

    def terminate(self, job: str) -> None:
        """Terminate a job, as ``--signal=B:TERM@300`` does when the time is nearly up."""
        self.run("scancel", "--signal=TERM", "--batch", job)

    def ended(self, job: str) -> tuple[str, str]:
        """Wait for a job's end; returns its state and exit code."""
        state, code = "", ""

        def has_ended() -> bool:
            nonlocal state, code
            shown = self.run("scontrol", "show", "job", job)
            state, code = (re.findall(rf"{key}=(\S+)", shown)[0] for key in ("JobState", "ExitCode"))
            return state not in {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING"}

        wait_until(has_ended, f"the end of job {job}")
        return state, code


def on_node(node: int, *command: str) -> list[str]:
    """The command, made to run in a node's network.

    ``ip netns exec`` would hide the control groups that slurmd asks for.
    """
    return ["nsenter", f"--net=/run/netns/{NETWORKS[node]}", *command]


def connect_nodes() -> None:
    """Make two networks with a cable between them, and nothing else."""
    first, second = NETWORKS
    commands = [f"netns add {first}", f"netns add {second}",
                f"link add cable netns {first} type veth peer name cable netns {second}"]  # fmt: skip
    for number, network in enumerate(NETWORKS, 1):
        commands += [f"-n {network} addr add 10.99.0.{number}/24 dev cable", f"-n {network} link set lo up",
                     f"-n {network} link set cable up",
                     f"-n {network} route add default dev cable"]  # fmt: skip
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A Slurm with two nodes of two CPUs, which nobody outside of it can reach."""
    folder = tmp_path_factory.mktemp("slurm")
    # Ray has sockets below it, whose paths must be short.
    ray_folder = tempfile.mkdtemp(prefix="dimr-")
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(folder=folder, host=socket.gethostname(), first_job=os.getpid())
    )
    (folder / "key").touch(mode=0o600)
    (folder / "key").write_bytes(os.urandom(128))
    munged = ["munged", "--foreground", "--force", f"--socket={folder}/munge", f"--key-file={folder}/key"]
    munged += [f"--pid-file={folder}/munge.pid", f"--seed-file={folder}/seed"]
    environment = {**os.environ, "SLURM_CONF": f"{folder}/slurm.conf", "RAY_TMPDIR": ray_folder}
    cluster, daemons = Slurm(folder, environment), []

    def start(node: int, *command: str) -> None:
        log = (folder / f"{command[0]}-{node}.log").open("w")
        daemons.append(subprocess.Popen(on_node(node, *command), env=environment, stdout=log, stderr=log))

    try:
        connect_nodes()
        start(0, *munged)
        wait_until((folder / "munge").exists, "munged answers")
        start(0, "slurmctld", "-D")
        for node in (0, 1):
            start(node, "slurmd", "-D", "-N", f"n{node + 1}")
        wait_until(lambda: cluster.run("sinfo", "-h", "-o", "%D %T") == "2 idle\n", "two idle nodes")
        yield cluster
    finally:
        for network in NETWORKS:
            inside = subprocess.run(["ip", "netns", "pids", network], capture_output=True, text=True).stdout
            for process in inside.split():
                os.kill(int(process), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", network])
        for daemon in daemons:
            daemon.wait(PATIENCE)
        shutil.rmtree(ray_folder, ignore_errors=True)


def token_file(job: str) -> Path:
    return ROOT / f".ray-token-{job}"


def test_a_job_trains_on_both_nodes_to_its_end(tmp_path: Path, slurm: Slurm) -> None:
    dataset = write_numbered(tmp_path / "data", 60, 10)
    # With reading these are three CPUs, more than one of the nodes has.
    (tmp_path / "config.yaml").write_text(to_yaml(tiny(tmp_path, dataset.path, train={"workers": 2})))
    job = slurm.submit("jobs/train_g.py", "--config", f"{tmp_path}/config.yaml")
    wait_until(lambda: token_file(job).exists() and token_file(job).read_text(), "the token")
    token = token_file(job).read_text().strip()
    assert stat.S_IMODE(token_file(job).stat().st_mode) == 0o600

    ended, said = slurm.ended(job), slurm.output(job)
    assert ended == ("COMPLETED", "0:0"), said[-3000:]
    assert "Ray has 2 nodes, 4 CPUs and 0 GPUs." in said
    assert json.loads((tmp_path / "tiny" / "metrics.json").read_text())["images_seen"] == 64
    assert not token_file(job).exists()
    assert token not in said


def test_sigterm_writes_a_checkpoint_and_the_same_command_goes_on(tmp_path: Path, slurm: Slurm) -> None:
    dataset = write_numbered(tmp_path / "data", 60, 10)

    def submit(images: int) -> str:
        train = {"images": images, "workers": 2, "checkpoint_every_images": 10**7}
        (tmp_path / "config.yaml").write_text(to_yaml(tiny(tmp_path, dataset.path, train=train)))
        return slurm.submit("jobs/train_g.py", "--config", f"{tmp_path}/config.yaml")

    job = submit(10**7)
    wait_until(lambda: re.search(r"^train \d", slurm.output(job), re.MULTILINE), "training")
    slurm.terminate(job)
    assert slurm.ended(job) == ("FAILED", "130:0"), slurm.output(job)[-3000:]
    newest = newest_valid(str(tmp_path / "tiny"))
    assert newest is not None and newest.images_seen > 0
    assert f"Stopped at {newest.images_seen} of 10000000 images, with a checkpoint" in slurm.output(job)

    job = submit(newest.images_seen + 64)
    assert slurm.ended(job) == ("COMPLETED", "0:0"), slurm.output(job)[-3000:]
    assert f"Continuing {tmp_path}/tiny from {newest.images_seen} images." in slurm.output(job)
    scored = json.loads((tmp_path / "tiny" / "metrics.json").read_text())
    assert scored["images_seen"] == newest.images_seen + 64


def test_slurm_learns_how_a_job_failed(slurm: Slurm) -> None:
    job = slurm.submit("-c", "import sys; sys.exit(3)")
    assert slurm.ended(job) == ("FAILED", "3:0"), slurm.output(job)
    assert not token_file(job).exists()


def test_sigterm_ends_a_job_whose_cluster_is_not_up_yet(slurm: Slurm) -> None:
    job = slurm.submit("-c", "import time; time.sleep(3600)")
    wait_until(token_file(job).exists, "the token")
    slurm.terminate(job)
    assert slurm.ended(job)[0] == "FAILED"
    assert not token_file(job).exists()
