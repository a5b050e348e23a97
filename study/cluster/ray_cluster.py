"""Ray clusters: one of our own on this machine, on loopback and behind a token, or one that is joined."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from study.cluster.capacity import Node
from study.cluster.connection_check import check_address, look
from study.cluster.ray_private import (
    daemons_without,
    dashboard_address,
    dead_processes,
    job_importing_from,
    needed_daemons,
    nodes_on_loopback,
    reread_settings,
    silence_daemons,
    sound_entrypoint,
    start_on_loopback,
)
from trainables.errors import UserError
from trainables.util.import_paths import import_folders, import_settings
from trainables.util.process import expanded

HERE = (None, "", "local")  # addresses that mean: on this machine
OBJECT_STORE_BYTES = 100 * 2**20  # nothing large travels through Ray
_LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_VITAL = ("raylet", "gcs_server")  # without these nothing runs any more, and Ray waits for them for ever
_PLAIN = re.compile(r"[\w./-]+", re.ASCII)
_LONGEST_TEMP = 14  # Ray's sockets lie deep under its folder, and a socket's path ends at 107 characters

# Only the driver writes to the ledger and to MLflow: its workers do not inherit what opens them.
DRIVERS_SECRETS = (
    "STUDY_LEDGER_PASSWORD", "PGPASSWORD", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_BACKEND_STORE_URI",
)  # fmt: skip

# For Ray and its workers; Tune's terminal output, its loggers and its frequent snapshots are of no use here.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "0",
    # Or Ray would send the working folder along where `uv run` started this process, and import from it.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    # Or Tune would try a run again by itself, under the same order, and nobody would hear of it.
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "30",
}


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to, as it was when it was joined.

    Attributes:
        nodes: That were alive.
        local: Whether it was started here, for this launch.
        dashboard: URL of Ray's dashboard, None without one; `token_file` holds what it asks for.
    """

    nodes: tuple[Node, ...]
    local: bool
    dashboard: str | None = None
    token_file: str | None = None

    @property
    def cpus(self) -> float:
        """CPUs of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of all nodes."""
        return sum(node.gpus for node in self.nodes)


@contextlib.contextmanager
def cluster(
    address: str | None = None, *, cpus: int | None = None, dashboard: bool = False
) -> Iterator[Cluster]:
    """Joins the cluster at `address`, or starts one here and ends it afterwards.

    A Ray that this process already uses is taken as it is and left running.

    Args:
        address: ``host:port`` of a cluster's head, or ``auto``; None and ``local`` start one on this machine.
        cpus: Of the local cluster; None takes what this process may use.
        dashboard: Give the local cluster Ray's dashboard, on a free port of loopback.

    Raises:
        UserError: If nothing answers at `address`, it wants another token, or its versions differ.
    """
    with environment(SETTINGS):
        import ray

        silence_daemons()  # of dead workers the study says more, and knows the run
        if ray.is_initialized():
            yield _describe(local=False)
        elif address is not None and address not in HERE:
            with _joined(address):
                yield _describe(local=False)
        else:
            with _started(cpus, dashboard):
                yield _describe(local=True)


