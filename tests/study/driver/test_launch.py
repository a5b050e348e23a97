"""Studies on a real local Ray cluster, with a runner that trains nothing; one cluster for all tests here."""

from __future__ import annotations

import ipaddress
import os
import signal
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from study.cluster.ray_cluster import Cluster, cluster
from study.driver.launch import Outcome, Workers, launch
from study.ledger.ledger import Ledger
from study.monitor.stop import request_stop
from study.spec.study_spec import StudySpec
from study.storage.driver_record import Driver, read_driver
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from tests.helpers.small_studies import (
    RESIDENT,
    RUNNER,
    Names,
    attempts_of,
    results,
    run_folders,
    small_study,
    storage_of,
)
from trainables.errors import UserError
from trainables.events import read_events

WORKERS = Workers(RUNNER, RESIDENT)


@pytest.fixture(scope="module")
def ray_here() -> Iterator[Cluster]:
    with cluster(cpus=2) as here:
        yield here


def run(spec: StudySpec, storage: Storage, **more: Any) -> Outcome:
    return launch(spec, storage, **{"workers": WORKERS, **more})


def ledger_states(spec: StudySpec, storage: Storage, phase: Any = "search") -> dict[str, list[str]]:
    ledger = Ledger(storage.ledger_url, spec.name)
    return {arm: [record.state for record in ledger.trials(arm, phase)] for arm in spec.arms}


def test_it_listens_on_loopback_only_and_behind_a_token(ray_here: Cluster) -> None:
    assert ray_here.local
    assert ray_here.cpus == 2
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = {
        (process.name(), connection.laddr.ip)
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening
    for name, address in listening:
        found = ipaddress.ip_address(address)
        mapped = getattr(found, "ipv4_mapped", None) or found
        assert mapped.is_loopback, f"{name} listens on {address}"
    words = [" ".join(process.cmdline()) for process in processes]
    assert any("raylet/raylet" in line for line in words)
    unused = ("dashboard/dashboard.py", "monitor.py", "log_monitor")  # there is no dashboard to serve
    assert not [line for line in words if any(name in line for name in unused)]
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) >= 32


def test_failures_of_every_kind_end_their_own_run_only(ray_here: Cluster, fast_path: Path) -> None:
    spec = small_study(resources={"max_attempts": 3})
    rules = {
        "search/cosine/0000": {"nan_at": 3},
        "search/cosine/0001": {"fail_at": 2},
        "search/constant/0000": {"memory_at": 2},
        "search/constant/0001": {"kill_at": 4, "kill_times": 1},
        "search/constant/0002": {"segfault_at": 3},
        "confirm/base/0000-dog-1-s101": {"kill_at": 2},
    }
    storage = storage_of(fast_path, spec, rules)
    followed = Names()
    outcome = run(spec, storage, listeners=[followed])

    assert not outcome.interrupted
    assert {key.name: reason for key, reason in outcome.failed} == {
        "search/cosine/0000-cat-1-s0": "nan_loss",
        "search/cosine/0001-cat-1-s0": "exception",
        "search/constant/0000-cat-1-s0": "out_of_memory",
        "search/constant/0002-cat-1-s0": "crash",
        "confirm/base/0000-dog-1-s101": "worker_died",
    }
    assert ledger_states(spec, storage) == {
        "base": [],
        "cosine": ["FAIL", "FAIL", "COMPLETE"],
        "constant": ["FAIL", "COMPLETE", "FAIL"],
    }
    assert ledger_states(spec, storage, "confirm")["base"] == ["COMPLETE", "FAIL"]
    assert outcome.complete == spec.number_of_runs() - 5

    folders = {key.name: folder for key, folder in run_folders(storage).items()}
    assert set(followed.names) == set(folders)
    assert len(folders) == spec.number_of_runs()
    # Killed once: gone on with from its checkpoint. Killed always: given up after so many attempts.
    assert attempts_of(folders["search/constant/0001-cat-1-s0"]) == [0, 3]
    assert attempts_of(folders["confirm/base/0000-dog-1-s101"]) == [0, 1, 1]
    assert attempts_of(folders["search/constant/0002-cat-1-s0"]) == [0, 2]
    crashed = {key.name: result for key, result in results(storage).items()}["search/constant/0002-cat-1-s0"]
    assert crashed is not None
    assert "Segmentation fault" in (crashed.traceback or "")
    assert "fake_runner.py" in (crashed.traceback or "")
    assert all(
        len(attempts_of(f)) == 1 for name, f in folders.items() if not any(map(name.startswith, rules))
    )
    for arm in spec.arms:
        for phase in ("search", "confirm"):
            for record in Ledger(storage.ledger_url, spec.name).trials(arm, phase):  # type: ignore[arg-type]
                assert all(entry["state"] in ("COMPLETE", "FAIL") for entry in record.runs.values())

    events = [event for folder in folders.values() for event in read_events(folder)]
    assert all(event.data["resident_made"] == 1 for event in events if event.kind == "progress")
    processes = {event.data["pid"] for event in events if event.kind == "started"}
    deaths = 1 + 2 + 3
    assert len(processes) <= 2 + deaths
    assert not (storage.folder / "ray").exists()

    again = run(spec, storage)
    assert (again.failed, again.complete) == (outcome.failed, outcome.complete)
    assert sum(len(attempts_of(folder)) for folder in folders.values()) == spec.number_of_runs() + 4


