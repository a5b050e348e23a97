"""A whole study with its ledger and its MLflow server on PostgreSQL, which restarts under it; and no secret is left."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from benchmarks.support.mlflow_server import mlflow_server
from study.api import report_study
from study.driver.claim import claimed
from study.driver.launch import Workers, launch
from study.ledger.database_lock import database_lock
from study.ledger.open_ledger import open_ledger
from study.spec.study_spec import StudySpec
from study.tracking.mlflow_store import MlflowStore
from study.tracking.reachable import check_tracking
from study.tracking.sync import sync
from study.tracking.tracker import Tracker
from study.util.redaction import without_credentials
from tests.helpers.gatekeeper import gatekeeper
from tests.helpers.ledgers_compared import check_ledger
from tests.helpers.mlflow_stores import runs_by_key
from tests.helpers.postgres_server import PASSWORD, Postgres
from tests.helpers.small_studies import RESIDENT, RUNNER, results, small_study, storage_of
from trainables.errors import UserError

MLFLOW_PASSWORD = "ml-s3cret-word"


@pytest.fixture
def home(fast_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No password file of the user may help."""
    (fast_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(fast_path / "home"))
    return fast_path


def study_of(database: str, name: str = "shared", **sections: Any) -> StudySpec:
    return small_study(name, storage={"ledger_url": database}, **sections)


