"""A Ray cluster of several nodes on this machine, started by ``ray start`` as on machines of one's own."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import PATIENCE, wait_until

ROOT = Path(__file__).resolve().parents[1]
RAY = str(Path(sys.executable).parent / "ray")
PORT, DASHBOARD_PORT, AGENT_PORT = 26379, 28265, 28270
"""The cluster's fixed ports, away from the defaults: another Ray may run beside it."""


@contextmanager
def cluster(nodes: list[int], environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Run a node for each number of CPUs, the first as the head; yields the environment to submit jobs with.

    Without the token in that environment, nobody may join the cluster or submit anything.
    """
    folder = f"/tmp/dimr-{os.getpid()}"
    environment = {
        **os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), **environment
    }  # fmt: skip
    environment.pop("RAY_ADDRESS", None)
    address = f"http://127.0.0.1:{DASHBOARD_PORT}"
    reached = environment | {"RAY_API_SERVER_ADDRESS": address, "RAY_TMPDIR": folder}
    started: list[subprocess.Popen[bytes]] = []

    def all_joined() -> bool:
        for number, node in enumerate(started):
            # Ray gives a node 30 seconds to start, which can be too few on a busy machine.
            if node.poll() is not None:
                leave_nothing(node)
                started[number] = start(number, nodes[number], folder, environment)
        return joined(environment) == len(started)

    try:
        for number, cpus in enumerate(nodes):
            started.append(start(number, cpus, folder, environment))
            wait_until(all_joined, f"node {number} joins")
        wait_until(lambda: asked(reached, "job", "list").returncode == 0, "the job server answers")
        yield reached
    finally:
        for node in started:
            leave_nothing(node)
            node.wait(PATIENCE)
        shutil.rmtree(folder, ignore_errors=True)


def leave_nothing(node: subprocess.Popen[bytes]) -> None:
    """End all processes of a node; one that fails to start does not end what it had started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)


def start(number: int, cpus: int, folder: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a node; number 0 is the head."""
    head = ["--head", f"--port={PORT}", f"--dashboard-port={DASHBOARD_PORT}"]
    place = [f"--address=127.0.0.1:{PORT}"] if number else head
    return subprocess.Popen(
        # A folder of its own, as on machines of their own: in a common one a node replaces the code under
        # another's running job.
        # Ports that the system chooses, because Ray's own ranges would be the same on every node.
        [RAY, "start", *place, "--block", f"--num-cpus={cpus}", "--node-ip-address=127.0.0.1",
         "--disable-usage-stats", "--object-store-memory=300000000", "--min-worker-port=0",
         "--max-worker-port=0", f"--temp-dir={folder}/{number}",
         f"--dashboard-agent-listen-port={AGENT_PORT + number}"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def asked(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """What ``ray`` says to these arguments."""
    return subprocess.run(
        [RAY, *arguments], env=environment, capture_output=True, timeout=PATIENCE, check=False, cwd=ROOT
    )


def joined(environment: dict[str, str]) -> int:
    """How many nodes the cluster has."""
    at_head = environment | {"RAY_ADDRESS": f"127.0.0.1:{PORT}"}
    return asked(at_head, "status").stdout.count(b"\n 1 node_")
