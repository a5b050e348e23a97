"""``study ui``: the MLflow UI of a study's own store, on loopback; and how any such server is run and ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from study.storage.layout import MLFLOW_UI_LOG, Storage, sqlite_path
from study.storage.study_record import published_spec
from study.tracking.mlflow_store import (
    MlflowStore,
    resolve_tracking_uri,
    tracking_command,
)
from study.tracking.reachable import check_tracking
from study.tracking.ui_defaults import ARMS_QUERY, CLASSIFIERS_QUERY, VIEW_QUERY, WORKFLOW
from study.util.redaction import without_credentials
from trainables.errors import UserError
from trainables.util.import_paths import import_settings

HOST = "127.0.0.1"
FIRST_PORT, PORTS = 5000, 100
START_SECONDS = 120.0


@dataclass(frozen=True)
class UiCommand:
    """How the UI is started.

    Attributes:
        arguments: The command line; holds no credentials (they go through `environment`).
        url: Page of the study.
        name: What it is, for the user.
        probe: Path that answers when it is up.
    """

    arguments: tuple[str, ...]
    environment: dict[str, str]
    base: str
    url: str
    name: str = "MLflow UI"
    probe: str = "/health"


def ui_command(storage: Storage, *, port: int | None = None, tracking_uri: str | None = None) -> UiCommand:
    """Returns the command of the MLflow UI for a study; `arguments` is empty when a server already shows it.

    Raises:
        UserError: The store cannot be opened, does not have the study yet, or `port` is in use.
    """
    uri = resolve_tracking_uri(storage, tracking_uri)
    check_tracking(uri)
    store = MlflowStore(uri, storage.study, storage.artifact_root)
    experiment = None
    path = sqlite_path(uri)
    if path is None or path.exists():  # opening would create it
        experiment = store.find_experiment()
    if experiment is None:
        shown = without_credentials(uri)
        raise UserError(
            f"MLflow at {shown} knows no study {storage.study!r}; run: {tracking_command('sync', storage, uri)}"
        )
    page = f"/#/experiments/{experiment.experiment_id}/runs?{VIEW_QUERY}"
    if uri.startswith("http"):
        base = without_credentials(uri).rstrip("/")
        return UiCommand((), {}, base, base + page)
    chosen = chosen_port(port)
    environment = {
        "MLFLOW_BACKEND_STORE_URI": uri,  # not on the command line, which every user of the machine can read
        "MLFLOW_ARTIFACTS_DESTINATION": storage.artifact_root.as_uri(),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    arguments = (
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--host",
        HOST,
        "--port",
        str(chosen),
        "--workers",
        "1",
    )
    base = f"http://{HOST}:{chosen}"
    return UiCommand(arguments, environment, base, base + page)


def serve(storage: Storage, *, port: int | None = None, tracking_uri: str | None = None) -> int:
    """Runs the MLflow UI until it is interrupted and returns the exit code; prints its address."""
    command = ui_command(storage, port=port, tracking_uri=tracking_uri)
    if not command.arguments:
        print(f"The tracking server shows it: {command.url}", flush=True)
        return 0
    first = [command]
    return serve_command(
        lambda: first.pop() if first else ui_command(storage, port=port, tracking_uri=tracking_uri),
        storage.folder / MLFLOW_UI_LOG,
        lambda command: pages_of(command, classifiers=bool(published_spec(storage).get("downstream"))),
    )


def pages_of(command: UiCommand, *, classifiers: bool = False) -> list[tuple[str, str]]:
    """Returns further pages of the study in MLflow's UI, by name.

    Args:
        classifiers: Whether the study has a downstream phase.
    """
    experiment = command.url.rpartition("/runs?")[0]
    cells = [("classifiers, by what they learn from", f"{experiment}/runs?{CLASSIFIERS_QUERY}")]
    return [
        ("arms, with intervals", f"{experiment}/runs?{ARMS_QUERY}"),
        *(cells if classifiers else []),
        ("models, one for each evaluation", f"{experiment}/models?{WORKFLOW}"),
    ]


def serve_command(
    command_now: Callable[[], UiCommand],
    log: Path,
    pages: Callable[[UiCommand], Sequence[tuple[str, str]]] = lambda command: (),
) -> int:
    """Runs a server until it is interrupted and returns the exit code.

    Args:
        command_now: Its command on a port that is free now; asked again when another program takes that port while the
            server starts, which for MLflow is seconds.
        pages: Printed with the address: names and URLs.

    Raises:
        UserError: No port is free for it any more.
    """
    # Or the server would outlive a `study ui` that is terminated.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    while True:
        command = command_now()
        print(f"Starting {command.name} at {command.base} ...", file=sys.stderr, flush=True)
        process = start(command, log)
        try:
            if wait_until_up(command, process):
                print(
                    f"{command.name}: {command.url}",
                    *(f"  {name}: {url}" for name, url in pages(command)),
                    sep="\n",
                )
                print("Stop it with Ctrl-C.", flush=True)
                return process.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            stop(process)
        if is_free(_port(command)):
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            print(f"{command.name} did not start:\n{tail}", file=sys.stderr)
            return 1


def start(command: UiCommand, log: Path) -> subprocess.Popen[bytes]:
    """Starts the UI in a process group of its own, its output in `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            command.arguments,
            env={**os.environ, **import_settings(), **command.environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=log.parent,  # servers import what lies in their working folder, which may be the user's mlflow.py
        )


def wait_until_up(command: UiCommand, process: subprocess.Popen[bytes]) -> bool:
    """Waits until the UI answers; False when it ended or took longer than `START_SECONDS`.

    An answer alone is none of this UI's if another program has taken the port since it was chosen.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{command.base}{command.probe}", timeout=5) as answer:
                if answer.status == 200 and _listens(process.pid, _port(command)):
                    return True
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.3)
    return False


def _port(command: UiCommand) -> int:
    port = urlsplit(command.base).port
    assert port is not None, "a server of ours has a port of its own"
    return port


def _listens(pid: int, port: int) -> bool:
    """Whether a process, or one that it started, listens on a port."""
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        sockets = [found for member in tree for found in member.net_connections("inet")]
    except psutil.AccessDenied:  # then nothing can be told, and the answer must do
        return True
    except psutil.NoSuchProcess:
        return False
    return any(found.status == psutil.CONN_LISTEN and found.laddr.port == port for found in sockets)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stops the UI and its workers."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        os.killpg(process.pid, sign)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            continue


def chosen_port(port: int | None, first: int = FIRST_PORT) -> int:
    """Returns that port, or the first free one from `first` on for None; raises UserError if it is in use."""
    if port is not None and not is_free(port):
        raise UserError(
            f"port {port} on {HOST} is in use; give another --port, or leave it out for a free one"
        )
    return free_port(first) if port is None else port


def is_free(port: int) -> bool:
    """Whether a port of the loopback interface can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port(first: int = FIRST_PORT) -> int:
    """Returns the first free port of the hundred from `first` on."""
    for port in range(first, first + PORTS):
        if is_free(port):
            return port
    raise UserError(f"no port from {first} to {first + PORTS - 1} is free on {HOST}; give one with --port")
