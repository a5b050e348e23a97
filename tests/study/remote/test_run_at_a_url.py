"""One run at a storage URL: kept, resumed elsewhere, disturbed by stale attempts and by failures."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.s3_server import Proxy
from study.remote.object_store import ObjectStore, StoreError
from study.remote.run_manifest import (
    announce,
    attempt_name,
    choose_attempt,
    read_view,
    relative,
    run_prefix,
    safe_path,
)
from study.remote.run_upload import RunPusher, Superseded, pull_run
from study.remote.working_copy import RunCopies
from study.storage.attempts import attempts
from study.storage.layout import LAST_MANIFEST_FILE, MANIFEST_FILE, storage_at
from study.storage.run_result import read_result
from study.worker.attempt import Attempt
from study.worker.stop_order import order_stop
from study.worker.workspace import WorkspaceError
from tests.helpers.runs_at_a_url import NAME, RUN, carry_out, order
from tests.helpers.waiting import wait_for
from trainables.events import EVENTS_FILE, EventLog, read_events


def rules(tmp_path: Path, url: str, content: dict[str, Any]) -> None:
    """How the fake runner behaves: its rules lie in the cache of the scratch folder."""
    from study.worker.workspace import scratch_root

    cache = scratch_root(url) / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "fake.json").write_text(json.dumps({"": content}))


def test_a_run_is_kept_at_the_url_and_its_scratch_folder_is_removed(
    s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "study.remote.run_upload.FIRST_SECONDS", 60.0
    )  # over before the first copying, on any machine
    url = s3.url("one")
    attempt = Attempt(order(url))
    report = carry_out(attempt)
    assert report["state"] == "COMPLETE"
    assert not attempt.folder.exists()
    storage = storage_at(url, "small")
    copies = RunCopies(ObjectStore(url), storage)
    assert copies.fetch(NAME)
    folder = storage.run_folder(RUN)
    result = read_result(folder)
    assert result is not None
    assert result.state == "COMPLETE"
    assert [event.number for event in read_events(folder)] == list(range(1, len(read_events(folder)) + 1))
    assert len(attempts(folder)) == 1
    assert not (folder / "checkpoint").exists()
    before = sum(s3.requests.values())
    assert RunCopies(ObjectStore(url), storage).fetch(NAME)  # nothing has changed
    assert sum(s3.requests.values()) - before == 1
    # What a short run costs: two listings, a put for each file, its records and its result.
    assert before <= 20, s3.seen


def test_an_interrupted_run_goes_on_elsewhere(
    s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = s3.url("elsewhere")
    rules(tmp_path, url, {"step_seconds": 0.1})
    first = Attempt(order(url, steps=30))
    carry_out(first, lambda report: report["budget"] > 0.3)
    first.interrupt()
    assert not first.folder.exists()
    store, prefix = ObjectStore(url), run_prefix("small", NAME)
    store.put(
        f"{prefix}/{first.order.attempt}/c999999/checkpoint/step-00000099/tensors", b"an upload that tore"
    )
    assert any("/c0" in name for name in store.list(prefix))
    monkeypatch.setenv("STUDY_SCRATCH", str(tmp_path / "another-node"))
    second = Attempt(order(url, 2, "driver01", steps=30))
    assert carry_out(second)["state"] == "COMPLETE"
    storage = storage_at(url, "small")
    assert RunCopies(ObjectStore(url), storage).fetch(NAME)
    events = read_events(storage.run_folder(RUN))
    begun = [event.data["resumed_step"] for event in events if event.kind == "started"]
    assert begun[0] == 0
    assert begun[1] >= 9
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert [attempt["driver_id"] for attempt in attempts(storage.run_folder(RUN))] == ["driver00", "driver01"]
    names = relative(store.list(prefix), prefix)
    ended = read_view(store, prefix, names)
    assert ended is not None
    kept = {name for name in names if "/checkpoint/" in name}
    assert kept <= {ref.key for ref in ended.files.values()}, "checkpoints lie there that nothing names"


def test_a_driver_can_follow_a_run(s3: Proxy, tmp_path: Path) -> None:
    url = s3.url("followed")
    rules(tmp_path, url, {"step_seconds": 0.1})
    attempt = Attempt(order(url, steps=60))
    storage = storage_at(url, "small")
    copies = RunCopies(ObjectStore(url), storage)
    seen: list[int] = []
    while not (report := attempt.advance(0.2))["done"]:
        copies.fetch_new(NAME, attempt.order.attempt)
        seen.append(len(read_events(storage.run_folder(RUN))))
    assert report["state"] == "COMPLETE"
    assert len({count for count in seen if count}) >= 2  # it grew while the run lasted
    assert seen == sorted(seen)
    assert copies.fetch(NAME)
    assert read_events(storage.run_folder(RUN))[-1].kind == "finished"
    assert not copies.fetch_new(NAME, attempt.order.attempt)  # or an older manifest would undo the end


def test_a_stop_order_reaches_a_run_at_a_url(s3: Proxy, tmp_path: Path) -> None:
    url = s3.url("stopped")
    rules(tmp_path, url, {"step_seconds": 0.1})
    attempt = Attempt(order(url, steps=600, stoppable=True))
    attempt.advance(0.2)
    order_stop(tmp_path / "drivers-copy", "enough", url=url, study="small", run=NAME)
    assert carry_out(attempt)["state"] == "PRUNED"
    assert attempt.folder.exists() is False
    again = Attempt(order(url, 2, steps=600))
    assert carry_out(again)["state"] == "PRUNED"  # it has ended: nothing is trained again


def test_a_stale_attempt_cannot_end_a_run_that_a_newer_one_works_on(s3: Proxy, tmp_path: Path) -> None:
    url = s3.url("stale")
    rules(tmp_path, url, {"step_seconds": 0.1})
    stale = Attempt(order(url, 1, "olddrive", steps=30))
    carry_out(stale, lambda report: report["budget"] > 0.4)
    newer = Attempt(order(url, 2, "newdrive", steps=30))
    newer.advance(0.2)
    prefix = run_prefix("small", NAME)
    store = ObjectStore(url)
    wait_for(lambda: any("0002-newdrive" in name for name in store.list(prefix)))
    with pytest.raises(WorkspaceError, match="0002-newdrive works on this run"):
        carry_out(stale)
    assert carry_out(newer)["state"] == "COMPLETE"
    names = relative(store.list(prefix), prefix)
    assert choose_attempt(names) == ("0002-newdrive", True)
    assert "0001-olddrive/result.json" not in names
    view = read_view(store, prefix, names)
    assert view is not None
    assert sum(json.loads(line)["kind"] == "started" for line in view.events) == 2


def test_a_stale_attempt_removes_no_checkpoint_that_a_newer_one_goes_on_from(
    s3: Proxy, tmp_path: Path
) -> None:
    url, prefix = s3.url("woken"), run_prefix("small", NAME)
    store = ObjectStore(url)

    def save(folder: Path, step: int) -> None:
        place = folder / "checkpoint" / f"step-{step:08d}"
        place.mkdir(parents=True)
        (place / "state.json").write_text(json.dumps({"step": step}))
        wait_for(lambda: any(name.startswith("0001") and place.name in name for name in names()))

    def names() -> set[str]:
        return relative(store.list(prefix), prefix)

    folders = [tmp_path / name for name in ("stale", "newer", "newest")]
    for folder in folders:
        folder.mkdir()
    EventLog(folders[0]).append("started", attempt=1)
    stale = RunPusher(ObjectStore(url), prefix, "0001-stale", folders[0])
    save(folders[0], 4)
    save(folders[0], 8)
    wait_for(lambda: (view := read_view(store, prefix, names())) is not None and len(view.files) == 2)
    newer = RunPusher(ObjectStore(url), prefix, "0002-newer", folders[1], pull_run(store, prefix, folders[1]))
    EventLog(folders[1]).append("started", attempt=2)
    wait_for(lambda: "0002-newer/manifest.json" in names())
    newer.abandon()  # it dies before it has saved anything itself

    save(folders[0], 12)  # and the first one wakes up
    save(folders[0], 16)
    stale.abandon()
    pull_run(store, prefix, folders[2])
    assert [path.name for path in sorted((folders[2] / "checkpoint").iterdir())] == ["step-00000008"]


def test_an_attempt_that_still_reads_is_seen_by_older_ones(s3: Proxy, tmp_path: Path) -> None:
    """Large checkpoints take minutes to fetch; an older attempt that wakes up meanwhile must not end the run."""
    store, prefix = ObjectStore(s3.url("reading")), run_prefix("small", NAME)
    stale = pushed(store, prefix, tmp_path / "stale", events=1)
    (tmp_path / "stale" / "result.json").write_text('{"state": "COMPLETE"}')
    announce(store, prefix, "0002-newer")
    with pytest.raises(Superseded, match="0002-newer works on this run"):
        stale.finish(60)
    assert not any(name.endswith("result.json") for name in store.list(prefix))


def test_an_abandoned_attempt_takes_nothing_back(s3: Proxy, tmp_path: Path) -> None:
    """Its folder may be gone before its thread has seen that it shall end."""
    store, prefix, folder = ObjectStore(s3.url("abandoned")), run_prefix("small", NAME), tmp_path / "run"
    pusher = pushed(store, prefix, folder, events=3)
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match="no longer whole"):
        pusher.finish(60)
    view = pull_run(store, prefix, tmp_path / "next")
    assert view is not None
    assert len(view.events) == 3


def pushed(store: ObjectStore, prefix: str, folder: Path, *, events: int) -> RunPusher:
    """The first attempt at a run, with so many events at the URL."""
    folder.mkdir()
    log = EventLog(folder)
    for number in range(events):
        log.append("progress", number, loss=1.0)
    pusher = RunPusher(store, prefix, "0001-first", folder)
    wait_for(lambda: any(name.endswith(MANIFEST_FILE) for name in store.list(prefix)))
    return pusher


def test_a_run_that_cannot_be_kept_is_interrupted_and_not_finished(
    s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.remote.run_upload.FINAL_PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr("study.worker.workspace.PULL_PATIENCE_SECONDS", 0.0)
    url = s3.url("full")
    rules(tmp_path, url, {"step_seconds": 0.05})
    attempt = Attempt(order(url))
    attempt.advance(0.1)
    s3.answer = lambda method, path: 507 if method in ("PUT", "POST") else None
    with pytest.raises(WorkspaceError, match=r"could not be kept: storage s3://studies/full.*it is full"):
        carry_out(attempt)
    s3.answer = lambda method, path: None
    assert not RunCopies(ObjectStore(url), storage_at(url, "small")).fetch(NAME)
    assert carry_out(Attempt(order(url, 2)))["state"] == "COMPLETE"
    s3.answer = lambda method, path: 507 if method in ("PUT", "POST") else None
    with pytest.raises(
        WorkspaceError, match=r"it is full \(from node"
    ):  # nothing is begun that cannot be kept
        carry_out(Attempt(order(s3.url("full-before"))))


def test_training_goes_on_while_the_store_is_away(s3: Proxy, tmp_path: Path) -> None:
    url = s3.url("away")
    rules(tmp_path, url, {"step_seconds": 0.05})
    attempt = Attempt(order(url, steps=40))
    attempt.advance(0.1)
    s3.answer = lambda method, path: 503
    report = carry_out(attempt, lambda report: report["budget"] >= 1)  # trained to the end without the store
    s3.answer = lambda method, path: None
    report = carry_out(attempt)
    assert report["state"] == "COMPLETE"
    assert RunCopies(ObjectStore(url), storage_at(url, "small")).fetch(NAME)


def test_a_node_without_the_store_puts_the_run_back(
    s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.worker.workspace.PULL_PATIENCE_SECONDS", 0.0)
    s3.answer = lambda method, path: 503
    with pytest.raises(WorkspaceError, match="from node"):
        carry_out(Attempt(order(s3.url("nothing"))))


def test_a_damaged_checkpoint_is_passed_over(s3: Proxy, tmp_path: Path) -> None:
    url = s3.url("damaged")
    rules(tmp_path, url, {"step_seconds": 0.1})
    first = Attempt(order(url, steps=30))
    carry_out(first, lambda report: report["budget"] > 0.3)
    first.interrupt()
    store, prefix = ObjectStore(url), run_prefix("small", NAME)
    view = read_view(store, prefix, relative(store.list(prefix), prefix))
    assert view is not None
    ref = view.files["checkpoint/state.json"]
    store.put(f"{prefix}/{ref.key}", b'{"step": 29}'.ljust(ref.size)[: ref.size])  # as long, but another
    assert carry_out(Attempt(order(url, 2, steps=30)))["state"] == "COMPLETE"
    storage = storage_at(url, "small")
    RunCopies(store, storage).fetch(NAME)
    events = read_events(storage.run_folder(RUN))
    assert [event.data["resumed_step"] for event in events if event.kind == "started"] == [0, 0]


def test_of_a_damaged_manifest_the_attempt_before_it_is_read(s3: Proxy, tmp_path: Path) -> None:
    url = s3.url("manifest")
    rules(tmp_path, url, {"step_seconds": 0.1})
    store, prefix = ObjectStore(url), run_prefix("small", NAME)
    first = Attempt(order(url, steps=30))
    carry_out(first, lambda report: report["budget"] > 0.3)
    first.interrupt()
    store.put(f"{prefix}/0002-driver01/{MANIFEST_FILE}", b'{"events": ["{\\"number')
    assert not RunCopies(store, storage_at(url, "small")).fetch_new(NAME, "0002-driver01")
    assert carry_out(Attempt(order(url, 3, "driver02", steps=30)))["state"] == "COMPLETE"
    storage = storage_at(url, "small")
    assert RunCopies(store, storage).fetch(NAME)
    begun = [
        event.data["resumed_step"]
        for event in read_events(storage.run_folder(RUN))
        if event.kind == "started"
    ]
    assert begun[0] == 0
    assert begun[1] >= 9


def test_of_a_damaged_end_nothing_is_done_again(s3: Proxy, tmp_path: Path) -> None:
    url = s3.url("end")
    store, prefix = ObjectStore(url), run_prefix("small", NAME)
    assert carry_out(Attempt(order(url)))["state"] == "COMPLETE"
    own = f"{prefix}/{attempt_name(1, 'driver00')}"
    storage, sound = storage_at(url, "small"), store.get(f"{own}/result.json")
    store.put(f"{own}/result.json", b'{"state": "COMP')
    assert not RunCopies(store, storage).fetch(NAME)
    assert carry_out(Attempt(order(url, 2, "driver01")))["state"] == "COMPLETE"
    assert RunCopies(store, storage).fetch(NAME)
    assert [event.kind for event in read_events(storage.run_folder(RUN))].count("progress") == 8
    assert sound is not None
    for attempt in (own, f"{prefix}/{attempt_name(2, 'driver01')}"):
        store.put(f"{attempt}/{LAST_MANIFEST_FILE}", b"{")
    shutil.rmtree(storage.folder)  # another machine knows nothing of it
    with pytest.raises(
        StoreError, match=r"all\.json is damaged, and tells of a run that has ended; put it back"
    ):
        RunCopies(store, storage_at(url, "small")).fetch(NAME)
    with pytest.raises(WorkspaceError, match="is damaged"):
        carry_out(Attempt(order(url, 3, "driver02")))


def test_pieces_of_a_manifest_that_an_earlier_version_left_are_read(s3: Proxy, tmp_path: Path) -> None:
    store, prefix, folder = ObjectStore(s3.url("earlier")), run_prefix("small", NAME), tmp_path / "run"
    pieces: list[dict[str, Any]] = [
        {
            "events": ['{"number": 1}'],
            "files": {"run.json": ref(store, prefix, "0001-a/f000001/run.json", b"{}")},
        },
        {
            "events": ['{"number": 2}'],
            "files": {
                "checkpoint/step-00000004/state.json": ref(store, prefix, "0001-a/c000002/state", b"4"),
                "sample.png": ref(store, prefix, "0001-a/f000002/sample.png", b"p"),
            },
        },
        {"events": [], "files": {"sample.png": None}},
    ]
    for number, piece in enumerate(pieces, start=1):
        store.put(f"{prefix}/0001-a/s/{number:06d}.json", json.dumps(piece).encode())
    view = pull_run(store, prefix, folder)
    assert view is not None
    assert (view.attempt, view.ended) == ("0001-a", False)
    assert view.events == ['{"number": 1}', '{"number": 2}']
    assert set(view.files) == {"run.json", "checkpoint/step-00000004/state.json"}
    assert (folder / "checkpoint/step-00000004/state.json").read_text() == "4"


def ref(store: ObjectStore, prefix: str, key: str, content: bytes) -> list[Any]:
    """Puts a file of a run; what a manifest says of it."""
    store.put(f"{prefix}/{key}", content)
    return [key, len(content), hashlib.sha256(content).hexdigest()]


def test_checkpoints_stay_until_the_result_is_at_the_url(s3: Proxy, tmp_path: Path) -> None:
    """A worker may be killed in the middle of its last copying, when the run itself needs no checkpoint any more."""
    store, prefix, folder = ObjectStore(s3.url("last-words")), run_prefix("small", NAME), tmp_path / "here"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint" / "state.json").write_text('{"step": 20}')
    (folder / EVENTS_FILE).write_text('{"number": 1}\n')
    pusher = RunPusher(store, prefix, attempt_name(1, "driver00"), folder)

    def listed(part: str) -> bool:
        return any(part in name for name in store.list(prefix))

    wait_for(lambda: listed("/c0") and listed("/manifest.json"))
    shutil.rmtree(folder / "checkpoint")
    (folder / "result.json").write_text('{"state": "COMPLETE"}')
    s3.answer = lambda method, path: 403 if method == "PUT" else None
    with pytest.raises(StoreError):
        pusher.finish(60)
    s3.answer = lambda method, path: None
    elsewhere = tmp_path / "elsewhere"
    view = pull_run(store, prefix, elsewhere)
    assert (elsewhere / "checkpoint" / "state.json").read_text() == '{"step": 20}'
    shutil.rmtree(elsewhere / "checkpoint")
    (elsewhere / "result.json").write_text('{"state": "COMPLETE"}')
    assert RunPusher(store, prefix, attempt_name(2, "driver01"), elsewhere, view).finish(60)
    ended = read_view(store, prefix, relative(store.list(prefix), prefix))
    assert ended is not None
    assert ended.ended


def test_the_weights_of_the_best_step_go_along_and_only_the_best(s3: Proxy, tmp_path: Path) -> None:
    """Whoever goes on has them with the newest checkpoint; those of a step that was best before are deleted."""
    store, prefix = ObjectStore(s3.url("best")), run_prefix("small", NAME)
    folder = tmp_path / "run"
    (folder / "checkpoint" / "step-00000030").mkdir(parents=True)
    (folder / "checkpoint" / "step-00000030" / "tensors.safetensors").write_bytes(b"resume state")
    first, second = (folder / "checkpoint" / f"best-{step:08d}.safetensors" for step in (10, 20))
    log = EventLog(folder)
    log.append("started", attempt=1)
    first.write_bytes(b"of step 10")
    announce(store, prefix, "0001-first")
    pusher = RunPusher(store, prefix, "0001-first", folder)

    def there() -> set[str]:
        return {name.rpartition("/")[2] for name in store.list(prefix) if "/best-" in name}

    wait_for(lambda: there() == {first.name})
    second.write_bytes(b"of step 20")
    first.unlink()
    log.append("evaluation", 20, final=False)
    wait_for(lambda: there() == {second.name})
    pusher.abandon()
    again = tmp_path / "again"
    view = pull_run(store, prefix, again)
    assert view is not None
    assert {path.name for path in again.glob("checkpoint/*")} == {second.name, "step-00000030"}
    assert (again / "checkpoint" / second.name).read_bytes() == b"of step 20"


def test_names_cannot_leave_the_folder(s3: Proxy, tmp_path: Path) -> None:
    for path in ("../x", "/etc/x", "a/../../x", "", "a\\b"):
        with pytest.raises(ValueError, match="leaves its folder"):
            safe_path(path)
    url = s3.url("evil")
    storage, store = storage_at(url, "small"), ObjectStore(url)
    prefix = run_prefix("small", NAME)
    manifest = {"events": [], "files": {"../../../../../../stolen": ["0001-x/f/x", 1, "00"]}}
    store.put(f"{prefix}/0001-x/manifest.json", json.dumps(manifest).encode())
    assert not RunCopies(store, storage).fetch(NAME)
    assert not (tmp_path / "stolen").exists()
    assert not (storage.run_folder(RUN) / EVENTS_FILE).exists()
