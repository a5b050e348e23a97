"""A reverse proxy with basic authentication, as it stands before many an MLflow server."""

from __future__ import annotations

import base64
import contextlib
import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@contextlib.contextmanager
def gatekeeper(target: str, user: str, password: str) -> Iterator[tuple[str, list[int]]]:
    """Lets only one user through to the server at `target`; yields its own URI and the status codes that it gave."""
    wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    host, port = urlsplit(target).hostname, urlsplit(target).port
    codes: list[int] = []

    class Gate(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != wanted:
                return self.answer(401, [("WWW-Authenticate", "Basic")], b"who are you?")
            connection = http.client.HTTPConnection(str(host), port, timeout=60)
            try:
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                kept = [item for item in answer.getheaders() if item[0].lower() == "content-type"]
                self.answer(answer.status, kept, content)
            except OSError:
                self.answer(502, [], b"the server is away")
            finally:
                connection.close()

        def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            codes.append(status)
            self.send_response(status)
            for name, value in [*headers, ("Content-Length", str(len(content)))]:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    for verb in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        setattr(Gate, f"do_{verb}", Gate.handle_any)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", codes
    finally:
        server.shutdown()
        server.server_close()
