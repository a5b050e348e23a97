"""A tracking server that dies in the middle of a study loses nothing and stops nothing (a real server)."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytest

from study.errors import UserError
from study.local_results import local_results
from study.results import load_results
from study.runs import Storage
from study.tracking.mlflow_store import MlflowStore
from study.tracking.sync import sync
from study.tracking.tracker import Tracker
from tests.study.fake_runs import write_run
from tests.study.mlflow_stores import Server, prepare_store, runs_by_key
from tests.study.test_tracking import ONE, RUNS, assert_exact, go_on, planned, wait_for

TWO = RUNS["search/lora-cosine/0002-cat-1-s0"]
THREE = RUNS["confirm/lora-cosine/0001-dog-1-s100"]


def test_a_server_that_is_killed_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("study.tracking.tracker.LONGEST_PAUSE_SECONDS", 1.0)
    server, storage = Server(tmp_path / "server"), Storage(tmp_path / "storage", "outage")
    server.start()
    try:
        write_run(storage, ONE, finish=False)
        tracker = Tracker(storage, server.uri, poll_seconds=0.1, close_seconds=4.0)
        tracker.follow(planned(storage, ONE))
        store = MlflowStore(server.uri, storage.study, tmp_path)
        wait_for(lambda: ONE.key.name in runs_by_key(store), 120)

        server.kill()
        write_run(storage, TWO)
        started = time.monotonic()
        tracker.follow(planned(storage, TWO))
        assert time.monotonic() - started < 1.0, "following must not wait for the server"
        go_on(storage, ONE)
        wait_for(lambda: tracker.problem is not None)

        server.start()
        wait_for(lambda: {run.info.status for run in runs_by_key(store).values()} == {"FINISHED"}, 120)
        wait_for(lambda: set(runs_by_key(store)) == {ONE.key.name, TWO.key.name}, 120)
        wait_for(lambda: not tracker.unsynced)
        found = load_results(storage, tracking_uri=server.uri)  # images come over HTTP
        pd.testing.assert_frame_equal(found.frame, local_results(storage).frame)
        pd.testing.assert_frame_equal(found.curves, local_results(storage).curves)
        assert [Path(path).read_bytes()[:4] for path in found.images["path"]] == [b"\x89PNG"] * 4
        for run in (ONE, TWO):
            assert_exact(storage, store, run)
    finally:
        server.kill()

    write_run(storage, THREE)
    tracker.follow(planned(storage, THREE))
    started = time.monotonic()
    tracker.close()
    assert time.monotonic() - started < 15, "closing must not wait for a dead server"
    assert THREE.key.name in tracker.unsynced
    assert "study sync outage" in (tracker.message() or "")
    with pytest.raises(UserError, match="does not answer"):
        sync(storage, server.uri)
    with pytest.raises(UserError, match="cannot be read"):
        load_results(storage, tracking_uri=server.uri)

    elsewhere = prepare_store(storage)
    assert sync(storage).created == 3
    for run in (ONE, TWO, THREE):
        assert_exact(storage, elsewhere, run)
