"""A proxy in front of an S3 server that fails now and then.

It can also run as a process of its own, which can be killed.
"""

import argparse
import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Fault = Callable[[int], str]
"""From the number of a request to "" (pass it on), "503" (answer so) or "drop" (hang up)."""


@contextmanager
def flaky(endpoint: str, fault: Fault, port: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Run the proxy; yields its endpoint, and what was done with each request so far."""
    target, faults, lock = urlsplit(endpoint), list[str](), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.read_body()
            with lock:
                kind = fault(len(faults))
                faults.append(kind)
            if kind == "drop":
                self.close_connection = True
                return
            if kind == "503":
                self.answer(503, [], b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>")
                return
            connection = http.client.HTTPConnection(target.hostname or "", target.port or 80, timeout=30)
            hop = ("expect", "transfer-encoding", "content-length")
            headers = {k: v for k, v in self.headers.items() if k.lower() not in hop}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            content = response.read()
            self.answer(response.status, response.getheaders(), content)
            connection.close()

        def read_body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(chunks)

        def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response(status)
            skipped = {"transfer-encoding", "connection", "server", "date"}
            if self.command != "HEAD":
                skipped.add("content-length")
                self.send_header("Content-Length", str(len(content)))
            for name, value in headers:
                if name.lower() not in skipped:
                    self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", faults
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    with flaky(arguments.endpoint, lambda number: "", arguments.port):
        threading.Event().wait()
