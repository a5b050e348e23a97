"""Whole studies on a storage URL: resumed on another machine, read from a third, one driver at a time."""

import contextlib
import errno
import json
import random
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from benchmarks.support.s3_server import CREDENTIALS, Proxy
from study.api import best_rows, status_rows
from study.cluster.ray_cluster import cluster
from study.dispatch.run_queue import RunQueue
from study.driver.claim import claimed
from study.driver.heartbeat import Heartbeat
from study.driver.launch import Outcome, Workers, launch
from study.driver.remote_sync import storage_hooks
from study.ledger.ledger import Ledger
from study.ledger.open_ledger import open_ledger
from study.monitor.stop import stop_study
from study.remote.ledger_backup import LedgerCopy, ledger_file, pull_ledger
from study.remote.object_store import ObjectStore, StoreError
from study.remote.working_copy import RunCopies, fetch_weights
from study.results.run_rows import rows
from study.spec.launched import readable_storage
from study.storage.driver_record import read_driver
from study.storage.layout import DRIVER_FILE, RUNS, STORAGE_ENTRIES, Storage, storage_at
from study.storage.planned_run import PlannedRun
from study.storage.run_result import write_failure
from study.tracking.run_ids import TrackingRecord
from study.tracking.sync import sync
from study.worker.attempt import Attempt
from tests.helpers.driver_process import Driver, assert_sound
from tests.helpers.mlflow_stores import copied_template
from tests.helpers.runs_at_a_url import carry_out, order
from tests.helpers.small_studies import RESIDENT, RUNNER, SPACE, small_study
from tests.helpers.studies_at_a_url import ended_there, set_rules
from trainables.errors import UserError
from trainables.events import read_events


@pytest.fixture(scope="module")
def cluster_and_scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A cluster that outlives its studies, and the scratch folder of its workers."""
    scratch = tmp_path_factory.mktemp("scratch")
    with pytest.MonkeyPatch.context() as workers:
        for name, value in {**CREDENTIALS, "STUDY_SCRATCH": str(scratch)}.items():
            workers.setenv(name, value)
        with cluster(cpus=2):
            yield ray.get_runtime_context().gcs_address, scratch


@pytest.fixture
def ray_here(cluster_and_scratch: tuple[str, Path], s3: Proxy, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a cluster that studies join instead of starting one each; it outlives them."""
    address, scratch = cluster_and_scratch
    monkeypatch.setenv("STUDY_SCRATCH", str(scratch))
    return address


def living(url: str, study: str) -> list[str]:
    """The id of the driver that lives by its sign at the URL."""
    storage = readable_storage(url, study)
    driver = read_driver(storage)
    return [driver.id] if driver is not None and driver.life(storage) == "alive" and driver.live else []


