"""What a study runs on in each setting: this machine, a small disk, servers, nodes, hosts, or a storage at a URL."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks.support.s3_server import CREDENTIALS, s3_server
from benchmarks.support.s3_server import Proxy as S3Proxy
from benchmarks.support.s3_server import proxy as s3_proxy
from study.cluster.ray_cluster import environment
from tests.faults.harness.hosts import hosts
from tests.faults.harness.hosts import reason_to_skip as no_hosts
from tests.faults.harness.nodes import IMPATIENT, nodes
from tests.faults.harness.servers import Proxy, make_server

# Faults into one study, and how often each kind comes in a round: some settings cost more than their faults.
MOST_AT_ONCE = {
    "local": 12, "full": 1, "served": 8, "nodes": 3, "spot": 4, "silent": 3, "hosts": 3, "worker_group": 4,
    "worker_group_spot": 3, "worker_group_url": 3, "url": 7,
}  # fmt: skip
TIMES = {"served": 2, "nodes": 3, "spot": 4, "worker_group_spot": 3}
WORKER_GROUPS = (
    "worker_group",
    "worker_group_spot",
    "worker_group_url",
)  # where several workers train each run
FULL_BYTES = 340 * 2**20  # of the file system that gets full; a launch wants 256 MiB

_running: dict[str, Any] = {}
_closing = contextlib.ExitStack()


def setting(name: str, folder: Path, session: Path) -> AbstractContextManager[dict[str, Any]]:
    """Yields what a study of that setting runs on, as arguments of `Driven`.

    Args:
        name: One of `injectors.SETTINGS`.
        folder: Of the study.
        session: Of all studies; servers that they share keep their files there.
    """
    return _MAKERS[name](folder, session)


def impossible() -> dict[str, str]:
    """Returns the settings that this machine cannot make, with why."""
    from tests.helpers.postgres_server import reason_to_skip as no_postgres

    found = {"served": no_postgres(), "hosts": no_hosts(), "full": _no_mount()}
    return {name: reason for name, reason in found.items() if reason}


def _no_mount() -> str | None:
    with tempfile.TemporaryDirectory() as place:
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]
        try:
            subprocess.run(mount, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return "a small file system cannot be mounted here"
        subprocess.run(["umount", place], check=True, capture_output=True)
    return None


def close_servers() -> None:
    """Ends the servers that studies shared."""
    _closing.close()
    _running.clear()


@contextlib.contextmanager
def _local(folder: Path, session: Path) -> Iterator[dict[str, Any]]:
    """Everything in a folder, on a cluster that the driver starts."""
    yield {}


@contextlib.contextmanager
def _full(folder: Path, session: Path) -> Iterator[dict[str, Any]]:
    """Likewise, in a file system that can be filled up."""
    (folder / "storage").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={FULL_BYTES}", "tmpfs", str(folder / "storage")]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield {}
    finally:
        subprocess.run(["umount", "-l", str(folder / "storage")], check=False, capture_output=True)


@contextlib.contextmanager
def _served(folder: Path, session: Path) -> Iterator[dict[str, Any]]:
    """MLflow on a server behind a proxy, the ledger on PostgreSQL."""
    database = _postgres()
    ledger_url = database.create_database(folder.name.rsplit("-", 1)[0])
    yield {"tracking": _mlflow(session), "database": database, "ledger_url": ledger_url}


@contextlib.contextmanager
def _nodes(folder: Path, session: Path) -> Iterator[dict[str, Any]]:
    """A cluster of several nodes that the driver joins."""
    with nodes(folder) as cluster:
        yield {"cluster": cluster}


@contextlib.contextmanager
def _url(folder: Path, session: Path) -> Iterator[dict[str, Any]]:
    """The storage in a real object store behind a proxy; MLflow on a server, since no machine lasts."""
    store = _store()
    places = {"STUDY_WORKING_COPIES": str(folder / "copies"), "STUDY_SCRATCH": str(folder / "scratch")}
    with environment({**CREDENTIALS, **places}):
        yield {"tracking": _mlflow(session), "store": store, "url": store.url(folder.name)}


def _store() -> S3Proxy:
    """A proxy before an S3 server; started once."""
    if "store" not in _running:
        _running["store"] = _closing.enter_context(s3_proxy(_closing.enter_context(s3_server())))
    store: S3Proxy = _running["store"]
    return store


@contextlib.contextmanager
def _spot(folder: Path, session: Path) -> Iterator[dict[str, Any]]:
    """Likewise, and no run may lose an attempt: a drain that counted would fail it."""
    with nodes(folder) as cluster:
        yield {"cluster": cluster, "resources": {"max_attempts": 1}}


@contextlib.contextmanager
def _silent(folder: Path, session: Path) -> Iterator[dict[str, Any]]:
    """Nodes, and a head that has little patience with silent ones."""
    with nodes(folder, IMPATIENT) as cluster:
        yield {"cluster": cluster}


@contextlib.contextmanager
def _hosts(folder: Path, session: Path) -> Iterator[dict[str, Any]]:
    """Hosts with network cards of their own, whose cables can be pulled out."""
    with hosts(folder) as cluster:
        yield {"cluster": cluster}


@contextlib.contextmanager
def _worker_group(folder: Path, session: Path) -> Iterator[dict[str, Any]]:
    """On this machine, with several workers for each run."""
    yield {}


@contextlib.contextmanager
def _worker_group_spot(folder: Path, session: Path) -> Iterator[dict[str, Any]]:
    """Several workers for each run on several nodes, and no run may lose an attempt."""
    with nodes(folder) as cluster:
        cluster.add()
        yield {"cluster": cluster, "resources": {"max_attempts": 1}}


def _mlflow(session: Path) -> Proxy:
    """A proxy before an MLflow server; started once."""
    if "mlflow" not in _running:
        server = make_server(
            Path(tempfile.mkdtemp(prefix="mlflow-", dir=session))
        )  # none of an earlier session
        _closing.callback(server.kill)
        _running["mlflow"] = Proxy(server)
        _closing.callback(_running["mlflow"].close)
    proxy: Proxy = _running["mlflow"]
    return proxy


def _postgres() -> Any:
    """A PostgreSQL server; started once."""
    if "postgres" not in _running:
        from tests.helpers.postgres_server import postgres

        _running["postgres"] = _closing.enter_context(postgres())
    return _running["postgres"]


_MAKERS: dict[str, Callable[[Path, Path], AbstractContextManager[dict[str, Any]]]] = {
    "local": _local,
    "full": _full,
    "served": _served,
    "nodes": _nodes,
    "url": _url,
    "spot": _spot,
    "silent": _silent,
    "hosts": _hosts,
    "worker_group": _worker_group,
    "worker_group_spot": _worker_group_spot,
    "worker_group_url": _url,
}
