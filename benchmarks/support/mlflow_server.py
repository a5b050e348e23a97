"""A real ``mlflow server`` on loopback, over any backend store, with artifacts that it serves itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.support.ports import free_port

START_SECONDS = 180


@dataclass
class MlflowServer:
    """A server in a process group of its own, which can be killed and started again with the same data.

    Attributes:
        folder: Of its log and its artifacts.
        backend: URI of its store.
        environment: Beside this process's own, such as the file of the database's password.
        options: Further words of the command, such as ``--app-name basic-auth``.
    """

    folder: Path
    backend: str
    environment: Mapping[str, str] = field(default_factory=dict)
    options: Sequence[str] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """The tracking URI."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def artifacts(self) -> Path:
        """Where the artifacts come to lie."""
        return self.folder / "artifacts"

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        words += ["--workers", "1", "--backend-store-uri", self.backend, "--serve-artifacts"]
        words += ["--artifacts-destination", str(self.artifacts), *self.options]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "mlflow.log").open("ab") as log:
            self.process = subprocess.Popen(
                words,
                env={**os.environ, **quiet, **self.environment},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return
            time.sleep(0.2)
        raise AssertionError("the MLflow server did not start:\n" + self.log())

    def kill(self) -> None:
        """Kills the server and its workers with SIGKILL."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)
            self.process = None

    def log(self) -> str:
        """What the server wrote."""
        return (self.folder / "mlflow.log").read_text(errors="replace")


@contextlib.contextmanager
def mlflow_server(
    folder: Path, backend: str, environment: Mapping[str, str] | None = None, options: Sequence[str] = ()
) -> Iterator[MlflowServer]:
    """Runs a server for the length of a block."""
    server = MlflowServer(folder, backend, environment or {}, options)
    try:
        server.start()
        yield server
    finally:
        server.kill()
