"""What is told of attempts: who worked where, how far it came, and what it died of."""

from __future__ import annotations

import json
from pathlib import Path

from study.results.run_rows import rows
from study.storage.attempts import (
    attempt_history,
    attempts,
    brief_cause,
    node_label,
    note_worker_failure,
    where_failed,
    worker_failures,
)
from study.storage.layout import ATTEMPTS_FILE, DEATHS_FILE, Storage
from study.storage.planned_run import PlannedRun
from study.storage.run_key import RunKey
from study.storage.run_result import write_failure
from study.tracking.sync import sync
from study.worker.attempt import Attempt
from study.worker.order import Order
from tests.helpers.mlflow_stores import prepare_store, runs_by_key
from tests.helpers.small_studies import RUNNER, small_study, storage_of


def planned(folder: Path, **rules: object) -> PlannedRun:
    spec = small_study()
    storage: Storage = storage_of(folder, spec, {"": {"step_seconds": 0.001, **rules}})
    key = RunKey("search", "cosine", 0, "cat-1", 0)
    return PlannedRun(
        key, storage.run_folder(key), spec.run_config(key, {"learning_rate": 1e-3, "r": 2}, storage)
    )


def begin(run: PlannedRun, driver_id: str, node: str) -> Attempt:
    order = Order(run.key.name, run.key.phase, "", run.config.model_dump_json(), driver_id, RUNNER, "", 1, 0)
    return Attempt(order, node=node)


def test_attempts_name_node_steps_and_end(fast_path: Path) -> None:
    run = planned(fast_path)
    first = begin(run, "one", "10.0.0.7/aaaa1111")
    first.advance(0.0)  # an event or two
    while (first.advance(0.0)["budget"] or 0) < 0.3:
        pass
    first.interrupt()
    note_worker_failure(run.folder, "one", reason="worker_died", cause="The actor died unexpectedly\nmore")
    note_worker_failure(run.folder, "one", reason="worker_died", cause="its successor could not even begin")
    second = begin(run, "one", "10.0.0.8/bbbb2222")
    while not second.advance(10)["done"]:
        pass
    lost, done = attempt_history(run.folder)
    assert (lost.number, lost.end, lost.reason) == (1, "died", "worker_died")
    assert lost.node.endswith("(10.0.0.7/aaaa1111)")
    assert 0 < lost.last_step < 8
    assert (done.end, done.last_step) == ("complete", 8)
    assert lost.last_step - 1 <= done.first_step <= lost.last_step  # it goes on from the last checkpoint
    assert done.node.endswith("(10.0.0.8/bbbb2222)")
    assert lost.began <= lost.last_sign <= done.began <= done.last_sign
    assert [death["attempt"] for death in worker_failures(run.folder)] == [1, None]


def test_only_the_living_drivers_last_attempt_is_under_way(fast_path: Path) -> None:
    run = planned(fast_path)
    attempt = begin(run, "one", "")
    attempt.advance(0.0)
    assert [one.end for one in attempt_history(run.folder, driver_id="one")] == [None]
    assert [one.end for one in attempt_history(run.folder, driver_id="two")] == ["interrupted"]
    assert [one.end for one in attempt_history(run.folder)] == ["interrupted"]
    attempt.interrupt()


def test_failures_say_where(fast_path: Path) -> None:
    run = planned(fast_path)
    assert where_failed(run.folder) == "before its first attempt began"
    attempt = begin(run, "one", "10.0.0.7/aaaa1111")
    attempt.advance(0.0)
    attempt.interrupt()
    write_failure(
        run.folder, reason="worker_died", message="its worker died in each of 3 attempts", config=run.config
    )
    host = attempts(run.folder)[0]["host"]
    assert where_failed(run.folder) == f"on {host} (10.0.0.7/aaaa1111), attempt 1"
    (told,) = attempt_history(run.folder)
    assert (told.end, told.reason, told.cause) == (
        "failed",
        "worker_died",
        "its worker died in each of 3 attempts",
    )


def test_places_and_causes_are_short() -> None:
    assert node_label({"host": "gpu-3", "node": "10.0.0.7/aaaa1111"}) == "gpu-3 (10.0.0.7/aaaa1111)"
    assert node_label({"host": "gpu-3"}) == "gpu-3"
    assert node_label({}) == "an unknown node"
    text = "Traceback ...\n  File x\nRuntimeError: a cause\n\tclass_name: RunWorker"
    assert brief_cause(text) == "RuntimeError: a cause"
    assert len(brief_cause("x" * 5000)) == 160
    assert brief_cause("") == ""


def test_a_run_that_failed_before_it_began_is_counted_everywhere(fast_path: Path) -> None:
    """Reports and MLflow must show it as failed, and must not wait for it for ever."""
    run = planned(fast_path)
    storage = Storage(fast_path, small_study().name)
    write_failure(run.folder, reason="worker_died", message="it died at once", config=run.config)
    (row,) = rows(storage)
    assert (row["state"], row["reason"], row["method"]) == ("FAIL", "worker_died", run.config.method)
    store = prepare_store(storage)
    counts = sync(storage, storage.tracking_uri)
    assert (counts.runs, counts.left, counts.problem) == (1, (), None)
    (tracked,) = runs_by_key(store).values()
    assert tracked.info.status == "FAILED"
    assert tracked.data.params["method"] == run.config.method


def test_what_earlier_versions_wrote_is_read(tmp_path: Path) -> None:
    line = {"session": "one", "time": 1.0, "host": "a", "node": "", "pid": 1, "after": 0, "log": 0}
    (tmp_path / ATTEMPTS_FILE).write_text(json.dumps(line) + "\n")
    (tmp_path / DEATHS_FILE).write_text(json.dumps({"session": "one", "attempt": 1, "reason": "x"}) + "\n")
    assert [attempt["driver_id"] for attempt in attempts(tmp_path)] == ["one"]
    assert [death["driver_id"] for death in worker_failures(tmp_path)] == ["one"]
    assert [info.driver_id for info in attempt_history(tmp_path)] == ["one"]
