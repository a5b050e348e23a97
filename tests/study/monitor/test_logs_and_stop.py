"""`study logs` and `study stop` on run folders that the fake runner left."""

from __future__ import annotations

import csv
import io
import threading
import time
from pathlib import Path

import pytest

from study.monitor.run_logs import follow_log
from study.monitor.status_view import all_runs_table
from study.storage.layout import LOG_FILE, STOP_REQUEST_FILE
from study.storage.run_key import RunKey
from study.storage.run_names import find_run
from tests.helpers.begun_runs import COMPLETE, FAILED, KILLED, RUNNING, begun_study, driven, give_up
from tests.helpers.command_line import run


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.driver.heartbeat.BEAT_SECONDS", 0.05)
    monkeypatch.setattr("study.driver.heartbeat.LOOK_SECONDS", 0.02)


def test_without_a_run_failed_ones_are_listed_first(
    fast_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, storage = begun_study(fast_path)
    code, out, _ = run(capsys, "logs", "small", "--storage", str(storage.root), "--format", "csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["state"] for row in rows] == ["failed", "interrupted", "complete", "complete"]
    assert (rows[0]["run"], rows[0]["reason"]) == (FAILED.name, "exception")
    assert {row["run"]: row["attempts"] for row in rows}[KILLED.name] == "2"
    code, out, _ = run(capsys, "logs", "small", "--storage", str(storage.root))
    assert FAILED.name in out.replace("\n", "")


def test_a_log_with_its_attempts_and_the_failure(fast_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, storage = begun_study(fast_path)
    place = ["--storage", str(storage.root)]
    log = storage.run_folder(FAILED) / LOG_FILE
    log.write_text("one\ntwo\nthree\n")
    code, out, err = run(capsys, "logs", "small", FAILED.name, *place)
    assert code == 0
    assert out.startswith("one\ntwo\nthree\nFAIL: exception: a mistake of the method\nTraceback")
    assert "10.0.0.7/aaaa1111" in err
    assert "attempt 1" in err
    assert "failed (exception)" in err
    _, out, _ = run(capsys, "logs", "small", "cosine/0001", "--tail", "1", *place)
    assert out.startswith("three\nFAIL")


def test_each_attempts_part_of_the_log(fast_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, storage = begun_study(fast_path)
    place = ["--storage", str(storage.root)]
    folder = storage.run_folder(RUNNING)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOG_FILE).write_text("of nobody\n")
    with driven(spec, storage):  # begins its first attempt, whose log begins after what is there
        with (folder / LOG_FILE).open("a") as file:
            file.write("of the first\n")
        _, out, err = run(capsys, "logs", "small", RUNNING.name, "--attempt", "1", *place)
        assert out == "of the first\n"
        assert "under way" in err
        _, out, _ = run(capsys, "logs", "small", RUNNING.name, *place)
        assert out == "of nobody\nof the first\n"
    code, _, err = run(capsys, "logs", "small", RUNNING.name, "--attempt", "2", *place)
    assert code == 2
    assert "no attempt 2" in err


def test_a_death_is_told_with_node_and_cause(fast_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, storage = begun_study(fast_path)
    _, _, err = run(capsys, "logs", "small", KILLED.name, "--storage", str(storage.root))
    assert "10.0.0.7/aaaa1111" in err
    assert "died (worker_died)" in err
    assert "The actor is dead" in err
    assert "complete" in err
    assert "(it printed nothing)" in err


def test_a_part_of_a_name_must_be_unique() -> None:
    known = [COMPLETE, FAILED, KILLED]
    assert find_run("constant", known) == KILLED
    assert find_run(FAILED.name, known) == FAILED
    with pytest.raises(Exception, match="part of the names of 2 runs") as caught:
        find_run("cosine", known)
    assert FAILED.name in str(caught.value)
    with pytest.raises(Exception, match="nearest") as caught:
        find_run("search/cosin/0001", known)
    assert FAILED.name in str(caught.value)
    with pytest.raises(Exception, match="none has begun"):
        find_run("x", [])


def test_following_shows_what_comes_and_ends_with_the_run(fast_path: Path) -> None:
    _, storage = begun_study(fast_path)
    key = RunKey("confirm", "base", 0, "dog-1", 100)
    folder = storage.run_folder(key)
    (folder / LOG_FILE).write_text("a\nb\n")
    heard: list[str] = []

    def follow() -> None:
        heard.extend(follow_log(folder, over=lambda: False, tail=1, pause=0.01))

    thread = threading.Thread(target=follow)
    thread.start()
    time.sleep(0.1)
    with (folder / LOG_FILE).open("a") as file:
        file.write("c\n")
    time.sleep(0.1)
    with (folder / LOG_FILE).open("a") as file:
        file.write("last words\n")
    give_up(storage, key)
    thread.join(60)
    assert not thread.is_alive()
    assert "".join(heard) == "b\nc\nlast words\n"


def test_stop_asks_and_waits(fast_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, storage = begun_study(fast_path)
    place = ["small", "--storage", str(storage.root)]
    code, _, err = run(capsys, "stop", *place)
    assert code == 0
    assert "nothing to stop" in err
    assert "finished" in err

    asked = threading.Event()
    up = threading.Event()

    def drive() -> None:
        with driven(spec, storage) as reasons:
            up.set()
            until = time.monotonic() + 60
            while not reasons and time.monotonic() < until:
                time.sleep(0.01)
            if reasons:
                asked.set()

    thread = threading.Thread(target=drive)
    thread.start()
    assert up.wait(60)
    code, _, err = run(capsys, "stop", *place)
    thread.join()
    assert asked.is_set()
    assert code == 0
    assert "launch it again" in err
    assert not (storage.folder / STOP_REQUEST_FILE).exists()


def test_stop_that_is_not_obeyed(fast_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, storage = begun_study(fast_path)
    place = ["small", "--storage", str(storage.root)]
    with driven(spec, storage):
        code, _, err = run(capsys, "stop", *place, "--timeout", "1")
        assert code == 1
        assert "still drives it" in err
        code, _, err = run(capsys, "stop", *place, "--now")
        assert code == 0
        assert "asked process" in err
    assert not (storage.folder / STOP_REQUEST_FILE).exists()  # the next launch is not ended by it


def test_stop_after_the_driver_died(fast_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, storage = begun_study(fast_path)
    with driven(spec, storage):
        said = (storage.folder / "driver.json").read_bytes()
    (storage.folder / "driver.json").write_bytes(said)
    code, _, err = run(capsys, "stop", "small", "--storage", str(storage.root))
    assert code == 0
    assert "died" in err
    assert not (storage.folder / STOP_REQUEST_FILE).exists()


def test_runs_are_listed_with_their_best_steps_where_some_are_known() -> None:
    row = {
        "run": "confirm/a/0000-x-s1",
        "node": None,
        "state": "complete",
        "reason": None,
        "attempts": 1,
        "last_sign": 5.0,
    }
    plain, told = all_runs_table([{**row, "best_step": None}]), all_runs_table([{**row, "best_step": 40}])
    assert "best step" not in [column.header for column in plain.columns]
    (column,) = [column for column in told.columns if column.header == "best step"]
    assert list(column.cells) == ["40"]
