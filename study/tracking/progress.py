"""How far MLflow is, in one small file of the study's folder: for `study status`, which does not ask MLflow itself."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import asdict, dataclass

from study.storage.layout import TRACKING_STATE_FILE, Storage
from study.util.json_files import write_json

WRITE_SECONDS = 10.0


@dataclass(frozen=True)
class TrackingState:
    """What the writer of MLflow said last.

    Attributes:
        time: Seconds since the epoch: of the last time that it wrote all there was, or tried.
        uri: Without credentials.
        behind: Runs of which MLflow lacks something.
        problem: Why; None when nothing is the matter, for instance while a run is just going on.
    """

    time: float
    uri: str
    behind: int = 0
    problem: str | None = None


def read_state(storage: Storage) -> TrackingState | None:
    """Returns the state, None if nothing was ever written to MLflow."""
    try:
        return TrackingState(**json.loads((storage.folder / TRACKING_STATE_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_state(storage: Storage, uri: str, behind: int, problem: str | None) -> None:
    """Writes the state; a storage that cannot be written now is the business of others."""
    state = TrackingState(time.time(), uri, behind, problem)
    with contextlib.suppress(OSError):
        write_json(storage.folder / TRACKING_STATE_FILE, asdict(state))


class StateWriter:
    """Writes the state when it changes, and now and then to show that somebody is there."""

    def __init__(self, storage: Storage, uri: str) -> None:
        self._storage, self._uri = storage, uri
        self._last: tuple[bool, str | None] | None = None
        self._next = 0.0

    def note(self, behind: int, problem: str | None, *, final: bool = False) -> None:
        """Takes what the writer of MLflow knows now."""
        said = (behind > 0, problem)
        if final or said != self._last or time.monotonic() >= self._next:
            write_state(self._storage, self._uri, behind, problem)
            self._last, self._next = said, time.monotonic() + WRITE_SECONDS
