"""MLflow stores for tests: copies of a SQLite template (making one takes seconds), and a real server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from benchmarks.support.ports import free_port
from study.storage.layout import Storage
from study.tracking.mlflow_store import MlflowStore


@cache
def _template() -> Path:
    path = Path(mkdtemp(prefix="mlflow-template-")) / "mlflow.db"
    MlflowStore(f"sqlite:///{path}", "template", path.parent).ping()
    return path


def copied_template(folder: Path) -> Path:
    """Puts an empty MLflow database into a folder and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(_template(), folder / "mlflow.db"))


def prepare_store(storage: Storage) -> MlflowStore:
    """Puts an empty MLflow database in the place of the storage's default store and returns the store."""
    copied_template(storage.root)
    return MlflowStore(storage.tracking_uri, storage.study, storage.artifact_root)


def runs_by_key(store: MlflowStore, kind: str = "run") -> dict[str, Any]:
    """All runs of the store's experiment; fails when a key has two."""
    found = list(store.runs({"kind": kind}))
    keys = [run.data.tags["run_key"] for run in found]
    assert len(keys) == len(set(keys)), f"a key has several runs: {sorted(keys)}"
    return dict(zip(keys, found, strict=True))


def history(store: MlflowStore, run_id: str, metric: str) -> list[tuple[int, float]]:
    """(step, value) of every point of a metric."""
    points = store.client.get_metric_history(run_id, metric)
    return sorted((point.step, point.value) for point in points)


class Server:
    """A real ``mlflow server`` on loopback, which can be killed and started again with the same data."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(_template(), folder / "server.db")
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        words = f"-m mlflow server --host 127.0.0.1 --port {self.port} --workers 1".split()
        store = ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        store += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *words, *store],
                env={**os.environ, **environment},
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError("the MLflow server did not start")

    def kill(self) -> None:
        """Kills the server and its workers with SIGKILL."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None
