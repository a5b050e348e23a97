"""A ledger that cannot be written for longer than a call waits: the launch ends in order and says why, or goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from study.cluster.ray_cluster import Cluster, cluster
from study.dispatch.phased_queue import StudyQueue
from study.driver.launch import LaunchContext, Workers, launch
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


def test_a_queue_whose_ledger_failed_is_never_worked_on_again(
    fast_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a run for given out that nobody has; work that went on with it waited for that run for ever."""
    monkeypatch.setattr("study.driver.launch.STALL_SECONDS", 0.0)
    spec = small_study()
    storage = storage_of(fast_path, spec)
    made, worked_on = [], []

    class Queue(StudyQueue):
        def __init__(self, *arguments: Any) -> None:
            if len(made) == 1 and not refused:
                refused.append("the ledger is still away")
                raise sqlite3.OperationalError("database is locked")
            super().__init__(*arguments)
            made.append(self)

    def work(context: LaunchContext, queue: StudyQueue, joined: Any) -> str | None:
        worked_on.append((queue, queue.live))
        if len(worked_on) == 1:
            assert queue.next() is not None
            return "the ledger failed: database is locked"
        context.ending.ask("seen enough")
        return None

    refused: list[str] = []
    monkeypatch.setattr("study.driver.launch.StudyQueue", Queue)
    monkeypatch.setattr("study.driver.launch._work", work)
    monkeypatch.setattr("study.driver.launch.cluster", lambda *_, **__: contextlib.nullcontext(_NoCluster()))
    said: list[str] = []
    outcome = launch(spec, storage, workers=WORKERS, say=said.append)
    assert refused
    assert [queue for queue, _ in worked_on] == made
    assert [live for _, live in worked_on] == [(), ()]
    assert outcome.message is not None
    assert outcome.message.startswith("seen enough")
    assert sum("begun again" in line for line in said) == 2


class _NoCluster:
    dashboard = None


@pytest.mark.slow
def test_a_signal_is_heard_while_no_run_is_under_way(
    ray_here: Cluster, fast_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a storage does not answer: then Tune asks for a run again and again, and does nothing else."""
    spec = small_study()
    storage = storage_of(fast_path, spec)
    asked = threading.Event()

    def nothing(queue: StudyQueue) -> None:
        asked.set()

    def interrupt() -> None:
        asked.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(StudyQueue, "next", nothing)
    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    outcome = launch(spec, storage, workers=WORKERS, say=print)
    thread.join()
    assert outcome.interrupted
    assert "interrupted by SIGINT" in str(outcome.message)
