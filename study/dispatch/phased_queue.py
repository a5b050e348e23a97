"""The queue of a whole study: fine-tuning first, then the classifiers that learn from what was fine-tuned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from study.dispatch.run_queue import RunQueue
from study.spec.downstream_plan import downstream_plan
from study.storage.layout import Storage
from study.storage.planned_run import PlannedRun
from study.storage.run_key import RunKey
from study.storage.run_result import RunResult

if TYPE_CHECKING:
    from study.ledger.ledger import Ledger
    from study.spec.study_spec import StudySpec


class StudyQueue:
    """Gives the runs of a study one by one and takes their ends, as `RunQueue` does; arguments as there.

    Classifiers begin when every fine-tuning run has ended, since what images there are is known then alone.
    """

    def __init__(self, spec: StudySpec, storage: Storage, ledger: Ledger) -> None:
        self._storage, self._ledger = storage, ledger
        self._models = RunQueue(spec, storage, ledger)
        self._plan = downstream_plan(spec)
        self._classifiers: RunQueue | None = None
        self._begin_classifiers()

    @property
    def live(self) -> tuple[RunKey, ...]:
        """Runs that were given out and have not ended."""
        return self._current.live

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to give out and nothing under way, in either phase."""
        return self._current.finished and (self._plan is None or self._classifiers is not None)

    @property
    def ended(self) -> dict[RunKey, RunResult]:
        """The runs that have ended, with their results."""
        return {**self._models.ended, **(self._classifiers.ended if self._classifiers else {})}

    @property
    def resumed(self) -> list[RunKey]:
        """Interrupted runs that go on."""
        return [*self._models.resumed, *(self._classifiers.resumed if self._classifiers else [])]

    @property
    def notes(self) -> list[str]:
        """What should be known, for people."""
        return [*self._models.notes, *(self._classifiers.notes if self._classifiers else [])]

    def next(self) -> PlannedRun | None:
        """Returns a run to start now, or None if none is ready."""
        return self._current.next()

    def end(self, key: RunKey, result: RunResult) -> None:
        """Takes the end of a run: COMPLETE, PRUNED or FAIL."""
        self._queue_of(key).end(key, result)
        self._begin_classifiers()

    def put_back(self, key: RunKey) -> None:
        """Takes back a run that did not end, to be given out again before all others."""
        self._queue_of(key).put_back(key)

    @property
    def _current(self) -> RunQueue:
        return self._classifiers or self._models

    def _queue_of(self, key: RunKey) -> RunQueue:
        return self._current if key.trains_classifier else self._models

    def _begin_classifiers(self) -> None:
        if self._plan is not None and self._classifiers is None and self._models.finished:
            self._classifiers = RunQueue(self._plan, self._storage, self._ledger.downstream)
