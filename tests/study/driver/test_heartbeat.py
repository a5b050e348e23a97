"""The driver's heartbeat and the request to stop, without Ray."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from study.driver.claim import claimed
from study.driver.heartbeat import Heartbeat
from study.monitor.stop import request_stop
from study.storage.driver_record import Driver, lock_is_held, read_driver
from study.storage.layout import Storage
from tests.helpers.small_studies import small_study, storage_of
from tests.helpers.waiting import wait_for


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.driver.heartbeat.BEAT_SECONDS", 0.05)
    monkeypatch.setattr("study.driver.heartbeat.LOOK_SECONDS", 0.02)


def seen(storage: Storage) -> Driver:
    found = read_driver(storage)
    assert found is not None
    return found


def test_a_driver_is_alive_while_it_holds_the_study_and_says_how_it_ended(tmp_path: Path) -> None:
    spec = small_study()
    storage = storage_of(tmp_path, spec)
    assert read_driver(storage) is None
    assert not lock_is_held(storage)
    with claimed(spec, storage), Heartbeat(storage, lambda reason: None) as heartbeat:
        heartbeat.describe = lambda: {
            "driver_id": "s",
            "live": ["a/b/c"],
            "limit": 4,
            "nodes": [{"name": "n"}],
        }
        wait_for(lambda: seen(storage).live == ("a/b/c",))
        first = seen(storage)
        assert (first.pid, first.driver_id, first.limit, first.id) == (os.getpid(), "s", 4, heartbeat.id)
        assert first.life(storage) == "alive"
        wait_for(lambda: seen(storage).beat > first.beat)
        heartbeat.how = "interrupted by a test"
    last = seen(storage)
    assert (last.life(storage), last.how, last.live) == ("ended", "interrupted by a test", ())
    assert last.ended is not None
    assert last.ended >= last.since


def test_a_killed_driver_is_dead_at_once_on_its_own_machine(tmp_path: Path) -> None:
    code = """
import os, signal, sys, time
from pathlib import Path
from study.driver.claim import claimed
from study.driver.heartbeat import Heartbeat
from tests.helpers.small_studies import small_study, storage_of
spec = small_study()
storage = storage_of(Path(sys.argv[1]), spec)
with claimed(spec, storage), Heartbeat(storage, print):
    print("beats", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "beats\n"
    storage = Storage(tmp_path, "small")
    assert seen(storage).life(storage) == "alive"
    process.kill()
    process.wait()
    assert seen(storage).life(storage) == "dead"


def test_elsewhere_the_last_heartbeat_decides(tmp_path: Path) -> None:
    storage = Storage(tmp_path, "small")
    now = time.time()
    elsewhere = Driver("id", 1, "another-host", now - 900, now - 5)
    assert elsewhere.life(storage) == "alive"
    assert replace(elsewhere, beat=now - 300).life(storage) == "dead"
    here = replace(elsewhere, host=socket.gethostname(), folder=str(storage.folder.resolve()))
    assert here.life(storage) == "dead"  # nobody holds the lock
    another_working_copy = replace(here, folder="/another/working/copy")
    assert another_working_copy.life(storage) == "alive"
    assert replace(another_working_copy, beat=now - 300).life(storage) == "dead"


def test_a_request_reaches_the_driver_that_it_names_and_no_other(tmp_path: Path) -> None:
    spec = small_study()
    storage = storage_of(tmp_path, spec)
    reasons: list[str] = []
    with claimed(spec, storage), Heartbeat(storage, reasons.append) as heartbeat:
        request_stop(storage, replace(seen(storage), id="an earlier launch"))
        time.sleep(0.3)
        assert reasons == []
        request_stop(storage, seen(storage))
        wait_for(lambda: bool(reasons))
        assert "study stop" in reasons[0]
        first = heartbeat.id
    assert not (storage.folder / "stop-request.json").exists()
    request_stop(storage, replace(seen(storage), id=first))  # too late: that driver has let go
    later: list[str] = []
    with claimed(spec, storage), Heartbeat(storage, later.append):
        time.sleep(0.2)
    assert later == []


def test_an_unreadable_file_is_no_driver(tmp_path: Path) -> None:
    storage = Storage(tmp_path, "small")
    storage.folder.mkdir()
    for content in ("", "[1]", "{}", json.dumps({"id": 1, "live": 3})):
        (storage.folder / "driver.json").write_text(content)
        assert read_driver(storage) is None
