"""One driver per study across machines whose ledger is one PostgreSQL database: an advisory lock of the server.

The lock hangs on a connection of its own, so that it ends with the driver, however that ends. A restart of the server
takes it away from everybody; it is then taken again, and the driver that finds it taken has lost the study.
Databases other than PostgreSQL have no such lock here: the study's file lock and the storage's lease guard them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from study.ledger.database import with_driver
from study.ledger.database_errors import first_line, is_away
from study.util.redaction import without_credentials
from trainables.errors import UserError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

LOOK_SECONDS = 10.0
SETTLE_SECONDS = 3.0  # the server may need a moment to see that a killed driver's connection is gone
_KEY = "hashtextextended('diffusion-study/' || :study, 0)"


@contextlib.contextmanager
def database_lock(
    url: str, study: str, *, lost: Callable[[str], None], watch: str | None = None
) -> Iterator[None]:
    """Holds the lock of a study in the ledger's database; does nothing for a ledger that is not on PostgreSQL.

    Args:
        lost: Called once, with the reason, from a thread, if another driver took it after a restart of the server.

    Raises:
        UserError: Another driver holds it, which is named; or the database cannot be reached.
    """
    if not url.startswith(("postgresql", "postgres:")):
        yield
        return
    import sqlalchemy

    engine = sqlalchemy.create_engine(
        with_driver(url),
        poolclass=sqlalchemy.pool.NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={
            "application_name": _who(),
            "connect_timeout": 10,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        },
    )
    try:
        connection = engine.connect()
        _settle(connection)
        holder = _take(connection, study)
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise UserError(
            f"the ledger's database at {without_credentials(url)} cannot be locked: {first_line(error)}"
        ) from None
    if holder is not None:
        connection.close()
        raise UserError(
            f"study {study!r} is being run by {holder} on the same ledger; wait for it, watch it with "
            f"`{watch or f'study status {study}'}`, or end it first"
        )
    ended = threading.Event()
    keeper = _Keeper(engine, connection, study, ended, lost)
    thread = threading.Thread(target=keeper.work, name="database-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(15)
        keeper.close()
        engine.dispose()


class _Keeper:
    """Looks now and then whether the connection lives, and takes the lock again after a restart of the server."""

    def __init__(
        self,
        engine: Engine,
        connection: Connection,
        study: str,
        ended: threading.Event,
        lost: Callable[[str], None],
    ) -> None:
        self._engine, self._connection, self._study = engine, connection, study
        self._ended, self._lost = ended, lost

    def work(self) -> None:
        import sqlalchemy

        while not self._ended.wait(LOOK_SECONDS):
            try:
                self._connection.execute(sqlalchemy.text("select 1"))
                continue
            except sqlalchemy.exc.SQLAlchemyError:
                self.close()
            try:
                self._connection = self._engine.connect()
                _settle(self._connection)
                holder = _take(self._connection, self._study)
            except sqlalchemy.exc.SQLAlchemyError as error:
                if is_away(error):
                    continue  # the ledger itself says when it has been away for too long
                return self._lost(
                    f"the lock of the ledger's database cannot be taken again: {first_line(error)}"
                )
            if holder is not None:
                return self._lost(f"the study was taken over by {holder} while the database was away")

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._connection.close()


def _settle(connection: Connection) -> None:
    """Lets the server find out within a minute, too, that the driver's machine is gone."""
    import sqlalchemy

    for name, value in (("idle", 30), ("interval", 10), ("count", 3)):
        connection.execute(sqlalchemy.text(f"set tcp_keepalives_{name} = {value}"))


def _take(connection: Connection, study: str) -> str | None:
    """Takes the lock and returns None, or returns who holds it."""
    import sqlalchemy

    deadline = time.monotonic() + SETTLE_SECONDS
    take = sqlalchemy.text(f"select pg_try_advisory_lock({_KEY})")
    while not connection.execute(take, {"study": study}).scalar():
        if time.monotonic() > deadline:
            # An advisory lock on one 64-bit key stands in pg_locks as two halves.
            name = connection.execute(
                sqlalchemy.text(
                    "select activity.application_name from pg_locks locks join pg_stat_activity activity "
                    "using (pid) where locks.locktype = 'advisory' and locks.granted and locks.objsubid = 1 "
                    f"and (locks.classid::bigint << 32 | locks.objid::bigint) = {_KEY}"
                ),
                {"study": study},
            ).scalar()
            return name or "another driver"
        time.sleep(0.2)
    return None


def _who() -> str:
    """As the server shows it: PostgreSQL cuts names at 63 characters."""
    return f"process {os.getpid()} on {socket.gethostname()}"[:63]