@pytest.mark.slow
def test_a_killed_driver_is_succeeded_on_another_machine(
    ray_here: str, s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = small_study(
        arms={"base": {"method": "base"}, "cosine": {"method": "lora", "search_space": SPACE}},
        search={"trials": 4},
        confirm={"seeds": [100]},
        budget={"max_train_steps": 20},
    )
    url = s3.url("killed")
    set_rules(url, {"": {"step_seconds": 0.1}})
    storage, store = storage_at(url, spec.name), ObjectStore(url)
    copied_template(storage.root)
    driver = Driver(spec, storage)
    driver.wait_until(lambda: len(ended_there(store, spec.name)) >= 1)
    driver.kill()
    ended = ended_there(store, spec.name)
    dead = read_driver(storage)
    shutil.rmtree(storage.root)  # another machine has no working copy
    copied_template(storage.root)

    # Its successor is asked to stop from a machine that sees the URL alone, which takes its time.
    set_rules(url, {"": {"step_seconds": 1.0}})
    driver = Driver(spec, storage, RUNNER, RESIDENT, ray_here)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("STUDY_WORKING_COPIES", str(tmp_path / "second"))
        elsewhere.setattr("study.storage.driver_record.socket.gethostname", lambda: "elsewhere")
        driver.wait_until(lambda: bool(set(living(url, spec.name)) - {dead.id if dead else ""}))
        assert stop_study(readable_storage(url, spec.name), wait=True, timeout=120) == 0
    outcome = driver.finish()
    assert "`study stop` on elsewhere" in outcome["message"]

    set_rules(url, {"": {"step_seconds": 0.02}})
    whole = launch(spec, storage, workers=Workers(RUNNER, RESIDENT))
    assert not whole.interrupted
    assert whole.total == spec.number_of_runs()
    assert not whole.failed
    assert_sound(spec, storage)
    tried = {
        name: sum(event.kind == "started" for event in read_events(storage.folder / RUNS / name))
        for name in ended
    }
    assert tried == dict.fromkeys(ended, 1)  # what had ended was not trained again

    # A third machine reads, and sees the same.
    monkeypatch.setenv("STUDY_WORKING_COPIES", str(tmp_path / "third"))
    third = readable_storage(url, spec.name)
    assert third.root != storage.root
    states = Counter(row["state"] for row in rows(third))
    assert states == {"COMPLETE": spec.number_of_runs()}
    assert sum(row["complete"] for row in status_rows(third)) == spec.number_of_runs()
    assert best_rows(third) == best_rows(storage)
    asked = sum(s3.requests.values())
    readable_storage(url, spec.name)
    assert (
        sum(s3.requests.values()) - asked <= 5
    )  # nothing has changed: listings, driver's sign, MLflow's names
    with pytest.raises(UserError, match="studies there: small"):
        readable_storage(url, "smell")
    assert not (third.root / "smell").exists()

    # The same command again has nothing to do, and asks for little.
    asked = sum(s3.requests.values())
    again = launch(spec, third, workers=Workers(RUNNER, RESIDENT))
    assert set(store.folders()) <= {spec.name, *STORAGE_ENTRIES}
    assert {path.name for path in third.root.iterdir()} <= {spec.name, *STORAGE_ENTRIES}
    assert (again.total, again.interrupted) == (spec.number_of_runs(), False)
    assert sum(s3.requests.values()) - asked < 40


def refused(spec: object, storage: Storage) -> str:
    with pytest.raises(UserError) as error:
        launch(spec, storage, workers=Workers(RUNNER, RESIDENT))  # type: ignore[arg-type]
    return str(error.value)


def test_launches_that_the_url_refuses(s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, url = small_study(), s3.url("refused")
    storage, store = storage_at(url, spec.name), ObjectStore(url)
    # Runs of another ledger.
    prefix = f"small/{RUNS}/search/cosine/0000-cat-1-s0/0001-abcdef01"
    store.put(f"{prefix}/manifest.json", json.dumps({"events": [], "files": {}}).encode())
    assert "its ledger does not know: search/cosine/0000-cat-1-s0" in refused(spec, storage)
    store.delete_under(f"small/{RUNS}")
    # A driver that lives, on another machine.
    monkeypatch.setattr("study.remote.lease.EXPIRY_SECONDS", 30.0)
    monkeypatch.setattr("study.remote.lease._LOOK_SECONDS", 0.2)
    holder = {"driver": "other", "generation": 7, "host": "elsewhere", "machine": "m", "pid": 1, "beat": 1}
    store.put("small/driver/000007-other/claim.json", json.dumps(holder).encode())
    over = threading.Event()

    def live() -> None:
        beat = 1
        while not over.wait(0.3):
            beat += 1
            store.put("small/driver/000007-other/claim.json", json.dumps({**holder, "beat": beat}).encode())

    thread = threading.Thread(target=live)
    thread.start()
    assert "is being run by process 1 on elsewhere" in refused(spec, storage)
    over.set()
    thread.join()
    # Another study of the same name.
    store.put("small/study.json", json.dumps(small_study(budget={"max_train_steps": 9}).record()).encode())
    shutil.rmtree(storage.root)
    assert "budget.max_train_steps: 9 -> 8" in refused(spec, storage)
    s3.answer = lambda method, path: 403
    shutil.rmtree(storage.root)
    assert "access is denied" in refused(spec, storage)


def test_a_dead_drivers_lease_is_taken_over(s3: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    from study.remote.lease import leased

    monkeypatch.setattr("study.remote.lease.EXPIRY_SECONDS", 1.0)
    monkeypatch.setattr("study.remote.lease._LOOK_SECONDS", 0.2)
    monkeypatch.setattr("study.remote.lease.HEARTBEAT_SECONDS", 0.2)
    url = s3.url("lease")
    storage, store = storage_at(url, "small"), ObjectStore(url)
    holder = {"driver": "other", "generation": 7, "host": "elsewhere", "machine": "m", "pid": 1, "beat": 1}
    store.put("small/driver/000007-other/claim.json", json.dumps(holder).encode())
    said: list[str] = []
    lost: list[str] = []
    with leased(store, storage, lost=lost.append, say=said.append) as generation:
        assert generation == 8
        assert "waiting" in said[0]
        time.sleep(1)
        assert not lost
        store.put("small/driver/000009-third/claim.json", json.dumps(holder).encode())
        deadline = time.monotonic() + 30
        while not lost and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "process 1 on elsewhere has taken over" in lost[0]


def test_a_damaged_copy_of_the_ledger_is_passed_over(s3: Proxy, tmp_path: Path) -> None:
    url = s3.url("ledger")
    storage, store = storage_at(url, "small"), ObjectStore(url)
    ledger = Ledger(storage.ledger_url, "small")
    copy = LedgerCopy(store, storage, 1)
    copy.push()
    asked = sum(s3.requests.values())
    copy.push()
    assert sum(s3.requests.values()) == asked  # unchanged: nothing is copied
    ledger.open_confirm("arm", "lora", ["quality"])
    copy.push()
    copies = sorted(store.list("small/ledger"))
    assert len(copies) == 2
    for damaged in copies:  # whichever it is, what was copied last is known: its runs have been given out
        whole = store.get(damaged) or b""
        store.put(damaged, whole[:-100])
        shutil.rmtree(storage.root)
        assert pull_ledger(store, storage) == 1
        assert Ledger(storage.ledger_url, "small").arms("confirm") == ["arm"]
        store.put(damaged, whole)
    # A driver that is killed between the two leaves an older one; the newer one is taken.
    Ledger(storage.ledger_url, "small").open_confirm("other", "lora", ["quality"])
    s3.answer = lambda method, path: (
        403 if method == "PUT" and path.partition("?")[0].endswith("/1") else None
    )
    copy = LedgerCopy(ObjectStore(url, patience=0), storage, 1)
    for _ in range(3):
        with pytest.raises(StoreError, match="access is denied"):
            copy.push()
    s3.answer = lambda method, path: None
    shutil.rmtree(storage.root)
    assert pull_ledger(store, storage) == 1
    assert sorted(Ledger(storage.ledger_url, "small").arms("confirm")) == ["arm", "other"]
    stale = LedgerCopy(store, storage, 1)
    LedgerCopy(store, storage, 2).push()
    stale.push()  # a driver that was succeeded cannot mask its successor
    shutil.rmtree(storage.root)
    assert pull_ledger(store, storage) == 2


def test_whatever_is_altered_in_a_copy_of_the_ledger_is_seen(tmp_path: Path) -> None:
    import gzip

    from study.remote.ledger_backup import _encode, _whole

    database = b"SQLite format 3\0" + random.Random(1).randbytes(3000) + bytes(3000)
    copy = _encode(2, 12, gzip.compress(database))
    assert _whole(copy) == (12, database)
    for place in range(len(copy)):
        altered = bytearray(copy)
        altered[place] ^= 0x55
        found = _whole(bytes(altered))
        assert found is None or found == (12, database), (
            f"byte {place}: {copy[max(0, place - 9) : place + 9]!r}"
        )
        assert _whole(copy[:place]) is None
    assert _whole(None) is None


def test_a_locked_ledger_is_not_waited_for_without_end(
    s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own backup tries again for ever; the launch could not even be ended."""
    monkeypatch.setattr("study.remote.ledger_backup.LOCK_SECONDS", 0.3)
    storage, store = storage_at(s3.url("locked"), "small"), ObjectStore(s3.url("locked"))
    ledger = Ledger(storage.ledger_url, "small")
    copy = LedgerCopy(store, storage, 1)
    copy.push()
    ledger.open_confirm("arm", "lora", ["quality"])
    with contextlib.closing(sqlite3.connect(ledger_file(storage), isolation_level=None)) as other:
        other.execute("begin exclusive")
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            copy.push()
        other.execute("rollback")
    copy.push()
    assert len(store.list("small/ledger")) == 2


def test_the_thread_that_follows_runs_outlives_what_passes(
    s3: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk or a locked ledger for a moment: it goes on following, and tells the URL that the driver lives."""
    monkeypatch.setattr("study.driver.remote_sync.LEDGER_SECONDS", 0.0)
    spec = small_study()
    storage = storage_at(s3.url("passing"), spec.name)
    failing, asked = threading.Event(), threading.Event()
    push, fetch = LedgerCopy.push, RunCopies.fetch_new

    def locked(copy: LedgerCopy) -> None:
        if failing.is_set() and threading.current_thread().name == "storage-sync":
            raise sqlite3.OperationalError("database is locked")
        push(copy)

    def full(copies: RunCopies, name: str, attempt: str) -> bool:
        if failing.is_set():
            failing.clear()
            raise OSError(errno.ENOSPC, "No space left on device")
        asked.set()
        return fetch(copies, name, attempt)

    monkeypatch.setattr(LedgerCopy, "push", locked)
    monkeypatch.setattr(RunCopies, "fetch_new", full)
    with (
        claimed(spec, storage),
        storage_hooks(
            spec, storage, open_ledger=lambda: open_ledger(spec, storage), end=print, say=print
        ) as keep,
    ):
        run = RunQueue(spec, storage, open_ledger(spec, storage)).next()
        assert run is not None
        failing.set()
        keep.before_start(run, "a-driver")
        assert asked.wait(60)
        assert not failing.is_set()


def test_a_run_whose_result_never_came_to_the_url_is_brought_to_its_end_there(s3: Proxy) -> None:
    spec = small_study()
    url = s3.url("no-result")
    set_rules(url, {"": {"weights": "the weights", "step_seconds": 0.3}})  # slow, so that all of it is copied
    storage, store = storage_at(url, spec.name), ObjectStore(url)
    said: list[str] = []

    def given_out(driver_id: str) -> PlannedRun:
        with (
            claimed(spec, storage),
            storage_hooks(
                spec,
                storage,
                open_ledger=lambda: open_ledger(spec, storage),
                end=said.append,
                say=said.append,
            ) as keep,
        ):
            run = RunQueue(spec, storage, open_ledger(spec, storage)).next()
            assert run is not None
            keep.before_start(run, driver_id)
            return run

    def work(run: PlannedRun, driver_id: str) -> dict[str, object]:
        name, config = run.key.name, run.config.model_dump_json()
        attempt = Attempt(order(url, run.attempt, driver_id, key=name, config=config, study=spec.name))
        assert carry_out(attempt)["state"] == "COMPLETE"
        return view_of(run)

    def view_of(run: PlannedRun) -> dict[str, object]:
        shutil.rmtree(storage.root, ignore_errors=True)
        here = readable_storage(url, spec.name)
        fetch_weights(here, run.key.name)
        folder = here.run_folder(run.key)
        content = json.loads((folder / "result.json").read_text())
        return {name: content[name] for name in ("state", "weights", "evaluation") if name in content} | {
            "file": (folder / "weights" / "weights.safetensors").read_text()
        }

    first = given_out("one")
    before = work(first, "one")
    prefix = f"{spec.name}/{RUNS}/{first.key.name}"
    (result,) = (key for key in store.list(prefix) if key.endswith("/result.json"))
    store._files.delete_file(f"{store._base}/{result}")  # killed just before it was written
    shutil.rmtree(storage.root)
    again = given_out("two")
    assert (again.key, again.attempt) == (first.key, 2)  # not taken for ended: nobody else could know
    assert work(again, "two") == before
    assert before["file"] == "the weights"
    assert sum(event.kind == "started" for event in read_events(storage.run_folder(first.key))) == 1
    assert said == []


def test_of_a_ledger_of_its_own_url_nothing_is_copied(s3: Proxy, tmp_path: Path) -> None:
    spec = small_study(storage={"ledger_url": f"sqlite:///{tmp_path / 'elsewhere.db'}"})
    storage = storage_at(s3.url("own-ledger"), spec.name)
    store = ObjectStore(storage.url or "")
    ended: list[str] = []
    said: list[str] = []
    with (
        claimed(spec, storage),
        storage_hooks(
            spec, storage, open_ledger=lambda: open_ledger(spec, storage), end=ended.append, say=said.append
        ) as keep,
    ):
        queue = RunQueue(spec, storage, open_ledger(spec, storage))
        run = queue.next()
        assert run is not None
        keep.before_start(run, "session-of-a-driver")
    assert store.list("small/ledger") == {}
    assert ended == []
    shutil.rmtree(storage.root)
    # The ledger is at hand, and knows the run that was given out.
    with (
        claimed(spec, storage),
        storage_hooks(
            spec, storage, open_ledger=lambda: open_ledger(spec, storage), end=ended.append, say=said.append
        ),
    ):
        queue = RunQueue(spec, storage, open_ledger(spec, storage))
        again = queue.next()
    assert again is not None
    assert (again.key, again.attempt) == (run.key, 2)


def test_what_only_the_driver_wrote_is_at_the_url(
    s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that failed before it began, and under which name MLflow has the study: its machine may be lost."""
    spec = small_study()
    storage = storage_at(s3.url("drivers-own"), spec.name)
    with (
        claimed(spec, storage),
        storage_hooks(
            spec, storage, open_ledger=lambda: open_ledger(spec, storage), end=print, say=print
        ) as keep,
    ):
        queue = RunQueue(spec, storage, open_ledger(spec, storage))
        run = queue.next()
        assert run is not None
        keep.before_start(run, "session-of-a-driver")
        write_failure(run.folder, reason="worker_died", message="it died at once", config=run.config)
        keep.publish(run, "session-of-a-driver")
        record = TrackingRecord(storage)
        record.add_launch()
    monkeypatch.setenv("STUDY_WORKING_COPIES", str(tmp_path / "another"))
    another = readable_storage(s3.url("drivers-own"), spec.name)
    assert another.root != storage.root
    (row,) = rows(another)
    assert (row["state"], row["reason"], row["method"]) == ("FAIL", "worker_died", run.config.method)
    found = TrackingRecord(another)
    assert (found.study_id, found.launches) == (record.study_id, record.launches)
    # While its driver lives, nobody else writes to MLflow.
    with Heartbeat(storage, lambda reason: None):
        store_of = ObjectStore(storage.url or "")
        store_of.put_file(f"{spec.name}/{DRIVER_FILE}", storage.folder / DRIVER_FILE)
        another = readable_storage(s3.url("drivers-own"), spec.name)
        with pytest.raises(UserError, match="is running and writes to MLflow itself"):
            sync(another)


@pytest.mark.slow
def test_the_store_goes_away_in_the_middle(ray_here: str, s3: Proxy) -> None:
    """Fails some requests of every kind, and all of them for some seconds: nothing is lost or done twice."""
    spec = small_study(confirm={"seeds": [100]})
    url = s3.url("unreliable")
    set_rules(url, {"": {"step_seconds": 0.05}})
    count = iter(range(10**9))
    away_from: list[float] = []

    def answer(method: str, path: str) -> int | None:
        """Away for some seconds from the moment when the first run leaves its result."""
        if method == "PUT" and "/result.json" in path and not away_from:
            away_from.append(time.monotonic())
        if away_from and time.monotonic() - away_from[0] < 5:
            return 503
        return 503 if next(count) % 7 == 0 else None

    s3.answer = answer
    outcome: Outcome = launch(spec, storage_at(url, spec.name), workers=Workers(RUNNER, RESIDENT))
    s3.answer = lambda method, path: None
    assert away_from
    assert not outcome.interrupted, outcome.message
    assert outcome.total == spec.number_of_runs()
    assert_sound(spec, storage_at(url, spec.name))
