"""What a `DistributedAttempt` makes of what its workers report; Ray Train is replaced by a function here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from study.ray_tune import distributed_attempt
from study.ray_tune.distributed_attempt import DistributedAttempt, WorkersPreempted
from study.worker.order import Order

FINAL = {"budget": 1.0, "done": True, "state": "COMPLETE", "reason": None}


def make(monkeypatch: pytest.MonkeyPatch, fit: Callable[[DistributedAttempt], None]) -> DistributedAttempt:
    """An attempt whose workers are `fit`."""
    order = Order(
        key="search/lora/0000-cat-1-s0",
        phase="search",
        group="",
        config="{}",
        driver_id="s",
        runner="",
        resident="",
        cpus=1.0,
        gpus=0.0,
        workers=2,
        attempt="0001-s",
    )
    attempt = DistributedAttempt(order, None)

    class Trainer:
        def fit(self) -> None:
            fit(attempt)

    monkeypatch.setattr(attempt, "_trainer", lambda folder: Trainer())
    return attempt


def report(budget: float, **more: Any) -> dict[str, Any]:
    return {"budget": budget, "done": False, **more}


def until_the_end(attempt: DistributedAttempt) -> list[dict[str, Any]]:
    seen = [attempt.advance(0.01)]
    while not seen[-1]["done"]:
        seen.append(attempt.advance(0.01))
    return seen


def test_evaluations_are_all_told_and_the_end_once_the_workers_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, told, gone = threading.Event(), threading.Event(), threading.Event()

    def fit(attempt: DistributedAttempt) -> None:
        asked.wait(30)
        reports = [report(0.1), report(0.2, score=0.5), report(0.3), report(0.4, score=0.6), FINAL]
        assert all(attempt.take("0001-s", entry) for entry in reports)
        told.set()
        gone.wait(30)

    attempt = make(monkeypatch, fit)
    seen = [attempt.advance(0.01)]
    asked.set()
    assert told.wait(30)
    threading.Timer(0.3, gone.set).start()
    seen += until_the_end(attempt)
    assert any(entry.get("waiting") for entry in seen)  # while nothing is heard
    assert [entry["score"] for entry in seen if "score" in entry] == [0.5, 0.6]
    assert seen[-1] == FINAL
    assert gone.is_set()


def test_workers_that_die_are_an_error_with_what_they_died_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(attempt: DistributedAttempt) -> None:
        attempt.take("0001-s", report(0.5))
        raise ValueError("WorkspaceError: the node does not see the storage")

    attempt = make(monkeypatch, fit)
    with pytest.raises(RuntimeError, match=r"workers .* are gone: ValueError: WorkspaceError: the node"):
        until_the_end(attempt)


def test_reports_of_another_attempt_and_after_the_end_are_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = make(monkeypatch, lambda _: None)
    assert attempt.take("0001-s", report(0.1))
    assert not attempt.take("0000-old", report(0.1))
    attempt.interrupt()
    assert not attempt.take("0001-s", report(0.2))


@pytest.mark.parametrize(("drained", "expected"), [("a", WorkersPreempted), ("c", RuntimeError)])
def test_workers_that_go_with_a_drained_node_of_theirs_are_preempted(
    monkeypatch: pytest.MonkeyPatch, drained: str, expected: type[Exception]
) -> None:
    announced = threading.Event()
    monkeypatch.setattr(
        distributed_attempt, "nodes_of", lambda group: frozenset("ab") if group == "r1" else None
    )
    monkeypatch.setattr(
        distributed_attempt, "draining_nodes", lambda: frozenset([drained] if announced.is_set() else [])
    )

    def fit(attempt: DistributedAttempt) -> None:
        announced.wait(30)
        raise ValueError("a worker of the run is gone")

    attempt = make(monkeypatch, fit)
    assert attempt.take("0001-s", report(0.5, placement_group="r1"))
    assert not attempt.advance(0.01)["done"]
    announced.set()
    with pytest.raises(RuntimeError, match="are gone") as caught:
        until_the_end(attempt)
    assert type(caught.value) is expected
