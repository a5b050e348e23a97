"""Where one run stands, from its folder alone; looked at again and again at little cost.

A run that has ended is read once. Of one that is under way only the new events are read each time.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from study.storage.attempts import attempts
from study.storage.event_tail import EventTail
from study.storage.run_key import RunKey
from study.storage.run_result import RunResult, read_result
from trainables.evaluation.metrics_table import QUALITY
from trainables.events import RUN_FILE, Event, settled_steps

RunPhase = Literal["complete", "pruned", "failed", "running", "interrupted", "pending"]

UNDER_WAY: tuple[RunPhase, ...] = ("running", "pending", "interrupted")
TAIL_BYTES = 65_536
# Of a result's cost: what adds up to the time that a run held its devices.
WALL = (
    "train_seconds",
    "evaluation_seconds",
    "selection_seconds",
    "preparation_seconds",
    "startup_seconds",
    "saving_seconds",
)


@dataclass
class RunStatus:
    """What is known of a run; times in seconds since the epoch.

    Attributes:
        begun: Its attempts, as the workers wrote them down.
        step: Of `steps`, as far as the latest attempt has come.
        doing: Phase of the run (prepare, train, evaluate, save).
        last_sign: Time of the last event.
        active_seconds: Seconds from beginning to last event, over all attempts.
        quality: Of the last evaluation.
        score: Of a classifier that has ended: balanced accuracy on test images, in a search on validation images.
        loss: Of the latest attempt's last report, while it trains.
    """

    key: RunKey
    folder: Path
    begun: list[dict[str, Any]] = field(default_factory=list)
    result: RunResult | None = None
    step: int = 0
    steps: int | None = None
    steps_per_second: float | None = None
    doing: str | None = None
    last_sign: float | None = None
    active_seconds: float = 0.0
    quality: float | None = None
    score: float | None = None
    loss: float | None = None
    _tail: EventTail | None = None
    _began: float | None = None
    _progress: tuple[int, float] | None = None

    @property
    def share(self) -> float | None:
        """Done part of its steps, 0 to 1."""
        return min(1.0, self.step / self.steps) if self.steps else None

    @property
    def latest(self) -> dict[str, Any]:
        """Its latest attempt; empty if none has begun."""
        return self.begun[-1] if self.begun else {}

    @property
    def best_step(self) -> int | None:
        """Which of its evaluations was best, once it has ended; None where it had one alone."""
        return None if self.result is None else self.result.best.get("best_step")

    def seconds(self) -> float | None:
        """How long an ended run held its devices; lost attempts included."""
        if self.result is None:
            return None
        parts = [self.result.value(name) for name in (*WALL, "lost_seconds")]
        known = [part for part in parts if part is not None]
        return sum(known) if known else (self.active_seconds or None)

    def refresh(self) -> None:
        """Takes in what has changed."""
        if self.result is not None:
            return
        self.begun = attempts(self.folder)
        result = read_result(self.folder)  # before the events: then these are not older than it
        if self.steps is None:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                document = json.loads((self.folder / RUN_FILE).read_text(encoding="utf-8"))
                self.steps = _stated_steps(document["training"])
        tail = self._tail = self._tail or EventTail(self.folder)
        with contextlib.suppress(OSError):
            if result is not None and tail.read == 0 and result.state != "FAIL":
                tail.skip_to_last(
                    TAIL_BYTES
                )  # after a good end only the last event says more than the result
            for event in tail.new():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    self._take(event)
        self.result = result
        if result is not None:
            self.quality = result.value(QUALITY)
            self.score = next(
                (
                    value
                    for name in ("balanced_accuracy", "validation_balanced_accuracy")
                    if (value := result.value(name)) is not None
                ),
                None,
            )
            done = result.value("train_steps")
            if self.steps is None and done:  # whose beginning has not been read
                self.steps = int(done)

    def _take(self, event: Event) -> None:
        kind, data, now = event.kind, event.data, float(event.time)
        if kind == "started":
            self.step, self.doing = int(data.get("resumed_step") or 0), None
            self._began, self._progress = now, None
            self.steps_per_second = self.loss = None
        elif self._began is not None and self.last_sign is not None:
            self.active_seconds += max(0.0, now - self.last_sign)
        self.last_sign = now
        self.steps = settled_steps(event) or self.steps
        if event.step is not None:
            self.step = int(event.step)
        if kind == "phase":
            self.doing = str(data.get("name"))
        elif kind == "progress":
            self._speed(self.step, now, data.get("steps_per_second"))
            self.loss = data.get("loss")
        elif kind == "evaluation" and data.get(QUALITY) is not None:
            self.quality = float(data[QUALITY])

    def _speed(self, step: int, now: float, said: float | None) -> None:
        before, self._progress = self._progress, (step, now)
        if said is not None:
            self.steps_per_second = float(said)
        elif before is not None and now > before[1]:
            self.steps_per_second = (step - before[0]) / (now - before[1])


def _stated_steps(training: Mapping[str, Any]) -> int | None:
    """Steps of a configuration, unless another budget ends training (`TrainingConfig.stated_steps`)."""
    if training.get("max_train_flops") is not None or training.get("max_train_seconds") is not None:
        return None
    return int(training["max_train_steps"])
