"""Servers in processes of their own, which can be killed and started again at the same address."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import PATIENCE, wait_until


def free_port() -> int:
    """A free port below those that the system hands out itself.

    While the server is dead, nobody else takes it.
    """
    for port in random.sample(range(20000, 30000), 100):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


class Server:
    """A server that answers HTTP at ``uri`` between :meth:`start` and :meth:`kill`."""

    def __init__(self, port: int, *arguments: str, **environment: str) -> None:
        self.uri = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, "-m", *arguments, "--port", str(port)]
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server; returns when it answers."""
        self._process = subprocess.Popen(
            self._command, env=self._environment, start_new_session=True, cwd=Path(__file__).parents[1],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(self._answers, f"{' '.join(self._command)} answers")

    def kill(self) -> None:
        """Send SIGKILL, if it runs: its connections break off, and new ones are refused."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(PATIENCE)
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, f"{self._command} ended"
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True


@contextmanager
def stopped_at_the_end(server: Server) -> Iterator[Server]:
    """Kill the server when the context ends."""
    try:
        yield server
    finally:
        server.kill()


def mlflow_server(folder: Path) -> Server:
    """An MLflow server with its database in ``folder``; it is not started yet."""
    return Server(
        free_port(), "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/server.db",
        "--artifacts-destination", f"{folder}/artifacts", "--host", "127.0.0.1", "--workers", "1",
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
    )  # fmt: skip


def s3_proxy(endpoint: str) -> Server:
    """A proxy to an S3 server, which keeps what it has while the proxy is dead; it is not started yet."""
    return Server(free_port(), "tests.flaky_s3", "--endpoint", endpoint)