def test_asha_prunes_in_the_search_only(ray_here: Cluster, fast_path: Path) -> None:
    spec = small_study(
        arms={"cosine": {"method": "lora", "lr_scheduler": "cosine"}},
        search={"trials": 6, "scheduler": {"type": "asha", "grace_fraction": 0.5, "reduction_factor": 2}},
        resources={"max_concurrent_runs": 1},
    )
    rules: dict[str, Any] = {
        f"search/cosine/{number:04d}": {"quality": 0.9 - number / 10} for number in range(6)
    }
    rules["confirm/cosine/0000-dog-1-s101"] = {"quality": 0.01}
    storage = storage_of(fast_path, spec, rules)
    outcome = run(spec, storage)
    states = ledger_states(spec, storage)["cosine"]
    assert states[0] == "COMPLETE"
    assert Counter(states)["PRUNED"] >= 3
    assert outcome.pruned == Counter(states)["PRUNED"]
    assert not outcome.failed
    assert ledger_states(spec, storage, "confirm")["cosine"] == ["COMPLETE", "COMPLETE"]
    for key, result in results(storage).items():
        assert result is not None
        if result.state == "PRUNED":
            steps = [
                event.step for event in read_events(run_folders(storage)[key]) if event.kind == "progress"
            ]
            assert max(steps) <= 5  # stopped at the first event after the rung at step 4


def test_a_watchdog_ends_a_silent_study_and_says_what_it_waited_for(
    ray_here: Cluster, fast_path: Path
) -> None:
    spec = small_study(arms={"base": {"method": "base"}}, confirm={"seeds": [7]})
    storage = storage_of(fast_path, spec, {"": {"silent_seconds": 120}})
    outcome = run(spec, storage, workers=Workers(RUNNER, RESIDENT, watchdog_minutes=1 / 20))
    assert outcome.interrupted
    assert "no heartbeat for 0.05 minutes while waiting for confirm/base/0000-dog-1-s7" in str(
        outcome.message
    )
    assert "run the same command again" in str(outcome.message)
    storage_of(fast_path, spec)
    outcome = run(spec, storage)
    assert (outcome.interrupted, outcome.complete) == (False, 1)


def test_a_warm_worker_that_dies_between_two_runs_is_replaced(ray_here: Cluster, fast_path: Path) -> None:
    """Tune waits for ever for the reset of a dead actor (Ray 2.60), unless it is made to forget it."""
    spec = small_study(
        arms={"base": {"method": "base"}, "cosine": {"method": "lora", "lr_scheduler": "cosine"}},
        search={"trials": 1},
        confirm={"seeds": [100]},
    )
    storage = storage_of(fast_path, spec, {"search/cosine": {"step_seconds": 1.0}})
    base = storage.run_folder(RunKey("confirm", "base", 0, "dog-1", 100))

    def kill_when_idle() -> None:
        while not (base / "result.json").exists():
            time.sleep(0.05)
        time.sleep(1.0)
        os.kill(next(e.data["pid"] for e in read_events(base) if e.kind == "started"), signal.SIGKILL)

    killer = threading.Thread(target=kill_when_idle, daemon=True)
    killer.start()
    outcome = run(spec, storage, workers=Workers(RUNNER, RESIDENT, watchdog_minutes=3))
    killer.join(timeout=1)
    assert not killer.is_alive()
    assert (outcome.interrupted, outcome.failed, outcome.complete) == (False, [], 3)


def test_a_worker_that_can_never_begin_is_given_up(ray_here: Cluster, fast_path: Path) -> None:
    spec = small_study(
        arms={"base": {"method": "base"}}, confirm={"seeds": [7]}, resources={"max_attempts": 2}
    )
    outcome = run(spec, storage_of(fast_path, spec), workers=Workers(RUNNER, "tests.helpers.nowhere:Nothing"))
    assert [reason for _, reason in outcome.failed] == ["worker_died"]
    assert not outcome.interrupted


