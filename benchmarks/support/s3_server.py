"""A real S3 server (moto's) in a process of its own, and a proxy before it that can be slow, refuse, or count.

``python -m benchmarks.support.s3_server`` prints the server's port and serves until its input ends.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUCKET = "studies"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key-of-the-tests",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass
class Proxy:
    """An HTTP proxy before the server.

    Attributes:
        delay: Seconds before each answer.
        answer: Given method and path, the status to answer instead of asking the server; 0 drops the connection;
            None asks.
        requests: How many of each method were seen.
    """

    port: int
    delay: float = 0.0
    answer: Callable[[str, str], int | None] = lambda method, path: None
    requests: Counter[str] = field(default_factory=Counter)
    seen: list[str] = field(default_factory=list)

    def url(self, prefix: str) -> str:
        return f"s3://{BUCKET}/{prefix}?endpoint_override=127.0.0.1:{self.port}&scheme=http"


@contextlib.contextmanager
def s3_server() -> Iterator[int]:
    """Starts the server with an empty bucket; yields its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.support.s3_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=os.environ | CREDENTIALS,
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
        yield port
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def proxy(server: int) -> Iterator[Proxy]:
    """Serves a proxy on a free port of loopback."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self._body()
            known.requests[self.command] += 1
            known.seen.append(f"{self.command} {self.path}")
            time.sleep(known.delay)
            status = known.answer(self.command, self.path)
            if status == 0:
                self.close_connection = True
                return
            if status is not None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            connection = http.client.HTTPConnection("127.0.0.1", server, timeout=60)
            dropped = ("expect", "transfer-encoding")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in (
                    "transfer-encoding",
                    "connection",
                    "content-length",
                    "date",
                    "server",
                ):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
            connection.close()

        def _body(self) -> bytes | None:
            if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
                length = int(self.headers.get("Content-Length") or 0)
                return self._exactly(length) if length else None
            body = b""
            while True:
                size = int(self.rfile.readline().split(b";")[0] or b"0", 16)
                body += self._exactly(size)
                self._exactly(2)
                if not size:
                    return body

        def _exactly(self, size: int) -> bytes:
            """A store keeps no half objects: what a client sent that was killed meanwhile is nothing."""
            content = self.rfile.read(size)
            if len(content) < size:
                raise ConnectionError("the client is gone")
            return content

        def log_message(self, *_: object) -> None:
            pass

    for method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
        setattr(Handler, f"do_{method}", Handler.handle_any)

    class Listener(http.server.ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that is killed leaves its connections; that is not worth a traceback."""
            if not isinstance(sys.exc_info()[1], ConnectionError):
                super().handle_error(request, client_address)  # type: ignore[arg-type]

    listener = Listener(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    known = Proxy(listener.server_port)
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        yield known
    finally:
        listener.shutdown()
        listener.server_close()


def main() -> None:
    """Serves until the input ends."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
