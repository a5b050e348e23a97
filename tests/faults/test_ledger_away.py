"""A ledger that cannot be written for longer than a call waits: the launch ends in order and says why, or goes on."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from study.cluster.ray_cluster import Cluster, cluster
from study.driver.launch import Workers, launch
from tests.helpers.small_studies import RESIDENT, RUNNER, small_study, storage_of
from trainables.errors import UserError

WORKERS = Workers(RUNNER, RESIDENT)


@pytest.fixture(scope="module")
def ray_here() -> Iterator[Cluster]:
    with cluster(cpus=2) as here:
        yield here


@contextlib.contextmanager
def locked(ledger: Path, until: threading.Event, after: int) -> Iterator[threading.Thread]:
    """Locks the ledger as soon as so many runs have ended, and lets go of it at the event."""

    def hold() -> None:
        while len(list(ledger.parent.glob("runs/*/*/*/result.json"))) < after:
            time.sleep(0.02)
        with contextlib.closing(sqlite3.connect(ledger, timeout=60, isolation_level=None)) as connection:
            connection.execute("begin exclusive")
            until.wait(240)
            connection.execute("rollback")

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    yield thread
    until.set()
    thread.join(60)


@pytest.mark.slow
def test_a_ledger_that_is_away(ray_here: Cluster, fast_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.ledger.database.LOCK_WAIT_SECONDS", 0.5)
    monkeypatch.setattr("study.driver.launch.STALL_SECONDS", 0.2)
    spec = small_study(budget={"max_train_steps": 20})
    storage = storage_of(fast_path, spec, {"": {"step_seconds": 0.05}})
    said: list[str] = []

    # For good: the launch ends in order.
    back = threading.Event()
    with locked(storage.folder / "ledger.db", back, after=2):
        outcome = launch(spec, storage, workers=WORKERS, say=said.append)
    assert outcome.interrupted
    assert "the ledger failed: database is locked; end the other process that holds it" in str(
        outcome.message
    )
    assert "run the same command again" in str(outcome.message)
    assert outcome.failed == []

    # From the beginning: it is refused.
    back = threading.Event()
    with locked(storage.folder / "ledger.db", back, after=0):
        time.sleep(1.0)
        with pytest.raises(UserError, match=r"the ledger .*database is locked"):
            launch(spec, storage, workers=WORKERS, say=said.append)

    # Let go of, for longer than a call waits: the launch goes on by itself, in a process whose Ray has seen it all.
    back = threading.Event()
    with locked(storage.folder / "ledger.db", back, after=3):
        threading.Timer(2.0, back.set).start()
        outcome = launch(spec, storage, workers=WORKERS, say=said.append)
    assert (outcome.interrupted, outcome.failed) == (False, [])
    assert outcome.complete == outcome.total == spec.number_of_runs()