def usable_cpus() -> int:
    """CPUs that this process may use: affinity and the container's quota respected."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            allowed = min(allowed, max(1, int(quota) // int(period)))
    return max(1, allowed)


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables, and restores what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _started(cpus: int | None, dashboard: bool) -> Iterator[None]:
    _remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=f"study-ray-{os.getpid()}-", dir=_temp_root()))
    # Ray opens its own folder to everybody (0777), its sockets and logs too: it lies in one that is closed (0700).
    place = folder / "r"
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    here = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        _LOOPBACK_ONLY: "0",
        "RAY_TMPDIR": str(place),
        "OMP_WAIT_POLICY": "passive",
    }
    try:
        with (
            environment(here),
            without("RAY_AUTH_TOKEN", "RAY_ADDRESS"),
            environment({"PYTHONPATH": import_settings()["PYTHONPATH"]}),
            nodes_on_loopback(),
        ):
            import ray

            with (
                daemons_without(DRIVERS_SECRETS),
                signals_kept(),
                sound_entrypoint(),
                needed_daemons(dashboard),
            ):
                start_on_loopback(
                    str(place),
                    num_cpus=cpus or usable_cpus(),
                    include_dashboard=dashboard,
                    dashboard_host="127.0.0.1",
                    dashboard_port=_free_port() if dashboard else None,
                    object_store_memory=OBJECT_STORE_BYTES,
                    log_to_driver=False,
                    logging_level="ERROR",
                    job_config=job_importing_from(import_folders()),
                )
            try:
                yield
            finally:
                ray.shutdown()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        reread_settings()  # a cluster that this process joins later must not be asked for with this one's token


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    if problems := check_cluster(address):
        raise UserError(*problems)
    with token_mode() as mode:
        import ray

        try:
            with signals_kept(), sound_entrypoint():
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level="ERROR",
                    job_config=job_importing_from(import_folders()),
                )
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            python = ".".join(map(str, sys.version_info[:3]))
            raise UserError(
                f"the Ray cluster at {address} cannot be joined: {first}. It must run Ray {ray.__version__} "
                f"on Python {python}, and its token must lie in ~/.ray/auth_token or RAY_AUTH_TOKEN "
                f"(RAY_AUTH_MODE is {mode})"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """Keeps what this process does on signals: Ray takes SIGTERM, and aborts whoever lives three seconds after it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)


def check_cluster(address: str | None) -> list[str]:
    """Tells why the cluster at `address` cannot be joined, without joining it; None and ``local`` are this machine."""
    problems = check_address(address)
    if problems or address in HERE:
        return problems
    assert address is not None
    with environment(SETTINGS):
        import ray

        if ray.is_initialized():
            return []
        with token_mode() as mode:
            return look(address, mode)


@contextlib.contextmanager
def token_mode() -> Iterator[str]:
    """Says to Ray, which never finds it out for a given address, whether to show a token."""
    mode = os.environ.get("RAY_AUTH_MODE") or ("token" if _has_token() else "disabled")
    try:
        with environment({"RAY_AUTH_MODE": mode}):
            reread_settings()
            yield mode
    finally:
        reread_settings()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _dashboard() -> str | None:
    """Where the dashboard of the cluster listens, by the cluster's own word."""
    address = dashboard_address()
    return (address if "://" in address else f"http://{address}") if address else None


def _has_token() -> bool:
    return bool(
        os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or _users_token().exists()
    )


def _users_token() -> Path:
    return expanded("~/.ray/auth_token")


def _temp_root() -> str:
    """Returns the folder for the files of a local cluster; Ray's sockets and command lines want a short plain name."""
    try:
        root = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UserError(f"{error.strerror}; set TMPDIR to a folder that can be written") from None
    plain = len(root) <= _LONGEST_TEMP and _PLAIN.fullmatch(root)
    if plain or not os.access("/tmp", os.W_OK | os.X_OK):
        return root
    return "/tmp"


def _remove_leftovers() -> None:
    """Removes the folders of local clusters whose driver was killed."""
    for folder in Path(_temp_root()).glob("study-ray-*-*"):
        pid = folder.name.split("-")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc").exists():
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """Takes environment variables away, and restores them."""
    saved = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)


def alive_nodes() -> list[Node]:
    """Returns the nodes of the cluster that this process is connected to."""
    import ray

    return [
        Node(
            node["Resources"].get("CPU", 0.0),
            node["Resources"].get("GPU", 0.0),
            f"{node['NodeManagerAddress']}/{node['NodeID'][:8]}",
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def dead_daemons() -> list[str]:
    """Names the processes of a local cluster that have died without being asked to, such as ``raylet``."""
    return sorted({name for name in dead_processes() if name in _VITAL})


def _describe(*, local: bool) -> Cluster:
    found = _dashboard()
    token = os.environ.get("RAY_AUTH_TOKEN_PATH") or str(_users_token())
    return Cluster(tuple(alive_nodes()), local, found, token if found else None)
