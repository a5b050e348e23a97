"""What docs/cluster.md recommends, in one: runs at a storage URL, ledger on PostgreSQL, an MLflow server.

Nothing that counts is on the driver's machine, so that it may burn down.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.mlflow_server import mlflow_server
from benchmarks.support.s3_server import CREDENTIALS, Proxy, proxy, s3_server
from study.results.run_rows import rows
from study.storage.layout import Storage, storage_at
from study.tracking.mlflow_store import MlflowStore
from study.worker.workspace import scratch_root
from tests.helpers.ledgers_compared import check_ledger
from tests.helpers.mlflow_stores import copied_template, runs_by_key
from tests.helpers.small_studies import RESIDENT, RUNNER, small_study
from tests.helpers.studies_at_a_url import ended_there, set_rules
from trainables.events import read_events

PATIENCE = 240.0
ROOT = Path(__file__).resolve().parents[2]
COMMAND = f"""
import sys
import study.driver.launch as launch
launch.Workers.__init__.__defaults__ = ({RUNNER!r}, {RESIDENT!r}, 5.0, '')  # the fake runner; all else is real
from study.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.nightly
def test_the_driver_s_machine_burns_down(
    fast_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = small_study("elsewhere", storage={"ledger_url": database}, confirm={"seeds": [100]})
    file = fast_path / "elsewhere.yaml"
    file.write_text(spec.to_yaml())
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with (
        s3_server() as port,
        proxy(port) as s3,
        mlflow_server(fast_path / "mlflow", f"sqlite:///{copied_template(fast_path / 'mlflow')}") as server,
    ):
        url = s3.url("all")
        words = ["launch", str(file), "--storage", url, "--tracking-uri", server.uri, "--no-report"]

        # The first machine, in the middle of things.
        storage = machine(fast_path / "first", url, spec.name, {"": {"step_seconds": 0.2}}, monkeypatch)
        driver = launched(words, fast_path / "first")
        end = time.monotonic() + PATIENCE
        while len(s3_results(s3, spec.name)) < 3:
            assert driver.poll() is None, (fast_path / "first.log").read_text()
            assert time.monotonic() < end, (fast_path / "first.log").read_text()
            time.sleep(0.1)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        ended = s3_results(s3, spec.name)
        shutil.rmtree(fast_path / "first")

        # The second has never heard of the study.
        storage = machine(fast_path / "second", url, spec.name, {}, monkeypatch)
        driver = launched(words, fast_path / "second")
        assert driver.wait(PATIENCE) == 0, (fast_path / "second.log").read_text()

        check_ledger(spec, storage)
        assert len(s3_results(s3, spec.name)) == spec.number_of_runs()
        assert Counter(row["state"] for row in rows(storage)) == {"COMPLETE": spec.number_of_runs()}
        tried = {name: times_begun(storage, name) for name in ended}
        assert tried == dict.fromkeys(ended, 1), "what had ended was trained again"
        tracked = runs_by_key(MlflowStore(server.uri, spec.name, storage.artifact_root))
        assert len(tracked) == spec.number_of_runs()
        assert {run.info.status for run in tracked.values()} == {"FINISHED"}


def machine(
    folder: Path, url: str, study: str, rules: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Storage:
    """A machine with its own disk: working copies and scratch lie there, and nothing else is kept on it."""
    monkeypatch.setenv("STUDY_WORKING_COPIES", str(folder / "copies"))
    monkeypatch.setenv("STUDY_SCRATCH", str(folder / "scratch"))
    set_rules(url, rules)
    assert str(scratch_root(url)).startswith(str(folder))
    return storage_at(url, study)


def launched(words: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with folder.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, *words], cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )


def s3_results(s3: Proxy, study: str) -> set[str]:
    from study.remote.object_store import ObjectStore

    return ended_there(ObjectStore(s3.url("all")), study)


def times_begun(storage: Storage, name: str) -> int:
    return sum(event.kind == "started" for event in read_events(storage.folder / "runs" / name))
