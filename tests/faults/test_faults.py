"""Faults with fixed seeds into real studies: a few in the default suite, some twenty nightly.

`python -m benchmarks.faults` injects any number.

Each study is real training by `study launch` on tiny models, several runs at once, with checkpoints every few steps.
What must hold afterwards is said in `tests/faults/harness/checker.py`.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness.injectors import KINDS, SETTINGS
from tests.faults.harness.session import Plan, Session, plans, table
from tests.faults.harness.settings import close_servers, impossible

RECORDS: list[dict[str, Any]] = []

SMOKE = (
    "worker_kill",
    "driver_kill",
)  # damaged checkpoints by day: tests/trainables/training/test_checkpoint*.py
LOCAL = [
    ("worker_kill", "ledger_locked", "disk_error", "clock_jump", "driver_kill", "corrupt_events", "sigterm"),
    ("raylet_kill", "corrupt_checkpoint", "disk_slow", "all_workers_kill", "group_kill", "second_signal"),
]


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="faults-", dir=memory if memory.is_dir() else None) as folder:
        made = Session(Path(folder), RECORDS.append, print)
        made.prepare()
        yield made
        close_servers()


def skip_without(setting: str) -> None:
    if reason := impossible().get(setting):
        pytest.skip(reason)


def assert_overcome(session: Session, plan: Plan, spare: int = 2) -> None:
    """The study ends as if nothing had hit it; it may end before the last `spare` faults."""
    injected = session.run(plan)
    study = RECORDS[-1]
    assert study["record"] == "study"
    assert not study["hung"], study
    assert not study["lost"], study
    assert not study["doubled"], study
    assert injected >= len(plan.kinds) - spare, "the study ended before its faults"
    assert table([record for record in RECORDS if record["study"] == study["study"]])[1]


@pytest.mark.slow
def test_a_few_faults_of_processes(session: Session) -> None:
    few = replace(session, usual="few")
    few.prepare()
    assert_overcome(few, Plan(11, 1, "local", SMOKE), spare=0)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("number", range(len(LOCAL)))
def test_faults_of_processes_storage_and_time(session: Session, number: int) -> None:
    assert_overcome(session, Plan(11, number, "local", LOCAL[number]))


@pytest.mark.slow
@pytest.mark.nightly
def test_faults_of_servers(session: Session) -> None:
    skip_without("served")
    kinds = ("mlflow_hang", "database_restart", "mlflow_error", "database_restart")
    assert_overcome(session, Plan(11, 10, "served", kinds))


@pytest.mark.slow
@pytest.mark.nightly
def test_nodes_that_go_and_one_that_comes_back(session: Session) -> None:
    assert_overcome(session, Plan(11, 20, "silent", ("node_lease_lost", "node_lost", "node_drained")))


@pytest.mark.slow
@pytest.mark.nightly
def test_hosts_that_the_network_parts(session: Session) -> None:
    skip_without("hosts")
    assert_overcome(session, Plan(11, 50, "hosts", ("network_flaps", "host_cut_off")))


@pytest.mark.slow
@pytest.mark.nightly
def test_a_storage_at_a_url(session: Session) -> None:
    kinds = ("store_error", "corrupt_ledger_copy", "corrupt_stored_checkpoint")
    assert_overcome(session, Plan(11, 40, "url", kinds))


@pytest.mark.slow
@pytest.mark.nightly
def test_a_disk_that_is_full(session: Session) -> None:
    skip_without("full")
    assert_overcome(session, Plan(11, 30, "full", ("disk_full",)))


def test_plans_are_the_same_for_the_same_seed_and_hold_every_kind() -> None:
    first, again = (list(itertools.islice(plans(5, list(KINDS)), 30)) for _ in range(2))
    assert first == again
    once = list(itertools.takewhile(lambda plan: plan.number < 8, first))
    assert {kind for plan in once for kind in plan.kinds} <= set(KINDS)
    for plan in first:
        assert set(plan.kinds) <= set(SETTINGS[plan.setting])


def test_the_table_counts_what_went_wrong() -> None:
    good = {
        "record": "study",
        "study": "a",
        "kinds": ["worker_kill"],
        "lost": [],
        "doubled": [],
        "hung": None,
    }
    bad = {**good, "study": "b", "kinds": ["worker_kill", "sigint"], "lost": ["one", "two"]}
    hung = {**good, "study": "c", "kinds": ["sigint"], "hung": "the end"}
    faults = [
        {"record": "fault", "study": "a", "kind": "worker_kill", "seconds": value} for value in (1.0, 4.0)
    ]
    rows, well = table([good, *faults])
    assert well
    assert rows[1] == ["worker_kill", "1", "1", "0", "0", "0", "2.5", "4.0"]
    rows, well = table([good, bad, hung, *faults])
    assert not well
    assert rows[1][:4] == ["worker_kill", "2", "1", "2"]
    assert rows[-1][:6] == ["all", "4", "1", "4", "0", "1"]
