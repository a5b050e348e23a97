"""What only a server can do to the ledger; all else is tested on both databases (tests/study/ledger/test_ledger.py)."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psycopg2.extensions
import pytest

from study.ledger import database as ledger_database
from study.ledger.ledger import Ledger
from tests.helpers.ledgers import arm_search, opened
from tests.helpers.postgres_server import PASSWORD, Postgres
from trainables.errors import UserError


def test_the_plain_name_of_postgresql_finds_the_installed_driver(database: str) -> None:
    assert database.startswith("postgresql://")
    ledger = opened(database, arm_search())
    assert ledger.ask(arm_search()).number == 0


def test_a_search_goes_on_through_restarts_of_the_server(database: str, database_server: Postgres) -> None:
    arm = arm_search(trials=40)
    ledger = opened(database, arm)
    stop = threading.Event()

    def restart() -> None:
        while not stop.is_set():
            time.sleep(0.5)
            database_server.restart("immediate")

    restarting = threading.Thread(target=restart)
    restarting.start()
    try:
        for _ in range(40):
            record = ledger.ask(arm)
            ledger.set_config(record, {"a": 1})
            ledger.report(record, 1, 0.5)
            ledger.tell(record, "COMPLETE", [0.5], metrics={"quality": 0.5})
    finally:
        stop.set()
        restarting.join()
    records = Ledger(database, "sweep").trials("lora")
    assert [record.number for record in records] == list(range(40))
    assert {record.state for record in records} == {"COMPLETE"}
    assert all(set(record.params) == {"learning_rate", "r", "snr_gamma"} for record in records)


def test_a_trial_whose_commit_was_not_answered_is_made_once(
    database: str, database_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server commits, then dies before the driver hears of it."""
    arm = arm_search()
    ledger = opened(database, arm)
    lost = []
    dialect = ledger._storage._database.engine.dialect  # type: ignore[attr-defined]
    commit = dialect.do_commit

    def lose(connection: psycopg2.extensions.connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute("select count(*) from trials")
            made = cursor.fetchone()[0]
        commit(connection)
        if made and not lost:
            lost.append(made)
            database_server.restart("immediate")
            raise psycopg2.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(dialect, "do_commit", lose)
    record = ledger.ask(arm)
    assert lost
    assert record.number == 0
    assert record.params
    (count,) = database_server.execute("select count(*) from trials", database.rpartition("/")[2])[0]
    assert count == 1


def test_a_server_that_stays_away_is_named_after_a_bounded_wait(
    database: str, database_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_database.open_storage, "__kwdefaults__", {"patience": 2.0})
    arm = arm_search()
    ledger = opened(database, arm)
    database_server.stop()
    try:
        with pytest.raises(UserError, match=r"has not answered for 2 seconds.*run the same command again"):
            ledger.ask(arm)
        with pytest.raises(UserError, match="start the server, or correct host and port"):
            Ledger(database, "sweep")
    finally:
        database_server.start()
    assert ledger.ask(arm).number == 0


@pytest.mark.parametrize("means", ["url", "STUDY_LEDGER_PASSWORD", "PGPASSWORD", "none"])
def test_a_wrong_password_is_refused_without_being_shown(
    means: str, database: str, database_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSFILE")
    monkeypatch.setenv("HOME", "/nonexistent")
    url = database
    if means == "url":
        url = database_server.url_with_password(database.rpartition("/")[2], "wr0ng/secret@x")
    elif means != "none":
        monkeypatch.setenv(means, "wr0ng/secret@x")
    with pytest.raises(
        UserError, match=r"cannot be opened.*give the password in STUDY_LEDGER_PASSWORD"
    ) as caught:
        Ledger(url, "sweep")
    _, _, place = url.rpartition("@")
    assert place in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None  # nothing with the URL in it may be printed below it


def test_the_password_may_come_from_the_variable(
    database: str, monkeypatch: pytest.MonkeyPatch, fast_path: Path
) -> None:
    monkeypatch.setenv("PGPASSFILE", str(fast_path / "missing"))
    monkeypatch.setenv("STUDY_LEDGER_PASSWORD", PASSWORD)
    assert opened(database, arm_search()).arms() == ["lora"]


def test_a_missing_database_is_named(database: str) -> None:
    url = database.rpartition("/")[0] + "/nosuch"
    with pytest.raises(UserError, match=r'"nosuch" does not exist; make it .`createdb NAME`'):
        Ledger(url, "sweep")
