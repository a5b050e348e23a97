"""Real Ray clusters for tests: a head started by `ray start` on loopback, behind a token of its own."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.support.ports import free_ports
from tests.helpers.waiting import wait_gone

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 240.0  # seconds; the machine of a test may be busy


@dataclass(frozen=True)
class Head:
    """A running head.

    Attributes:
        address: ``host:port`` that drivers join.
        dashboard: ``http://127.0.0.1:port``, or empty.
        home: The user's home folder, with the token in ``.ray/auth_token``.
        environment: Of a process that belongs to this user.
    """

    address: str
    dashboard: str
    home: Path
    environment: dict[str, str] = field(repr=False)

    @property
    def token(self) -> str:
        return (self.home / ".ray" / "auth_token").read_text()


def user_environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a user without any setting of Ray, MLflow or the study but these."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RAY_", "MLFLOW_", "STUDY_", "TUNE_", "PYTEST_"))
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    own = {
        "HOME": str(home),
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
    }
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true", "HF_HUB_OFFLINE": "1"}
    return {**kept, **own, **quiet, "RAY_worker_niceness": "0", **more}


@contextlib.contextmanager
def ray_head(*, cpus: int = 1, dashboard: bool = False) -> Iterator[Head]:
    """Starts a head on loopback whose token lies in a home folder of its own; ends it with all its processes."""
    home = Path(tempfile.mkdtemp(prefix="head-", dir="/tmp"))
    try:
        (home / ".ray").mkdir(mode=0o700)
        token = home / ".ray" / "auth_token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        environment = user_environment(
            home, RAY_AUTH_MODE="token", RAY_TMPDIR=str(home), RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0"
        )
        client, agent = free_ports(2)
        words = [
            "ray", "start", "--head", "--port=0", f"--num-cpus={cpus}", "--num-gpus=0", "--node-ip-address=127.0.0.1",
            "--object-store-memory=100000000", f"--ray-client-server-port={client}",
            f"--dashboard-agent-listen-port={agent}",
            "--disable-usage-stats", "--dashboard-host=127.0.0.1", "--dashboard-port=0",
            f"--include-dashboard={'true' if dashboard else 'false'}",
        ]  # fmt: skip
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=DEADLINE, cwd=home
        )
        assert done.returncode == 0, done.stdout + done.stderr
        text = re.sub(r"\x1b\[\d+m", "", done.stdout + done.stderr)
        address = (home / "ray" / "ray_current_cluster").read_text().strip()
        url = re.search(r"RAY_API_SERVER_ADDRESS='(http://[^']+)'", text)
        yield Head(address, url[1] if url else "", home, environment)
    finally:
        end_processes_of(home)
        shutil.rmtree(home, ignore_errors=True)


def end_processes_of(home: Path) -> None:
    """Ends every process that lives in a home folder."""
    mine = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("HOME") == str(home) and process.pid != os.getpid():
                mine.append(process)
    for process in mine:
        with contextlib.suppress(psutil.Error):
            process.kill()
    wait_gone(mine, 30)
