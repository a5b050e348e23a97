"""A run that is written to MLflow: how far it has been read, and how far MLflow has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.storage.event_tail import EventTail
from study.storage.run_key import RunKey
from trainables.events import Event

if TYPE_CHECKING:
    from study.tracking.run_models import RunModels


@dataclass
class FollowedRun:
    """One run and how far MLflow has it.

    Attributes:
        events: Read so far; forgotten when all is logged.
        written: Whether MLflow has been offered all of them.
        logged: Number of the last event that MLflow holds; None: to be asked.
        models: Those of its evaluations, from when it is known in MLflow.
        retry_at: Monotonic time before which a run that MLflow refused is left alone.
    """

    key: RunKey
    folder: Path
    run_id: str | None = None
    status: str = "RUNNING"
    logged: int | None = None
    models: RunModels | None = None
    tail: EventTail | None = None
    events: list[Event] = field(default_factory=list)
    written: bool = False
    done: bool = False
    problem: str | None = None
    retry_at: float = 0.0
    document: dict[str, Any] = field(default_factory=dict)
