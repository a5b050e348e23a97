"""What storage and nodes do is not a run's fault: it is put back, after a pause, and what lasts ends the launch."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy.exc

from study.cluster.ray_cluster import SETTINGS, environment
from study.dispatch.dispatcher import MAX_REFUSALS, Dispatcher
from study.dispatch.run_queue import RunQueue
from study.driver.launch_failures import what_failed
from study.ledger.open_ledger import open_ledger
from study.ray_tune import searcher as search
from study.ray_tune.experiment import PREEMPTED
from study.spec.study_spec import StudySpec
from study.storage.attempts import note_attempt, worker_failures
from study.storage.layout import Storage
from study.storage.run_result import read_result
from tests.helpers.small_studies import small_study, storage_of
from trainables.errors import UserError

FULL = "ray::RunWorker.train()\nstudy.worker.workspace.WorkspaceError: the storage failed: no room; make room (on here)"


def dispatcher(storage: Storage, spec: StudySpec, notes: list[str]) -> Dispatcher:
    return Dispatcher(
        RunQueue(spec, storage, open_ledger(spec, storage)), spec.resources, runner="", resident="", max_concurrent=4,
        on_start=lambda run: None, note=notes.append, study=spec.name, preempted=PREEMPTED,
    )  # fmt: skip


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A monotonic clock that the test moves."""
    now = [1000.0]
    monkeypatch.setattr(search.time, "monotonic", lambda: now[0])
    return now


def test_a_storage_that_refuses_is_given_time_and_then_ends_the_launch(
    fast_path: Path, clock: list[float]
) -> None:
    spec, notes = small_study(resources={"max_attempts": 50}), []
    here = dispatcher(storage_of(fast_path, spec), spec, notes)
    waited = []
    for number in range(MAX_REFUSALS):
        begin = clock[0]
        while (given := here.next_order(str(number))) is None:
            clock[0] += 0.5
        waited.append(clock[0] - begin)
        folder = fast_path / spec.name / "runs" / given.key
        folder.mkdir(parents=True, exist_ok=True)
        note_attempt(folder, here.driver_id)
        assert here.trouble is None
        here.died(str(number), FULL)
        assert read_result(folder) is None
        assert worker_failures(folder)[-1]["reason"] == "storage"
    assert waited == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0]
    assert here.trouble == "the storage failed: no room; make room (on here)"
    clock[0] += 1000.0
    assert here.next_order("more") is None
    assert here.queue.live == ()


def test_refusals_and_preemptions_use_up_no_attempts(fast_path: Path, clock: list[float]) -> None:
    spec, notes = small_study(resources={"max_attempts": 2}), []
    here = dispatcher(storage_of(fast_path, spec), spec, notes)

    def attempt(trial: str, cause: str, node: str = "10.0.0.1/aaaaaaaa", *, begins: bool = True) -> Path:
        clock[0] += 100.0
        given = here.next_order(trial)
        assert given is not None
        folder = fast_path / spec.name / "runs" / given.key
        folder.mkdir(parents=True, exist_ok=True)
        if begins:
            note_attempt(folder, here.driver_id, node)
        if trial == "reset":
            here.announced["c" * 56] = clock[0]
        here.died(trial, cause)
        return folder

    folders = [attempt("a", FULL)]
    said = "The actor died unexpectedly ...: the actor's node was preempted: Node was forcibly preempted"
    folders += [attempt(f"b{number}", said) for number in range(4)]
    here.announced["bbbbbbbb" + 48 * "0"] = 0.0
    folders += [attempt("early", "the node went before its notice was over", "10.0.0.2/bbbbbbbb")]
    folders += [
        attempt(
            "worker_group",
            "study.ray_tune.distributed_attempt.WorkersPreempted: the workers of the run are gone: ...",
        )
    ]
    folders += [attempt("reset", "a warm worker of a node that is going died before it began", begins=False)]
    assert [death["reason"] for death in worker_failures(folders[0])] == ["storage"] + 7 * ["preempted"]
    folders += [attempt("c", "SIGKILL before it began, and long after those nodes", begins=False)]
    assert len(set(folders)) == 1, "interrupted runs come first"
    assert read_result(folders[0]) is None
    folders += [attempt("d", "SIGKILL")]
    result = read_result(folders[0])
    assert result is not None
    assert result.reason == "worker_died"
    assert "each of 2 attempts" in str(result.message)


def test_tune_tries_no_run_again_by_itself_that_was_preempted() -> None:
    """It would do so under the same order, and nobody would hear of the attempt that is gone."""
    from ray.exceptions import RayActorError
    from ray.tune.experiment import Trial

    for settings, again in (({}, True), (SETTINGS, False)):
        trial = Trial("RunWorker", stub=True, max_failures=0)
        with environment(settings):
            trial._handle_ray_actor_error(RayActorError(preempted=True))
        assert trial.should_recover() is again


def test_what_broke_a_launch_off_is_said_with_its_remedy() -> None:
    full = sqlalchemy.exc.OperationalError("update", {}, sqlite3.OperationalError("database or disk is full"))
    assert what_failed(full) == "the ledger failed: database or disk is full; make room"
    wrapped = RuntimeError("Tune")
    wrapped.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert what_failed(wrapped).endswith("; make room")
    assert what_failed(UserError("the server stays away; start it")) == "the server stays away; start it"
    assert what_failed(ValueError("one\ntwo")) == "ValueError: two"
