"""A real S3 server on loopback, in a process of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from orchestrator import storage
from orchestrator.errors import UserError

BUCKET = "scale"
START_SECONDS = 300.0


@contextmanager
def s3_server() -> Iterator[str]:
    """Run a server with an empty bucket, and name it in this process's environment; yields the bucket's URI.

    Raises:
        UserError: moto is not installed, or the server does not start.
    """
    if find_spec("moto") is None:
        raise UserError("S3 is measured with moto's server, which is not installed: `uv sync --all-groups`.")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    before = dict(os.environ)
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "scale",
        "AWS_SECRET_ACCESS_KEY": "scale", "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _forget_connections()
    try:
        _wait_for(server, port)
        storage.s3_objects().mkdir(BUCKET)
        yield f"s3://{BUCKET}"
    finally:
        server.kill()
        server.wait()
        os.environ.clear()
        os.environ.update(before)
        _forget_connections()


@contextmanager
def sent_bytes() -> Iterator[list[int]]:
    """Count the bytes of bodies that this process sends to S3 for small objects; they are in the list."""
    client, sent = storage.s3_objects().s3, [0]

    def count(request: Any, **unused: Any) -> None:
        body = request.body
        sent[0] += len(body) if isinstance(body, bytes) else body.getbuffer().nbytes if body else 0

    client.meta.events.register("before-send.s3", count)
    try:
        yield sent
    finally:
        client.meta.events.unregister("before-send.s3", count)


def _forget_connections() -> None:
    storage.connect_to_s3.cache_clear()
    storage.s3_objects.cache_clear()


def _wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"The S3 server did not start ({error}). Try again.") from error
            time.sleep(0.1)
