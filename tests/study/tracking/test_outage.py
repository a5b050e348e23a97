"""Studies on a real tracking server: one that dies meanwhile loses nothing, and many runs are written at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from study.results.from_folders import local_results
from study.results.from_mlflow import mlflow_results
from study.storage.layout import Storage
from study.tracking.mirror import Mirror, OutageError
from study.tracking.mlflow_store import MlflowStore
from study.tracking.parallel import side_by_side
from study.tracking.run_ids import TrackingRecord
from study.tracking.sync import sync
from study.tracking.tracker import Tracker
from tests.helpers.fake_runs import make_study, write_run
from tests.helpers.mlflow_stores import Server, prepare_store, runs_by_key
from tests.helpers.tracked_runs import ONE, RUNS, SOME, assert_exact, go_on, planned
from tests.helpers.waiting import wait_for
from trainables.errors import UserError

TWO = RUNS["search/lora-cosine/0002-cat-1-s0"]
THREE = RUNS["confirm/lora-cosine/0001-dog-1-s100"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.kill()


def test_runs_are_written_to_a_server_side_by_side(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = make_study(tmp_path / "storage", "crowd", runs=list(SOME.values()))
    two_at_once = threading.Barrier(2)
    create_run = MlflowStore.create_run

    def create(store: MlflowStore, name: str, start_time: int, tags: dict[str, str]) -> str:
        if tags["kind"] == "run" and not two_at_once.broken and meetings:
            meetings.pop()
            two_at_once.wait(60)
        return create_run(store, name, start_time, tags)

    meetings = [None] * 2
    monkeypatch.setattr(MlflowStore, "create_run", create)
    mirror = Mirror(storage, server.uri, TrackingRecord(storage))
    mirror.add_all()
    mirror.update()
    mirror.finish()
    assert not two_at_once.broken, "no two runs were written at once"
    assert mirror.pending() == []
    assert (mirror.counts.runs, mirror.counts.created) == (len(SOME), len(SOME))
    store = MlflowStore(server.uri, storage.study, tmp_path)
    ended = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
    for run in SOME.values():
        assert_exact(storage, store, run, ended[run.state])
    parents = runs_by_key(store, "parent")
    assert set(parents) == {f"{run.key.phase}/{run.key.arm}" for run in SOME.values()}
    again = Mirror(storage, server.uri, mirror.record)
    mirror.release()
    again.add_all()
    again.update()
    assert again.counts.runs == 0, "what MLflow holds was written again"
    again.release()


def test_side_by_side_ends_with_the_first_failure_and_begins_nothing_more() -> None:
    done: list[int] = []
    failed = threading.Event()

    def action(number: int) -> None:
        if number == 1:
            failed.set()
            raise OutageError("away")
        assert failed.wait(60)
        time.sleep(0.2)  # the failure becomes known
        done.append(number)

    with pytest.raises(OutageError, match="away"):
        side_by_side(action, range(100), 3)
    assert set(done) <= {0, 2}
    every: list[int] = []
    side_by_side(every.append, range(100), 7)
    assert sorted(every) == list(range(100))
    threads: set[Any] = set()
    side_by_side(lambda _: threads.add(threading.current_thread()), range(5), 1)
    assert threads == {threading.current_thread()}


def test_a_server_that_is_killed_and_comes_back(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("study.tracking.tracker.LONGEST_PAUSE_SECONDS", 1.0)
    storage = Storage(tmp_path / "storage", "outage")
    try:
        write_run(storage, ONE, finish=False)
        tracker = Tracker(storage, server.uri, poll_seconds=0.1, close_seconds=4.0)
        tracker.watch(planned(storage, ONE))
        store = MlflowStore(server.uri, storage.study, tmp_path)
        wait_for(lambda: ONE.key.name in runs_by_key(store), 120)

        server.kill()
        write_run(storage, TWO)
        started = time.monotonic()
        tracker.watch(planned(storage, TWO))
        assert time.monotonic() - started < 1.0, "following must not wait for the server"
        go_on(storage, ONE)
        wait_for(lambda: tracker.problem is not None)

        server.start()
        wait_for(lambda: {run.info.status for run in runs_by_key(store).values()} == {"FINISHED"}, 120)
        wait_for(lambda: set(runs_by_key(store)) == {ONE.key.name, TWO.key.name}, 120)
        wait_for(lambda: not tracker.unsynced)
        # The ids are in a file of their own some seconds later.
        wait_for(lambda: local_results(storage).frame["mlflow_run_id"].notna().all())
        found = mlflow_results(storage, server.uri)  # images come over HTTP
        pd.testing.assert_frame_equal(found.frame, local_results(storage).frame)
        pd.testing.assert_frame_equal(found.curves, local_results(storage).curves)
        assert [Path(path).read_bytes()[:4] for path in found.images["path"]] == [b"\x89PNG"] * 4
        for run in (ONE, TWO):
            assert_exact(storage, store, run)
    finally:
        server.kill()

    write_run(storage, THREE)
    tracker.watch(planned(storage, THREE))
    started = time.monotonic()
    tracker.close()
    assert time.monotonic() - started < 15, "closing must not wait for a dead server"
    assert THREE.key.name in tracker.unsynced
    assert "study sync outage" in (tracker.message() or "")
    with pytest.raises(UserError, match="does not answer"):
        sync(storage, server.uri)
    with pytest.raises(UserError, match="cannot be read"):
        mlflow_results(storage, server.uri)

    elsewhere = prepare_store(storage)
    assert sync(storage).created == 3
    for run in (ONE, TWO, THREE):
        assert_exact(storage, elsewhere, run)
