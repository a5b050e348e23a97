"""Reads the events of a study's runs and writes them to MLflow from a background thread; nothing here stops a
training.

The runs' event files are the spool: while the store is away they just grow, and the thread tries again with
growing pauses. What is still missing at the end is named, and ``study sync`` brings it later.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from study.tracking.mirror import BusyError, Counts, Mirror, OutageError
from study.tracking.mlflow_store import (
    brief,
    configure_client,
    tracking_command,
)
from study.tracking.progress import StateWriter
from study.tracking.run_ids import WRITE_SECONDS, RunIds, TrackingRecord
from study.util.redaction import without_credentials

if TYPE_CHECKING:
    from study.storage.layout import Storage
    from study.storage.planned_run import PlannedRun
    from study.storage.run_key import RunKey

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
LAST_TRIES = 4  # at the end, for runs that MLflow refuses: one that has just come back refuses for a moment


class Tracker:
    """A `study.storage.planned_run.RunListener` that writes to MLflow.

    Runs that an earlier, killed driver left are taken into care as well, so that none stays RUNNING.

    Args:
        hypotheses: See `Mirror`.
        ids: Also told the MLflow run id of each run (the ledger); called from the tracker's thread.
        poll_seconds: How often event files are looked at.
        close_seconds: How long `close` may take at most.
    """

    def __init__(
        self,
        storage: Storage,
        uri: str,
        *,
        ids: RunIds | None = None,
        hypotheses: Sequence[Mapping[str, Any]] = (),
        log_weights_limit_mb: float = 32,
        poll_seconds: float = 1.0,
        close_seconds: float = 60.0,
    ) -> None:
        configure_client()  # imports MLflow here: importing in two threads at once can dead-lock
        self.unsynced: tuple[str, ...] = ()
        self.problem: str | None = None
        self._full_uri, self._uri = uri, without_credentials(uri)
        self._storage = storage
        self._state = StateWriter(storage, self._uri)
        self._poll_seconds = poll_seconds
        self._close_seconds = close_seconds
        self._waiting: list[RunKey] = []
        self._guard = threading.Lock()
        self._closing = threading.Event()
        self._deadline = float("inf")
        record = TrackingRecord(storage)
        record.add_launch()
        told = (record, ids) if ids is not None else (record,)
        self._mirror = Mirror(
            storage, uri, record, ids=told, hypotheses=hypotheses, log_weights_limit_mb=log_weights_limit_mb
        )
        self._mirror.add_all()
        self._thread = threading.Thread(target=self._work, name="mlflow-tracker", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> Counts:
        """What was written so far."""
        return self._mirror.counts

    def watch(self, run: PlannedRun) -> None:
        """See `RunListener`."""
        with self._guard:
            self._waiting.append(run.key)

    def close(self, *, at_once: bool = False) -> None:
        """Catches up with the event files and stops within `close_seconds`; `unsynced` names what is left.

        Args:
            at_once: Do not wait for anything; the next launch or `study sync` brings the rest.
        """
        if self._closing.is_set():
            return
        seconds = 0.0 if at_once else self._close_seconds
        self._deadline = time.monotonic() + seconds
        self._closing.set()
        self._thread.join(0.5 if at_once else seconds + 5.0)
        if self._thread.is_alive():  # a request hangs; the daemon thread dies with the process
            self.problem = self.problem or "the store accepts requests and does not answer them"
            with self._guard:
                self.unsynced = tuple(key.name for key in self._waiting) or self.unsynced or ("(unknown)",)

    def message(self) -> str | None:
        """After `close`: what is not in MLflow, why, and the remedy; None if all is."""
        if not self.unsynced:
            return None
        count = len(self.unsynced)
        return (
            f"{count} run{'s' if count > 1 else ''} not (fully) in MLflow at {self._uri}: {self.problem}. "
            f"Nothing is lost; when it answers again, run: {tracking_command('sync', self._storage, self._full_uri)}"
        )

    def _work(self) -> None:
        pause, last_tries = FIRST_PAUSE_SECONDS, LAST_TRIES
        while True:
            closing = self._closing.is_set()
            self._take_over()
            try:
                self._mirror.update(at_once=closing)
                if closing:
                    self._mirror.finish()
                self.problem, pause = None, FIRST_PAUSE_SECONDS
                wait = self._poll_seconds
            except (OutageError, BusyError) as error:
                self.problem = brief(error)
                wait, pause = pause, min(2 * pause, LONGEST_PAUSE_SECONDS)
            except Exception as error:  # a bug of ours must not take the study with it
                self.problem = f"{type(error).__name__}: {brief(error)}"
                wait, pause = pause, min(2 * pause, LONGEST_PAUSE_SECONDS)
            with contextlib.suppress(OSError):  # it is written again, at the latest when the study ends
                self._mirror.record.flush(after=WRITE_SECONDS)
            self.unsynced = tuple(self._mirror.pending())
            self._state.note(len(self.unsynced), self.problem)
            refused = self.problem is None and bool(self.unsynced)
            last_tries -= closing and refused
            over = self.problem is None and (not refused or last_tries <= 0)
            if closing and (over or time.monotonic() + min(wait, 2.0) > self._deadline):
                break
            if closing:
                time.sleep(min(wait, 2.0))
            else:
                self._closing.wait(wait)
        if self.unsynced and self.problem is None:
            self.problem = self._mirror.first_problem() or "MLflow refused them"
        elif self.problem is not None and not self.unsynced:
            self.unsynced = ("the end states of runs",)
        self._state.note(len(self.unsynced), self.problem, final=True)
        self._mirror.release()

    def _take_over(self) -> None:
        with self._guard:
            keys, self._waiting = self._waiting, []
        for key in keys:
            self._mirror.add(key)
