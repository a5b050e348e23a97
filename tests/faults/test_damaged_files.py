"""Records that are cut short or damaged: what can be known from the rest is known, and nothing is taken for sound."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from study.dispatch.run_queue import RunQueue
from study.driver.claim import claimed
from study.ledger.open_ledger import open_ledger
from study.storage.attempts import attempts, worker_failures
from study.storage.layout import STUDY_FILE, TRACKING_FILE, Storage
from study.storage.run_result import mend_result, read_result
from study.tracking.run_ids import TrackingRecord
from study.util.json_files import copy_of
from study.worker.attempt import Attempt
from study.worker.order import Order
from study.worker.workspace import WorkspaceError
from tests.helpers.small_studies import small_study, storage_of
from trainables.errors import UserError
from trainables.events import EVENTS_FILE, RESULT_FILE, RUN_FILE, EventLog, TakenOver, is_over, read_events
from trainables.storage_errors import storage_failure
from trainables.util.checkpoint import Checkpoint, load_latest, save_checkpoint

GARBAGE = [
    b"",
    b"null",
    b"{}",
    b"[1]",
    b"3",
    b'"x"',
    b"\xff\xfe\x00",
    b'{"number": "one", "data": null}',
    b"{",
]


def some_run(folder: Path) -> Path:
    """A run that has ended, with its events and its result."""
    log = EventLog(folder)
    log.append("started", attempt=1, resumed_step=0, pid=1, host="here")
    log.append("progress", 2, loss=1.0)
    log.append("evaluation", 4, final=True, quality=0.5)
    log.append("cost", 4, train_seconds=3.0, lost_seconds=0.0)
    log.append("finished", 4, state="COMPLETE", reason=None, message=None, traceback=None)
    return folder


def test_a_log_that_another_hand_has_written_to_is_left_alone(tmp_path: Path) -> None:
    """A worker that was silent for so long that its run was given away, and wakes up."""
    stale = EventLog(tmp_path)
    stale.append("started", attempt=1)
    newer = EventLog(tmp_path)
    newer.append("started", attempt=2)
    with pytest.raises(TakenOver, match="another process has written") as caught:
        stale.append("progress", 7)
    assert storage_failure(caught.value) == str(caught.value)  # nothing that the run could be blamed for
    newer.append("progress", 8)
    assert [event.number for event in read_events(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_damaged_line_of_events_is_left_out(tmp_path: Path, garbage: bytes) -> None:
    path = some_run(tmp_path) / EVENTS_FILE
    lines = path.read_bytes().split(b"\n")
    lines[1] = garbage
    path.write_bytes(b"\n".join(lines))
    assert [event.number for event in read_events(tmp_path)] == [1, 3, 4, 5]
    assert EventLog(tmp_path).append("phase", name="train").number == 6


def test_events_that_end_anywhere_go_on_with_the_next_number(tmp_path: Path) -> None:
    whole = (some_run(tmp_path) / EVENTS_FILE).read_bytes()
    for size in range(0, len(whole), 7):
        (tmp_path / EVENTS_FILE).write_bytes(whole[:size])
        kept = whole[:size].count(b"\n")
        assert EventLog(tmp_path).append("phase", name="train").number == kept + 1
        assert [event.number for event in read_events(tmp_path)] == list(range(1, kept + 2))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_an_event_that_could_not_be_written_leaves_nothing_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    log = EventLog(some_run(tmp_path))
    before = log.path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match=os.strerror(number)):
            log.append("phase", name="lost")
    assert log.path.read_bytes() == before
    assert log.append("phase", name="kept").number == 6


@pytest.mark.parametrize("garbage", ["", "{", "null", "[]", '{"state": "COMPL', '{"state": "RUNNING"}'])
def test_a_damaged_result_is_made_anew_from_the_events(tmp_path: Path, garbage: str) -> None:
    (some_run(tmp_path) / RESULT_FILE).write_text(garbage)
    assert not is_over(tmp_path)
    assert read_result(tmp_path) is None
    mended = mend_result(tmp_path)
    assert mended is not None
    assert (mended.state, mended.value("quality"), mended.value("train_seconds")) == ("COMPLETE", 0.5, 3.0)
    assert is_over(tmp_path)


def test_a_run_without_an_end_gets_no_result(tmp_path: Path) -> None:
    EventLog(tmp_path).append("started", attempt=1)
    (tmp_path / RESULT_FILE).write_text("{")
    assert mend_result(tmp_path) is None
    assert mend_result(tmp_path / "nothing") is None


@pytest.mark.parametrize("garbage", GARBAGE)
def test_damaged_lists_are_read_as_far_as_they_go(tmp_path: Path, garbage: bytes) -> None:
    sound = json.dumps({"driver_id": "s", "attempt": 1, "reason": "worker_died"}).encode()
    for name, read in (("attempts.jsonl", attempts), ("deaths.jsonl", worker_failures)):
        (tmp_path / name).write_bytes(garbage + b"\n" + sound + b"\n" + sound[:9])
        found = [line for line in read(tmp_path) if line.get("driver_id") == "s"]
        assert len(found) == 1


def test_whatever_is_damaged_in_a_checkpoint_the_one_before_is_taken(tmp_path: Path) -> None:
    rng = random.Random(0)
    for trial in range(40):
        folder = tmp_path / str(trial)
        for step in (5, 10):
            save_checkpoint(folder, Checkpoint(step, {"w": torch.full((8,), float(step))}, {"at": step}))
        newest = folder / "step-00000010"
        path = newest / rng.choice(["tensors.safetensors", "state.json"])
        content = bytearray(path.read_bytes())
        harm = rng.choice(["cut", "flip", "empty", "gone"])
        if harm == "cut":
            content = content[: rng.randrange(len(content))]
        elif harm == "flip":
            content[rng.randrange(len(content))] ^= 0xFF
        path.unlink() if harm == "gone" else path.write_bytes(b"" if harm == "empty" else content)
        found = load_latest(folder)
        assert found is not None, (trial, harm)
        assert found.step == 5, (trial, harm, path.name)
        assert float(found.tensors["w"][0]) == 5.0


@pytest.mark.parametrize("file", [STUDY_FILE, TRACKING_FILE])
def test_the_records_of_a_study_have_a_copy(tmp_path: Path, file: str) -> None:
    spec = small_study()
    storage = Storage(tmp_path, spec.name)
    with claimed(spec, storage):
        study_id = TrackingRecord(storage).study_id
    path = storage.folder / file
    sound = path.read_bytes()
    for damaged in (path, copy_of(path)):
        os.truncate(damaged, len(sound) // 2)
        with claimed(spec, storage):
            record = TrackingRecord(storage)
            assert record.study_id == study_id
            record.add_launch()
        if file == STUDY_FILE:
            assert path.read_bytes() == copy_of(path).read_bytes() == sound
    for damaged in (path, copy_of(path)):
        damaged.write_text("{")
    with pytest.raises(UserError, match=r"damaged.*restore it"), claimed(spec, storage):
        TrackingRecord(storage)


def order(storage: Storage, **more: Any) -> Order:
    """An order for the first run of a small study."""
    spec = small_study()
    queue = RunQueue(spec, storage, open_ledger(spec, storage))
    planned = queue.next()
    assert planned is not None
    values: dict[str, Any] = {
        "key": planned.key.name, "phase": planned.key.phase, "group": "", "config": planned.config.model_dump_json(),
        "driver_id": "s", "runner": "tests.helpers.fake_runner:execute", "resident": "", "cpus": 1.0, "gpus": 0.0,
    }  # fmt: skip
    return Order(**{**values, **more})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.ESTALE])
def test_a_disk_that_fails_is_not_the_failure_of_a_run(
    fast_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    given = order(storage_of(fast_path, small_study()))
    attempt = Attempt(given)
    while not (attempt.folder / EVENTS_FILE).exists():
        attempt.advance(0.01)

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(WorkspaceError, match=rf"the storage failed: .*{os.strerror(number)}.*; "):
            to_the_end(attempt)
    assert read_result(attempt.folder) is None
    assert to_the_end(Attempt(given))["state"] == "COMPLETE"
    assert len(attempts(attempt.folder)) == 2


def to_the_end(attempt: Attempt) -> dict[str, Any]:
    """The last report of an attempt."""
    report: dict[str, Any] = {"done": False}
    while not report["done"]:
        report = attempt.advance(0.01)
    return report


def test_a_folder_that_is_removed_under_a_run_is_nothing_to_blame_it_for(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lost = FileNotFoundError(errno.ENOENT, "No such file or directory", str(folder / EVENTS_FILE))
    assert "leave the folder" in str(storage_failure(lost, folder))
    folder.mkdir()
    (folder / RUN_FILE).touch()
    assert "leave the folder" in str(storage_failure(lost, folder)), "in the middle of its removal"
    (folder / EVENTS_FILE).touch()
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory", str(folder / "prompts.txt"))
    assert storage_failure(missing, folder) is None
    outside = FileNotFoundError(errno.ENOENT, "No such file or directory", str(tmp_path / "gone.png"))
    assert storage_failure(outside, tmp_path / "nowhere") is None


def test_what_is_a_failure_of_the_storage() -> None:
    assert "make room" in str(storage_failure(OSError(errno.ENOSPC, "No space left on device", "/x")))
    torn = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert "make room" in str(storage_failure(torn))
    wrapped = ValueError("cannot save")
    wrapped.__cause__ = OSError(errno.EROFS, "Read-only file system")
    assert "make it writable" in str(storage_failure(wrapped))
    for other in (FileNotFoundError(errno.ENOENT, "no such file"), ValueError("28"), MemoryError()):
        assert storage_failure(other) is None