@pytest.mark.slow
def test_a_study_survives_a_restart_of_the_database_of_its_ledger_and_of_mlflow(
    home: Path, database_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passwords come from the environment alone; afterwards no file, record or process has one."""
    ledger_database = database_server.create_database("study_ledger")
    mlflow_database = database_server.create_database("study_mlflow")
    backend = mlflow_database.replace("postgresql:", "postgresql+psycopg2:")
    spec = study_of(ledger_database)
    storage = storage_of(home / "storage", spec, {"": {"step_seconds": 0.03}})
    seen: list[str] = []
    with (
        mlflow_server(home / "mlflow", backend, database_server.environment) as server,
        gatekeeper(server.uri, "me", MLFLOW_PASSWORD) as (uri, codes),
    ):
        monkeypatch.setenv("STUDY_LEDGER_PASSWORD", PASSWORD)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", MLFLOW_PASSWORD)
        tracker = Tracker(storage, uri, ids=open_ledger(spec, storage))
        restarts: list[int] = []
        finished = threading.Event()

        def trouble() -> None:
            for wanted in (2, 6):
                while sum(result is not None for result in results(storage).values()) < wanted:
                    if finished.wait(0.1):
                        return
                seen.extend(secrets_in_processes())
                database_server.restart("immediate")
                restarts.append(wanted)

        restarting = threading.Thread(target=trouble)
        restarting.start()
        try:
            outcome = launch(spec, storage, listeners=(tracker,), workers=Workers(RUNNER, RESIDENT))
        finally:
            finished.set()
            restarting.join()
            tracker.close()
        assert restarts == [2, 6]
        assert (outcome.complete, outcome.failed, outcome.interrupted) == (spec.number_of_runs(), [], False)
        check_ledger(spec, storage)
        if tracker.message() is not None:  # the server came back too late for the tracker's last look
            sync(storage, uri, ids=open_ledger(spec, storage))
        store = MlflowStore(uri, storage.study, storage.artifact_root)
        runs = runs_by_key(store)
        assert set(runs) == {key.name for key in results(storage)}
        assert {run.info.status for run in runs.values()} == {"FINISHED"}
        assert {run.info.status for run in runs_by_key(store, "parent").values()} == {"FINISHED"}
        assert 401 not in codes
        report_study(storage, home / "reports", tracking_uri=uri)
        dump = subprocess.run(
            [sys.executable, "-c", DUMP, str(database_server.port)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    assert seen == []
    assert "run_key" in dump  # the dump is one of MLflow's tables, too
    assert "cosine" in dump
    told = secrets_in(home) + [secret for secret in (PASSWORD, MLFLOW_PASSWORD) if secret in dump]
    assert told == []
    assert secrets_in(home, "shared")  # the search itself finds what is there


def secrets_in(folder: Path, *words: str) -> list[str]:
    """Names of files below a folder that hold a secret."""
    wanted = [word.encode() for word in words or (PASSWORD, "s3cret-p%40ss", MLFLOW_PASSWORD)]
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(word in path.read_bytes() for word in wanted)]


def secrets_in_processes() -> list[str]:
    """Processes of the study (its descendants) that carry a secret in their arguments or environment."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            words = " ".join([*process.cmdline(), *process.environ().values()])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        found += [str(process.cmdline()[:3]) for secret in (PASSWORD, MLFLOW_PASSWORD) if secret in words]
    return found


DUMP = f"""
import sys, psycopg2
for name in ("study_ledger", "study_mlflow"):
    connection = psycopg2.connect(host="127.0.0.1", port=int(sys.argv[1]), user="study_owner",
                                  password={PASSWORD!r}, dbname=name)
    cursor = connection.cursor()
    cursor.execute("select table_name from information_schema.tables where table_schema = 'public'")
    for (table,) in cursor.fetchall():
        cursor.execute(f'select * from "{{table}}"')
        print(table, cursor.fetchall())
"""


def test_a_driver_on_another_machine_is_kept_out_by_the_database(home: Path, database: str) -> None:
    """Two storages that share nothing but the ledger."""
    spec = study_of(database)
    first, second = storage_of(home / "one", spec), storage_of(home / "two", spec)
    with claimed(spec, first):
        words = r"being run by process \d+ on .* on the same ledger"
        with pytest.raises(UserError, match=words), claimed(spec, second):
            pass
        assert not (second.folder / "study.json").exists()
        other = study_of(database, "another")
        with claimed(other, storage_of(home / "two", other)):
            pass
    with claimed(spec, second):
        pass


def test_a_restart_takes_the_lock_away_only_if_another_driver_is_faster(
    home: Path, database: str, database_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.ledger.database_lock.LOOK_SECONDS", 0.3)
    lost: list[str] = []
    with database_lock(database, "s", lost=lost.append):
        database_server.restart("immediate")
        deadline = time.monotonic() + 60
        while not (held := locks(database_server)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert held, "the lock was not taken again"
        assert lost == []
        with pytest.raises(UserError, match="being run by"), database_lock(database, "s", lost=lost.append):
            pass
    assert locks(database_server) == []

    monkeypatch.setattr("study.ledger.database_lock.LOOK_SECONDS", 2.0)
    with database_lock(database, "s", lost=lost.append):
        database_server.restart("immediate")
        with database_lock(database, "s", lost=lambda reason: None):  # within the first one's two seconds
            while not lost and time.monotonic() < deadline + 60:
                time.sleep(0.1)
    assert len(lost) == 1
    assert "taken over by process" in lost[0]


def locks(server: Postgres) -> list[Any]:
    return server.execute("select pid from pg_locks where locktype = 'advisory' and granted")


def test_a_killed_driver_s_lock_goes_with_it(home: Path, database: str, database_server: Postgres) -> None:
    hold = (
        "import sys, time\nfrom study.ledger.database_lock import database_lock\n"
        "with database_lock(sys.argv[1], 's', lost=print):\n    print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", hold, database], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=f"process {process.pid} on"),
            database_lock(database, "s", lost=print),
        ):
            pass
    finally:
        process.kill()
        process.wait()
    with database_lock(database, "s", lost=print):
        pass


def test_a_study_whose_database_is_down_writes_nothing(
    home: Path, database: str, database_server: Postgres
) -> None:
    spec = study_of(database)
    storage = storage_of(home / "storage", spec)
    database_server.stop()
    try:
        with pytest.raises(UserError, match=r"cannot be locked.*refused") as caught:
            launch(spec, storage, workers=Workers(RUNNER, RESIDENT))
    finally:
        database_server.start()
    assert not (storage.folder / "study.json").exists()
    assert json.dumps(str(caught.value)).count("Traceback") == 0


@pytest.mark.parametrize(
    ("means", "words"),
    [
        ("nothing", "error code 401.*MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("wrong url", "error code 401"),
        ("netrc", None),
        ("environment", None),
        ("url", None),
        ("wrong host", "error code 403.*--allowed-hosts"),
    ],
)
def test_an_mlflow_server_behind_a_password(
    means: str, words: str | None, home: Path, answering: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,head-node")
    with gatekeeper(answering, "me", MLFLOW_PASSWORD) as (gate, _):
        uri = gate
        if means == "netrc":
            (home / "home" / ".netrc").touch(mode=0o600)
            (home / "home" / ".netrc").write_text(f"machine 127.0.0.1 login me password {MLFLOW_PASSWORD}\n")
        elif means == "environment":
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", MLFLOW_PASSWORD)
        elif means.endswith("url"):
            password = "wr0ng" if means.startswith("wrong") else MLFLOW_PASSWORD
            uri = gate.replace("//", f"//me:{password}@")
        elif means == "wrong host":
            with forbidding() as uri, pytest.raises(UserError, match=words):
                check_tracking(uri)
            return
        if words is None:
            check_tracking(uri)
            return
        with pytest.raises(UserError, match=words) as caught:
            check_tracking(uri)
        assert "wr0ng" not in str(caught.value)


@pytest.fixture
def answering() -> Iterator[str]:
    """The one call of MLflow that tells whether a server answers."""
    with small_server(200, b'{"experiments": []}') as uri:
        yield uri


@contextlib.contextmanager
def forbidding() -> Iterator[str]:
    """What MLflow answers to a host that it does not know."""
    with small_server(403, b"Invalid Host header - possible DNS rebinding attack detected") as uri:
        yield uri


@contextlib.contextmanager
def small_server(status: int, content: bytes) -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    for verb in ("GET", "POST"):
        setattr(Answer, f"do_{verb}", Answer.answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("section", "name", "url", "allowed"),
    [
        ("storage", "ledger_url", "postgresql://me:pa-ss@db/ledger", False),
        ("storage", "ledger_url", "postgresql://me:pa/ss@db/ledger", False),
        ("storage", "ledger_url", "postgresql://db/ledger?password=pa-ss", False),
        ("storage", "ledger_url", "postgresql://me@db:5432/ledger?sslmode=require", True),
        ("storage", "ledger_url", "sqlite:////tmp/a@b:c/ledger.db", True),
        ("tracking", "uri", "https://me:pa-ss@host:5000", False),
        ("tracking", "uri", "https://host:5000/path@x", True),
    ],
)
def test_a_study_file_with_a_password_is_refused(section: str, name: str, url: str, allowed: bool) -> None:
    if allowed:
        small_study(**{section: {name: url}})
        return
    with pytest.raises(ValidationError, match=r"has a password in it.*recorded") as caught:
        small_study(**{section: {name: url}})
    told = " ".join(error["msg"] for error in caught.value.errors())
    assert "pa-ss" not in told
    assert "pa-ss" not in without_credentials(url)
