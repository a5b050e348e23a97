"""A study begun by the code of before the packages goes on with this code: nothing is lost, doubled or done again.

`tests/fixtures/begun_before_the_rooms` holds its storage, as a driver that was killed left it, and what that code
printed of it (README.md there says how it was made).
"""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from study.ledger.ledger import Ledger
from study.spec.launched import stored_spec
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.tracking.mlflow_store import MlflowStore
from tests.helpers.driver_process import assert_sound
from tests.helpers.mlflow_stores import runs_by_key
from tests.helpers.small_studies import attempts_of, run_folders

BEGUN = Path(__file__).resolve().parents[2] / "fixtures" / "begun_before_the_rooms"
MADE_AT = "/tmp/begun/storage"  # MLflow's database and some records hold the absolute path of the storage
STUDY = "begun"
INTERRUPTED = RunKey("search", "cosine", 1, "cat-1", 0)


def unpacked(root: Path) -> Storage:
    """The storage under `root`, as if it had been made there."""
    root.mkdir(parents=True)
    with tarfile.open(BEGUN / "storage.tar.xz") as archive:
        archive.extractall(root, filter="data")
    for path in root.rglob("*"):
        if path.suffix in (".json", ".jsonl", ".yaml"):
            path.write_bytes(path.read_bytes().replace(MADE_AT.encode(), str(root).encode()))
    with closing(sqlite3.connect(root / "mlflow.db")) as database, database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(f"update {table} set {column} = replace({column}, ?, ?)", (MADE_AT, str(root)))
    return Storage(root, STUDY)


def command(*words: str) -> str:
    """What a command prints; it must end well."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MLFLOW", "STUDY", "RAY_ADDRESS"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "study.cli", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def printed_then(name: str) -> str:
    """What the code of then printed of the storage."""
    return (BEGUN / name).read_text()


def by_run(table: str) -> dict[str, dict[str, str]]:
    return {row["run_key"]: row for row in csv.DictReader(io.StringIO(table))}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def trials(storage: Storage) -> dict[tuple[Any, ...], Any]:
    """Every trial of the ledger: what was proposed, and how its runs stand."""
    spec = stored_spec(storage)
    ledger = Ledger(storage.ledger_url, storage.study)
    return {
        (arm, phase, record.number, record.subject, record.seed): (
            record.params,
            {key: run["state"] for key, run in record.runs.items()},
        )
        for arm in spec.arms
        for phase in ("search", "confirm")
        for record in ledger.trials(arm, phase)
    }


def test_what_was_begun_reads_as_it_did(tmp_path: Path) -> None:
    storage = unpacked(tmp_path / "storage")
    where = ["--storage", str(storage.root)]
    now = csv.DictReader(io.StringIO(command("trials", STUDY, *where, "--format", "csv")))
    then = csv.DictReader(io.StringIO(printed_then("trials.csv")))
    names = then.fieldnames or []
    assert [name for name in now.fieldnames or [] if name in names] == names  # measures may have come since
    assert [{name: row[name] for name in names} for row in now] == list(then)
    status = json.loads(command("status", STUDY, *where, "--format", "json"))
    arms = json.loads(printed_then("status.json"))
    assert [{name: row[name] for name in arms[0]} for row in status] == arms


@pytest.mark.slow
def test_the_same_command_ends_what_was_begun(tmp_path: Path) -> None:
    storage = unpacked(tmp_path / "storage")
    where = ["--storage", str(storage.root)]
    then = by_run(printed_then("trials.csv"))
    finished = {key for key, row in then.items() if row["state"] == "COMPLETE"}
    assert len(finished) == 3
    assert set(then) - finished == {INTERRUPTED.name}
    folders = {key: contents(storage.folder / "runs" / key) for key in finished}
    proposed = trials(storage)
    reports = tmp_path / "reports"

    command("launch", str(BEGUN / "study.yaml"), *where, "--reports", str(reports))

    spec = stored_spec(storage)
    assert len(run_folders(storage)) == spec.number_of_runs() == 7
    assert_sound(spec, storage)
    assert {key: contents(storage.folder / "runs" / key) for key in finished} == folders
    assert attempts_of(storage.run_folder(INTERRUPTED)) == [0, 8]  # from its checkpoint
    now = by_run(command("trials", STUDY, *where, "--format", "csv"))
    assert {row["state"] for row in now.values()} == {"COMPLETE"}
    for key in finished:
        assert {name: now[key][name] for name in then[key] if name in now[key]} == then[key]
    for trial, (params, runs) in proposed.items():
        again, states = trials(storage)[trial]
        assert again == params
        assert {key: states[key] for key, state in runs.items() if state == "COMPLETE"} == {
            key: state for key, state in runs.items() if state == "COMPLETE"
        }
    assert_mlflow_has_each_once(storage, then)
    assert_reported(reports, storage)


def assert_mlflow_has_each_once(storage: Storage, then: dict[str, dict[str, str]]) -> None:
    store = MlflowStore(storage.tracking_uri, storage.study, storage.artifact_root)
    found = runs_by_key(store)
    assert set(found) == {key.name for key in run_folders(storage)}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    for key, row in then.items():
        assert row["mlflow_run_id"] in ("", found[key].info.run_id)
    for run in found.values():
        assert store.client.list_artifacts(run.info.run_id, "images")


def assert_reported(reports: Path, storage: Storage) -> None:
    """The launch has left a report of all runs, those of the code of before too."""
    table = (reports / STUDY / "data" / "runs.csv").read_text()
    assert len(by_run(table)) == 7
    best = json.loads(command("best", STUDY, "--storage", str(storage.root), "--format", "json"))
    assert {row["arm"] for row in best} == {"cosine", "constant"}
