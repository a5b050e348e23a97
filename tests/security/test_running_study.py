"""A study while it runs: what listens, who is let in, where the token is, and that planted pickles are never read."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import pickle
import shutil
import stat
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from study.storage.layout import Storage
from tests.helpers.canary import Canary
from tests.helpers.small_studies import results, small_study, storage_of
from tests.helpers.watched_study import Running, driver, outcome, words_of

# Who may listen, by a word of its command line. Everything else fails the test: it must be understood and added here.
OWNERS = {
    "tests.helpers.launch_study": "the driver, as Ray's core worker: gRPC, token",
    "gcs_server": "Ray's control store: gRPC, token",
    "raylet/raylet": "Ray's node manager and object manager: gRPC, token",
    "ray::RunWorker": "a worker with a run: gRPC, token",
    "ray::IDLE": "a worker that waits: gRPC, token",
    "ray::DashboardAgent": "Ray's node agent: gRPC with token; metrics by HTTP without (numbers only)",
    "ray::RuntimeEnvAgent": "Ray's environment agent: HTTP, token",
}
LAUNCHING = ("/api/job_agent/jobs/", "/api/jobs/", "/get_or_create_runtime_env", "/logs", "/api/v0/tasks")


@pytest.fixture(scope="module")
def running(nest: Path) -> Iterator[Running]:
    """A study whose folder was poisoned before it went on, half-way through."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="security-", dir=memory if memory.is_dir() else None))
    spec = small_study("watched", search={"trials": 2}, confirm={"seeds": [100]})
    storage = storage_of(folder / "storage", spec, {"": {"step_seconds": 0.2}})
    poison(storage, pickle.dumps(Canary(nest)))
    try:
        with driver(spec, storage, folder) as found:
            found.wait_for_results(1)
            poison(storage, pickle.dumps(Canary(nest)))  # and again where Tune and the runs write now
            storage_of(
                storage.root, spec, {"": {"step_seconds": 5.0}}
            )  # or it might end before it is looked at
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def poison(storage: Storage, content: bytes) -> None:
    """Puts pickles wherever Ray Tune, torch or Optuna would look for their state."""
    names = ("tuner.pkl", "trainable.pkl", "searcher-state.pkl", "search_gen_state.pkl", "sampler.pkl")
    tune = storage.folder / "ray"
    tune.mkdir(parents=True, exist_ok=True)
    run = storage.folder / "runs" / "search" / "cosine" / "0000-cat-1-s0"
    (run / "checkpoint").mkdir(parents=True, exist_ok=True)
    for folder in [
        tune,
        storage.folder,
        run / "checkpoint",
        *(path for path in tune.glob("*") if path.is_dir()),
    ]:
        for name in (*names, "pytorch_model.bin", "experiment_state-2026-01-01_00-00-00.pkl", "optimizer.pt"):
            (folder / name).write_bytes(content)


def listening(running: Running) -> list[tuple[psutil.Process, str, int]]:
    """Processes, addresses and ports of all sockets that take connections or datagrams."""
    found = []
    for process in running.tree():
        try:
            connections = process.net_connections("inet")
        except psutil.Error:
            continue
        found += [
            (process, connection.laddr.ip, connection.laddr.port)
            for connection in connections
            if connection.laddr and (connection.status == psutil.CONN_LISTEN or connection.type == 2)
        ]
    return found


def loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def test_every_socket_is_on_loopback_and_has_a_known_owner(running: Running) -> None:
    found = listening(running)
    words = {process.pid: " ".join(words_of(process)) for process, _, _ in found}
    assert any("raylet/raylet" in text for text in words.values())
    strangers = [
        f"{words[process.pid][:80]} listens on {address}:{port}"
        for process, address, port in found
        if not loopback(address) or not any(owner in words[process.pid] for owner in OWNERS)
    ]
    assert strangers == []


def test_no_http_port_does_anything_without_the_token(running: Running) -> None:
    """Loopback is shared by all users of a machine, and an agent without a guard would run their code."""
    answered = []
    for _, _, port in listening(running):
        for path in LAUNCHING:
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=b'{"entrypoint": "id"}')
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    answered.append((port, path, answer.status))
            except urllib.error.HTTPError as error:
                if error.code not in (401, 403, 404, 405):
                    answered.append((port, path, error.code))
            except (OSError, http.client.BadStatusLine):
                pass  # no HTTP: Ray's gRPC
    assert answered == []


def test_the_control_store_lets_nobody_in_without_the_token(running: Running) -> None:
    port = next(
        port for process, _, port in listening(running) if "gcs_server" in " ".join(words_of(process))
    )
    ask = (
        "import sys; from ray._raylet import GcsClient\n"
        "try:\n    GcsClient(address=sys.argv[1]).internal_kv_keys(b'', namespace=None, timeout=20)\n"
        "except Exception as error:\n    print(type(error).__name__, error)\nelse:\n    print('let in')"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    (token,) = tokens(running)
    told = []
    for more in (
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)},
    ):
        done = subprocess.run(
            [sys.executable, "-c", ask, f"127.0.0.1:{port}"],
            env=clean | more,
            capture_output=True,
            text=True,
            timeout=120,
        )
        told.append(done.stdout.strip() or done.stderr)
    assert told[2] == "let in"
    assert "let in" not in told[0]
    assert "let in" not in told[1]


def tokens(running: Running) -> list[Path]:
    return list(Path("/tmp").glob(f"study-ray-{running.process.pid}-*/token"))


def test_the_token_is_closed_to_others_and_in_no_argument_or_environment(running: Running) -> None:
    (token,) = tokens(running)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    secret = token.read_text().strip().encode()
    assert len(secret) >= 32
    told = []
    for process in running.tree():
        for source in ("cmdline", "environ"):
            try:
                content = Path(f"/proc/{process.pid}/{source}").read_bytes()
            except OSError:
                continue
            if secret in content:
                told.append(f"{source} of {words_of(process)[:2]}")
    folders = [running.storage.root, token.parent]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path != token]
    for path in files:
        with contextlib.suppress(FileNotFoundError):  # the study runs: journals of the ledger come and go
            if secret in path.read_bytes():
                told.append(str(path))
    assert told == []


def test_poison_is_never_swallowed_and_nothing_is_left_behind(running: Running, nest: Path) -> None:
    """The last test here: it waits for the study's end."""
    (token,) = tokens(running)
    storage_of(running.storage.root, small_study("watched"))  # enough has been seen: it may hurry
    running.process.wait(240)
    assert outcome(running)["complete"] == len(results(running.storage)) == 7
    assert not nest.exists()
    assert not token.parent.exists()
    assert not (running.storage.folder / "ray").exists()
    pickle.loads(pickle.dumps(Canary(nest)))  # the canary itself is sound
    assert nest.exists()