def test_the_hours_of_the_budget_end_a_launch(ray_here: Cluster, fast_path: Path) -> None:
    spec = small_study(budget={"max_hours": 1e-7})
    outcome = run(spec, storage_of(fast_path, spec))
    assert outcome.interrupted
    assert str(outcome.message).startswith("budget.max_hours = 1e-07 is over; 0 runs have ended")


def test_a_launch_that_waits_for_room_says_so_and_the_watchdog_ends_it(
    ray_here: Cluster, fast_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.driver.launch.WAIT_SECONDS", 1.0)
    spec = small_study(
        resources={"gpus_per_run": 1, "max_concurrent_runs": 2}
    )  # a node may come, but none does
    storage = storage_of(fast_path, spec)
    said: list[str] = []
    workers = Workers(RUNNER, RESIDENT, watchdog_minutes=0.08)
    outcome = run(spec, storage, workers=workers, say=said.append)
    assert outcome.interrupted
    (line,) = [line for line in said if "wait" in line]
    assert line.startswith(
        "2 runs wait for 1 CPU and 1 GPU on one node; the cluster has 1 node with 2 CPUs and no GPU"
    )
    assert "it starts when a larger node joins" in line
    assert "no heartbeat for 0.08 minutes" in (outcome.message or "")
    assert "2 runs wait for 1 CPU and 1 GPU" in (outcome.message or "")
    assert not run_folders(storage)


def test_more_than_the_cluster_has_is_refused(ray_here: Cluster, fast_path: Path) -> None:
    spec = small_study(resources={"gpus_per_run": 1})
    with pytest.raises(
        UserError, match=r"a run needs 1 CPU and 1 GPU .*, but the cluster has 1 node with 2 CPUs and no GPU"
    ):
        run(spec, storage_of(fast_path, spec))


def test_study_stop_ends_in_order_and_the_same_command_goes_on(
    ray_here: Cluster, fast_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.driver.heartbeat.BEAT_SECONDS", 0.2)
    spec = small_study(arms={"base": {"method": "base"}}, confirm={"seeds": [1, 2]})
    storage = storage_of(fast_path, spec, {"": {"step_seconds": 3}})
    seen: list[Driver] = []

    def stop() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            driver = read_driver(storage)
            if driver is not None and len(driver.live) - len(driver.pending) == 2:
                seen.append(driver)
                request_stop(storage, driver)
                return
            time.sleep(0.1)

    thread = threading.Thread(target=stop)
    thread.start()
    outcome = run(spec, storage)
    thread.join()
    assert outcome.interrupted
    assert "interrupted by `study stop`" in (outcome.message or "")
    assert seen[0].limit == 2
    assert {run["name"].split("/")[0] for run in seen[0].nodes} == {"127.0.0.1"}
    ended = read_driver(storage)
    assert ended is not None
    assert ended.life(storage) == "ended"
    assert "study stop" in (ended.how or "")

    storage_of(fast_path, spec)  # quick again
    outcome = run(spec, storage)
    assert (outcome.interrupted, outcome.complete) == (False, 2)


def test_repeated_searches_run_at_once_and_each_choice_is_confirmed_on_its_subjects(
    ray_here: Cluster, fast_path: Path
) -> None:
    spec = small_study(
        subjects=["cat-1", "dog-1", "bird-1", "fox-1"],
        search={"repeats": 2, "trials": 2, "subjects": ["cat-1", "dog-1"]},
        confirm={"subjects": ["bird-1", "fox-1"], "seeds": [100]},
    )
    storage = storage_of(fast_path, spec)
    outcome = run(spec, storage)
    assert (outcome.complete, outcome.failed, outcome.interrupted) == (spec.number_of_runs(), [], False)
    ledger = Ledger(storage.ledger_url, spec.name)
    assert ledger.arms() == list(spec.arms)
    for arm in ("cosine", "constant"):
        assert [record.number for record in ledger.trials(arm)] == [0, 1, 2, 3]
        chosen = [best.number for repeat in (0, 1) if (best := ledger.best(arm, repeat)) is not None]
        confirmed = {record.subject: record.number for record in ledger.trials(arm, "confirm")}
        assert confirmed == dict(zip(["bird-1", "fox-1"], chosen, strict=True))
    assert {key.name for key in run_folders(storage)} == {
        key.name for arm in spec.arms for key in _planned(spec, ledger, arm)
    }


def _planned(spec: StudySpec, ledger: Ledger, arm: str) -> list[RunKey]:
    keys = [key for number in range(2 * spec.trials_of(arm)) for key in spec.search_keys(arm, number)]
    if not spec.trials_of(arm):
        return keys + spec.confirm_keys(arm, 0)
    for repeat in (0, 1):
        best = ledger.best(arm, repeat)
        assert best is not None
        keys += spec.confirm_keys(arm, best.number, repeat)
    return keys
