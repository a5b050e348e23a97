"""The live view: many runs on several nodes, failures, narrow terminals, and no terminal at all."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from study.monitor.live_view import MOST_FAILURES, MOST_ROWS, ProgressView, RunView, draw, snapshot
from study.storage.planned_run import PlannedRun
from study.storage.run_key import RunKey
from tests.helpers.small_studies import small_study, storage_of
from trainables.events import Event, EventLog


def view(number: int, host: str, *, attempt: int = 1, reason: str | None = None) -> RunView:
    key = RunKey("search", "dreambooth-lora-constant", number, "cat-1", 0)
    shown = RunView(key, 400, None)
    shown.update(Event(1, 0.0, "started", None, {"host": host, "attempt": attempt, "resumed_step": 0}))
    shown.update(Event(2, 0.0, "progress", 37, {"loss": 0.12345}))
    if reason is not None:
        shown.update(Event(3, 0.0, "finished", 37, {"state": "FAIL", "reason": reason}))
    return shown


def drawn(views: list[RunView], width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(draw(snapshot(views, 100, 0, 60.0), "teapot"))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_many_runs_fit_any_terminal(width: int) -> None:
    views = [view(number, f"gpu-node-{number % 5}.cluster.internal") for number in range(40)]
    views += [view(50 + number, "gpu-1", attempt=2, reason="worker_died") for number in range(5)]
    lines = drawn(views, width).splitlines()
    assert max(len(line) for line in lines) <= width
    text = "".join("".join(lines).split())
    assert "40runningon5nodes" in text
    assert f"and{40 - MOST_ROWS}more" in text
    assert text.count("failed:search/dreambooth-lora-constant/") == MOST_FAILURES
    assert "worker_died,ongpu-1,attempt2" in text
    for number in range(MOST_ROWS if width >= 80 else 0):
        assert f"search/dreambooth-lora-constant/{number:04d}-cat-1-s0" in text  # no name is cut or broken


def test_on_one_machine_nodes_are_not_mentioned() -> None:
    text = drawn([view(1, "here"), view(2, "here", attempt=3)], 100)
    assert "node" not in text
    assert "here" not in text
    assert "(attempt 3)" in text


def test_without_a_terminal_failures_say_where(fast_path: Path) -> None:
    spec = small_study()
    storage = storage_of(fast_path, spec)
    key = RunKey("confirm", "base", 0, "dog-1", 100)
    planned = PlannedRun(key, storage.run_folder(key), spec.run_config(key, {}, storage))
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    shown = ProgressView(spec.name, 4, console=console)
    shown.start()
    shown.follow(planned)
    log = EventLog(planned.folder)
    log.append("started", attempt=2, host="gpu-7", resumed_step=0)
    log.append("finished", 3, state="FAIL", reason="out_of_memory")
    shown.close()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"FAIL     {key.name}  out_of_memory, on gpu-7, attempt 2" in text
    assert "1/4 runs, 0 running, 1 failed" in text
