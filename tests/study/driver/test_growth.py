"""Clusters that grow and shrink while a study runs: nodes that come late are used, nodes that go cost nothing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from study.ledger.ledger import Ledger
from study.spec.study_spec import StudySpec
from study.storage.driver_record import read_driver
from study.storage.layout import Storage
from tests.helpers.driver_process import PATIENCE, Driver
from tests.helpers.ray_nodes import OBJECT_STORE_BYTES, autoscaling_cluster, cluster_of_nodes
from tests.helpers.small_studies import RESIDENT, RUNNER, results, run_folders, small_study, storage_of
from trainables.events import read_events

pytestmark = pytest.mark.slow


def under_way(storage: Storage) -> set[int]:
    """Process ids of the runs that are under way now: those that began, have no end, and whose process lives."""
    found = set()
    for folder in run_folders(storage).values():
        events = read_events(folder)
        if events and not (folder / "result.json").exists():
            started = [event.data["pid"] for event in events if event.kind == "started"]
            if started and Path(f"/proc/{started[-1]}").exists():
                found.add(started[-1])
    return found


def given_out(spec: StudySpec, storage: Storage) -> int:
    """Runs that are RUNNING in the ledger: under way, or waiting in Ray."""
    ledger = Ledger(storage.ledger_url, spec.name)
    records = [
        record for arm in spec.arms for phase in ("search", "confirm") for record in ledger.trials(arm, phase)
    ]
    return sum(run["state"] == "RUNNING" for record in records for run in record.runs.values())


def places(storage: Storage) -> int | None:
    """Runs that the driver would have under way at once, as it says itself."""
    driver = read_driver(storage)
    return driver.limit if driver is not None else None


def joining(spec: StudySpec, storage: Storage, address: str) -> Driver:
    return Driver(spec, storage, RUNNER, RESIDENT, address)


def wait_until(condition: Callable[[], bool], driver: Driver) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert driver.process.poll() is None, f"the driver has ended: {driver.process.communicate()}"
        assert time.monotonic() < end, "the moment never came"
        time.sleep(0.1)


def assert_whole(spec: StudySpec, storage: Storage, outcome: dict[str, Any]) -> None:
    assert (outcome["interrupted"], outcome["failed"]) == (False, [])
    found = results(storage)
    assert len(found) == spec.number_of_runs()
    assert {result.state for result in found.values() if result is not None} == {"COMPLETE"}
    assert None not in found.values()
    assert given_out(spec, storage) == 0


def test_a_node_that_comes_late_is_used_at_once_and_one_that_goes_loses_nothing(fast_path: Path) -> None:
    spec = small_study(confirm={"seeds": [100, 101]}, budget={"max_train_steps": 100})
    storage = storage_of(fast_path, spec, {"": {"step_seconds": 1.0}})  # no run ends before enough is seen
    with cluster_of_nodes() as nodes:
        node = {"object_store_memory": OBJECT_STORE_BYTES}
        nodes.add_node(num_cpus=1, **node)
        driver = joining(spec, storage, nodes.address)
        wait_until(lambda: len(under_way(storage)) == 1, driver)
        assert given_out(spec, storage) == 1
        late = nodes.add_node(num_cpus=2, **node)
        wait_until(lambda: len(under_way(storage)) == 3, driver)
        nodes.remove_node(late, allow_graceful=False)
        wait_until(lambda: places(storage) == 1 and len(under_way(storage)) == 1, driver)
        storage_of(fast_path, spec, {"": {"step_seconds": 0.0}})
        outcome = driver.finish()
    assert_whole(spec, storage, outcome)
    lost = [folder for folder in run_folders(storage).values() if len(attempts(folder)) > 1]
    assert len(lost) == 2  # those that ran on the node that went, and no other


def attempts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "attempts.jsonl").read_text().splitlines()]


@pytest.mark.nightly
def test_an_autoscaler_brings_the_nodes_that_the_study_asks_for(fast_path: Path) -> None:
    asked = {"max_concurrent_runs": 2}
    spec = small_study(resources=asked, search={"trials": 2}, confirm={"seeds": [100]})
    storage = storage_of(fast_path, spec, {"": {"step_seconds": 5.0}})
    with autoscaling_cluster({"CPU": 1}, most=2) as (address, environment):
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            driver = joining(spec, storage, address)
            # Both are given out while the cluster has not a single CPU: this is what the autoscaler sees.
            wait_until(lambda: len(under_way(storage)) == 2, driver)
            storage_of(fast_path, spec, {"": {"step_seconds": 0.0}})
            outcome = driver.finish()
        finally:
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    assert_whole(spec, storage, outcome)
