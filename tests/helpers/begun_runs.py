"""Run folders in every state, made by the fake runner without Ray, under a driver that is alive or not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from study.driver.claim import claimed
from study.driver.heartbeat import Heartbeat
from study.spec.study_spec import StudySpec
from study.storage.attempts import note_worker_failure
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.storage.run_result import write_failure
from study.worker.attempt import Attempt
from study.worker.order import Order
from tests.helpers.small_studies import RUNNER, small_study, storage_of
from trainables.run_config import RunConfig

SESSION = "this-driver"
COMPLETE = RunKey("search", "cosine", 0, "cat-1", 0)
FAILED = RunKey("search", "cosine", 1, "cat-1", 0)
KILLED = RunKey("search", "constant", 0, "cat-1", 0)
RUNNING = RunKey("search", "constant", 1, "cat-1", 0)
LEFT = RunKey("confirm", "base", 0, "dog-1", 100)
PENDING = RunKey("confirm", "base", 0, "dog-1", 101)


def config_of(spec: StudySpec, storage: Storage, key: RunKey) -> RunConfig:
    """The configuration of one of the runs."""
    params = {} if key.arm == "base" else {"learning_rate": 1e-3, "r": 2}
    return spec.run_config(key, params, storage)


def attempt_at(spec: StudySpec, storage: Storage, key: RunKey, driver_id: str, node: str) -> Attempt:
    """An attempt that captures its output, as a worker makes it."""
    config = config_of(spec, storage, key)
    order = Order(key.name, key.phase, "", config.model_dump_json(), driver_id, RUNNER, "", 1, 0)
    return Attempt(order, capture=True, node=node)


def advance(attempt: Attempt, share: float = 1.0) -> None:
    """Goes on until that share of the steps is done."""
    while True:
        report = attempt.advance(0.0)
        if report["done"] or (share < 1 and report["budget"] >= share):
            return


def begun_study(folder: Path) -> tuple[StudySpec, Storage]:
    """A study of 8 runs: two complete after a death, one failed, one left by an earlier driver, one under way."""
    spec = small_study()
    storage = storage_of(folder, spec, {"": {"step_seconds": 0.001}, FAILED.name: {"fail_at": 3}})
    with claimed(spec, storage), Heartbeat(storage, lambda reason: None):
        pass  # an earlier launch
    for key in (COMPLETE, FAILED):
        advance(attempt_at(spec, storage, key, SESSION, "10.0.0.7/aaaa1111"))
    first = attempt_at(spec, storage, KILLED, SESSION, "10.0.0.7/aaaa1111")
    advance(first, 0.3)
    first.interrupt()
    note_worker_failure(
        storage.run_folder(KILLED), SESSION, reason="worker_died", cause="The actor died\nThe actor is dead"
    )
    advance(attempt_at(spec, storage, KILLED, SESSION, "10.0.0.8/bbbb2222"))
    left = attempt_at(spec, storage, LEFT, "an earlier driver", "10.0.0.9/cccc3333")
    advance(left, 0.5)
    left.interrupt()
    return spec, storage


@contextlib.contextmanager
def driven(spec: StudySpec, storage: Storage) -> Iterator[list[str]]:
    """Drives the study: one run is under way, one waits in Ray. Yields the reasons for which it was asked to stop."""
    reasons: list[str] = []
    running = attempt_at(spec, storage, RUNNING, SESSION, "10.0.0.8/bbbb2222")
    advance(running, 0.5)
    nodes = [{"name": "10.0.0.8/bbbb2222", "cpus": 4.0, "gpus": 1.0}, {"name": "10.0.0.10/dddd4444"}]
    with claimed(spec, storage), Heartbeat(storage, reasons.append) as heartbeat:
        heartbeat.describe = lambda: {
            "driver_id": SESSION,
            "live": [RUNNING.name, PENDING.name],
            "pending": [PENDING.name],
            "limit": 2,
            "nodes": nodes,
        }
        heartbeat.beat()
        yield reasons
    running.interrupt()


def give_up(storage: Storage, key: RunKey) -> None:
    """Ends a run as the driver ends one whose workers died."""
    write_failure(
        storage.run_folder(key),
        reason="worker_died",
        message="its worker died in each of 3 attempts",
        config=config_of(small_study(), storage, key),
    )
