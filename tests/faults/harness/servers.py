"""A proxy before a real MLflow server that can refuse, answer 500, or accept and never answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.support.mlflow_server import MlflowServer

_ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 5\r\nConnection: close\r\n\r\nfault"


@dataclass
class Proxy:
    """Forwards connections to `server` while `mode` is ``ok``.

    Attributes:
        mode: ``ok``; ``error`` answers 500; ``hang`` accepts and says nothing.
        requests: Connections taken in each mode.
    """

    server: MlflowServer
    mode: str = "ok"
    requests: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        """The tracking URI."""
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def set(self, mode: str) -> None:
        """Changes the mode; connections that are open break."""
        self.mode = mode
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stops listening."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.set("closed")

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self.requests[self.mode] = self.requests.get(self.mode, 0) + 1
        self._open.add(client)
        try:
            if self.mode == "error":
                client.recv(65536)
                client.sendall(_ERROR)
            elif self.mode == "ok":
                self._forward(client)
            else:
                while self.mode == "hang" and client.recv(65536):
                    pass
        except OSError:
            pass
        finally:
            self._open.discard(client)
            client.close()

    def _forward(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as upstream:
            upstream.settimeout(None)
            self._open.add(upstream)
            back = threading.Thread(target=_copy, args=(upstream, client), daemon=True)
            back.start()
            _copy(client, upstream)
            back.join(30)
            self._open.discard(upstream)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def make_server(folder: Path) -> MlflowServer:
    """Starts an MLflow server over SQLite."""
    folder.mkdir(parents=True, exist_ok=True)
    server = MlflowServer(folder, f"sqlite:///{folder / 'mlflow.db'}")
    server.start()
    return server
