"""Servers that fail: MLflow, and the ledger's database."""

from __future__ import annotations

import contextlib
import sqlite3
import time

from tests.faults.harness.driving import Driven
from tests.faults.harness.injectors.common import Recovered


def mlflow_kill(driven: Driven) -> Recovered:
    """The MLflow server is killed and started again after a while."""
    driven.tracking.server.kill()
    time.sleep(driven.rng.uniform(1.0, 5.0))
    on = driven.goes_on()
    driven.tracking.server.start()
    return on


def mlflow_error(driven: Driven) -> Recovered:
    """The MLflow server answers 500 for a while."""
    return _tracking(driven, "error")


def mlflow_hang(driven: Driven) -> Recovered:
    """The MLflow server accepts requests and does not answer for a while."""
    return _tracking(driven, "hang")


def _tracking(driven: Driven, mode: str) -> Recovered:
    driven.tracking.set(mode)
    on = driven.goes_on()
    try:
        time.sleep(driven.rng.uniform(1.0, 8.0))
    finally:
        driven.tracking.set("ok")
    return on


def ledger_locked(driven: Driven) -> Recovered:
    """Another process holds SQLite's exclusive lock on the ledger for a while."""
    on = driven.goes_on()
    with contextlib.closing(sqlite3.connect(driven.storage.folder / "ledger.db", timeout=30)) as connection:
        connection.isolation_level = None
        connection.execute("begin exclusive")
        time.sleep(driven.rng.uniform(2.0, 8.0))
        connection.execute("rollback")
    return on


def database_restart(driven: Driven) -> Recovered:
    """The ledger's PostgreSQL server crashes and comes back after a while."""
    on = driven.goes_on()
    driven.database.stop("immediate")
    time.sleep(driven.rng.uniform(0.5, 6.0))
    driven.database.start()
    return on
