"""The live view: many runs on several nodes, failures, narrow terminals, and no terminal at all."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from study.api import study_status
from study.monitor import live_view
from study.monitor.live_view import MOST_FAILURES, MOST_ROWS, ProgressView, draw
from study.monitor.status import StatusReader, StudyStatus
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from tests.helpers.begun_runs import COMPLETE, FAILED, RUNNING, advance, attempt_at, begun_study, driven
from tests.helpers.small_studies import small_study, storage_of


def key(number: int) -> RunKey:
    return RunKey("search", "dreambooth-lora-constant", number, "cat-1", 0)


def running(number: int, node: str = "here", attempt: int = 1) -> dict[str, Any]:
    row = {"run": key(number).name, "state": "running", "node": node, "attempt": attempt, "doing": "train"}
    return row | {"step": 37, "steps": 400, "percent": 9.2, "steps_per_second": 1.0, "last_sign": 0.1}


def failed(number: int) -> dict[str, Any]:
    return {"run": key(number).name, "node": "gpu-1", "attempt": 2, "reason": "worker_died", "message": None}


@pytest.fixture
def nothing(fast_path: Path) -> StudyStatus:
    """The status of a study that nobody has begun."""
    spec = small_study()
    return StatusReader(storage_of(fast_path, spec), spec).look()


def of(status: StudyStatus, rows: list[dict[str, Any]], **queue: int) -> StudyStatus:
    count = sum(row["state"] == "running" for row in rows)
    return replace(status, running=rows, queue=status.queue | {"planned": 100, "running": count} | queue)


def drawn(status: StudyStatus, width: int, failures: list[dict[str, Any]] | None = None) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(draw(status, {key(0).name: 0.12345}, failures or []))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_many_runs_fit_any_terminal(nothing: StudyStatus, width: int) -> None:
    rows = [running(number, f"gpu-node-{number % 5}.cluster.internal") for number in range(40)]
    status = of(nothing, rows, failed=5)
    lines = drawn(status, width, [failed(50 + number) for number in range(5)]).splitlines()
    assert max(len(line) for line in lines) <= width
    text = "".join("".join(lines).split())
    assert "5/100runs" in text
    assert "40runningon5nodes5failed" in text
    assert f"and{40 - MOST_ROWS}more" in text
    assert text.count("failed:search/dreambooth-lora-constant/") == MOST_FAILURES
    assert "worker_died,ongpu-1,attempt2" in text
    assert "0.1235" in text or "0.1234" in text
    for number in range(MOST_ROWS if width >= 80 else 0):
        assert f"search/dreambooth-lora-constant/{number:04d}-cat-1-s0" in text  # no name is cut or broken


def test_on_one_machine_nodes_are_not_mentioned(nothing: StudyStatus) -> None:
    text = drawn(of(nothing, [running(1), running(2, attempt=3)]), 100)
    assert "node" not in text
    assert "here" not in text
    assert "(attempt 3)" in text


def test_runs_that_wait_for_room_are_counted_and_not_shown(nothing: StudyStatus) -> None:
    waiting = running(7) | {"state": "pending", "step": None, "attempt": None, "node": None, "doing": None}
    text = drawn(of(nothing, [running(1), waiting], pending=1), 100)
    assert "1 running  1 pending" in text
    assert text.count("search/") == 1


def watched(storage: Storage, spec: Any, during: Callable[[], None], *, terminal: bool) -> str:
    console = Console(width=80, file=io.StringIO(), force_terminal=terminal)
    view = ProgressView(StatusReader(storage, spec), console)
    view.start()
    try:
        during()
    finally:
        view.close()
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_it_says_what_status_says_and_tells_each_end_once(fast_path: Path) -> None:
    """On no terminal: a line for each run that ends while it is watched, and the state of the whole."""
    spec, storage = begun_study(fast_path)
    new = RunKey("search", "cosine", 2, "cat-1", 0)
    with driven(spec, storage):

        def end_one() -> None:
            advance(attempt_at(spec, storage, new, "this-driver", "10.0.0.8/bbbb2222"))
            time.sleep(3 * live_view.POLL_SECONDS)

        text = watched(storage, spec, end_one, terminal=False)
        status = study_status(storage)
    assert text.count(f"COMPLETE {new.name}  quality ") == 1
    assert COMPLETE.name not in text  # had ended before
    assert FAILED.name not in text
    ended = status.queue["complete"] + status.queue["failed"]
    last = text.splitlines()[-1]
    assert last.startswith(f"{ended}/{spec.number_of_runs()} runs, 1 running, 1 pending, 1 failed, ")
    assert "best quality in search " in last


def test_failures_say_where_and_a_terminal_shows_the_loss(
    fast_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_view, "POLL_SECONDS", 0.05)
    spec, storage = begun_study(fast_path)
    (storage.run_folder(FAILED) / "result.json").rename(fast_path / "kept")
    with driven(spec, storage):

        def fail_one() -> None:
            (fast_path / "kept").rename(storage.run_folder(FAILED) / "result.json")

        plain = watched(storage, spec, fail_one, terminal=False)
        assert f"FAIL     {FAILED.name}  exception, on " in plain
        assert ", attempt 1" in plain
        (storage.run_folder(FAILED) / "result.json").rename(fast_path / "kept")
        shown = watched(storage, spec, fail_one, terminal=True)
    assert f"failed: {FAILED.name}" in shown
    (row,) = [line for line in shown.splitlines() if RUNNING.name in line][-1:]
    assert "4/8" in row
    assert "0." in row.split("4/8")[1]


def test_looking_takes_a_small_part_of_a_core(fast_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a look takes long, the next one comes later."""
    spec, storage = begun_study(fast_path)
    reader = StatusReader(storage, spec)
    looks: list[float] = []

    def slow() -> StudyStatus:
        looks.append(time.monotonic())
        time.sleep(0.02)
        return StatusReader.look(reader)

    monkeypatch.setattr(reader, "look", slow)
    monkeypatch.setattr(live_view, "POLL_SECONDS", 0.01)
    view = ProgressView(reader, Console(file=io.StringIO()))
    view.start()
    time.sleep(4.5)
    view.close()
    gaps = [later - sooner for sooner, later in itertools.pairwise(looks[2:-1])]
    assert gaps
    assert min(gaps) >= 0.02 / live_view.MOST_OF_A_CORE
