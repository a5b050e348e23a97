"""Hands out runs of the queue, takes what became of them, and pauses when the ledger cannot be asked."""

from __future__ import annotations

import math
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from study.dispatch.deaths import Deaths
from study.dispatch.phased_queue import StudyQueue
from study.dispatch.run_hooks import RunHooks, StorageUnavailable
from study.dispatch.run_queue import RunQueue
from study.remote.run_manifest import attempt_name
from study.storage.attempts import note_worker_failure
from study.storage.planned_run import PlannedRun
from study.storage.run_result import read_result
from study.worker.order import REPORT_SECONDS, Order
from study.worker.workspace import WorkspaceError
from trainables.classifier_run_config import CLASSIFIER
from trainables.methods.registry import BASE

if TYPE_CHECKING:
    from study.spec.sections import Resources

REPORTS_A_SECOND = 50.0  # from all runs together
LONGEST_REPORT_SECONDS = 4.0

# Between two runs that storage or node refused, doubling from the first to the longest pause; after so many in a row
# that no run has ended in between, the launch ends.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0

MAX_REFUSALS = 6

T = TypeVar("T")


class Dispatcher:
    """Hands out runs as orders and takes their ends; the part of the searcher that Tune knows nothing of.

    Args:
        queue: The runs.
        resources: Of one run, and how often a crashing run is started.
        runner: ``module:function``, and `resident` ``module:class`` or empty (see `study.worker.order.Order`).
        classifier_runner: As `runner`, of runs that train classifiers.
        max_concurrent: Runs under way at most; may be changed at any time.
        on_start: Called with each run that is handed out.
        note: Takes a line about a worker that died.
        hooks: What is done around each run for a storage at a URL.
        url: Of the storage, or empty; see `study.worker.order.Order` for it and `home`.
        release: Gives a placement group back, if it is still held.
        preempted: Words that say of a worker's death that its node was taken away.

    Attributes:
        path_map: Named folders that lie elsewhere for workers, see `study.remote.input_upload`.
        broken: What ledger or folders raised: from then on the queue is not what they say, and nothing is given out.
        announced: When (monotonic) each node was last seen that had been announced to be taken away, by its id.
        trouble: Why the launch must end: runs cannot be kept, or no node that is tried can work on them.
    """

    def __init__(
        self,
        queue: RunQueue | StudyQueue,
        resources: Resources,
        *,
        runner: str,
        classifier_runner: str = "",
        resident: str,
        max_concurrent: int,
        on_start: Callable[[PlannedRun], None],
        note: Callable[[str], None],
        hooks: RunHooks | None = None,
        url: str = "",
        home: str = "",
        study: str = "",
        early_stopping: str = "",
        release: Callable[[str], None] = lambda group: None,
        preempted: Collection[str] = (),
    ) -> None:
        self.queue = queue
        self.trouble: str | None = None
        self.broken: Exception | None = None
        self.announced: dict[str, float] = {}
        self._given: dict[str, float] = {}
        self._hooks = hooks or RunHooks()
        self._url, self._home, self._study, self._early_stopping = url, home, study, early_stopping
        self.path_map: Mapping[str, str] = {}
        self._misplaced: Counter[str] = Counter()
        self._refusals = 0
        self._pause_until = 0.0
        self.driver_id = uuid.uuid4().hex
        self.last_activity = time.monotonic()
        self.stopping = False
        self._resources = resources
        self._runner, self._classifier_runner, self._resident = runner, classifier_runner, resident
        self.max_concurrent = max_concurrent
        self._on_start = on_start
        self._note = note
        self._release = release
        self._deaths = Deaths(self.driver_id, resources.max_attempts, preempted, note)
        self._planned: dict[str, PlannedRun] = {}
        self._pending: set[str] = set()
        self._groups: dict[str, str] = {}
        self._starved_since: float | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will be given out."""
        return self.stopping or self.broken is not None or self.trouble is not None or self.queue.finished

    def touch(self) -> None:
        """Notes that something happened."""
        self.last_activity = time.monotonic()

    def began(self, trial_id: str) -> None:
        """Notes that a worker has taken up an order."""
        self.touch()
        self._pending.discard(trial_id)

    def holds(self, trial_id: str, group: str) -> None:
        """Notes which placement group the workers of a run lie in, where it has several."""
        self._groups[trial_id] = group

    @property
    def pending(self) -> list[str]:
        """Names of the runs that wait in Ray for a worker."""
        return [self._planned[trial_id].key.name for trial_id in list(self._pending)]

    def starved_seconds(self) -> float:
        """For how long runs have been waiting in Ray for resources while not a single one is under way."""
        if not self._pending or len(self._pending) < len(self._planned):
            self._starved_since = None
            return 0.0
        now = time.monotonic()
        self._starved_since = self._starved_since or now
        return now - self._starved_since

    def next_order(self, trial_id: str) -> Order | None:
        """Returns what the next worker shall do, or None if it must wait."""
        return self._kept(self._next_order, trial_id)

    def ended(self, trial_id: str) -> None:
        """Takes the end of an attempt: a result, if its worker left one, else it was interrupted or died."""
        self._kept(self._ended, trial_id)

    def died(self, trial_id: str, cause: str) -> None:
        """Takes the death of a worker: the run is handed out again, unless it has used up its attempts."""
        self._kept(self._died, trial_id, cause)

    def _kept(self, action: Callable[..., T], *arguments: Any) -> T | None:
        """Keeps what ledger or folders raise as `broken`: Tune would take it for one trial's failure, and go on."""
        if self.broken is not None:
            return None
        try:
            return action(*arguments)
        except Exception as error:
            self.broken = error
            return None

    def _next_order(self, trial_id: str) -> Order | None:
        if self.stopping or self.trouble is not None or time.monotonic() < self._pause_until:
            return None
        if len(self.queue.live) >= self.max_concurrent:
            return None
        planned = self.queue.next()
        if planned is None:
            return None
        self.touch()
        try:
            self._hooks.before_start(planned, self.driver_id)
        except StorageUnavailable:
            self.queue.put_back(planned.key)
            return None
        self._planned[trial_id] = planned
        self._given[trial_id] = time.monotonic()
        self._pending.add(trial_id)
        self._on_start(planned)
        key = planned.key
        return Order(
            key=key.name,
            phase=key.phase,
            group=f"{key.arm}/{key.subject}/{key.seed}",
            config=planned.config.model_copy(update={"path_map": dict(self.path_map)}).model_dump_json(),
            driver_id=self.driver_id,
            runner=self._classifier_runner if key.trains_classifier else self._runner,
            resident=self._resident,
            cpus=float(self._resources.worker_cpus),
            gpus=float(self._resources.worker_gpus),
            report_seconds=report_seconds(self.max_concurrent),
            workers=1 if planned.config.method in (BASE, CLASSIFIER) else self._resources.num_workers,
            sharded=self._resources.sharded,
            study=self._study,
            attempt=attempt_name(planned.attempt, self.driver_id),
            url=self._url,
            home=self._home,
            stoppable=bool(self._early_stopping) and key.phase == "search",
            objective=self._early_stopping if key.phase == "search" else "",
        )

    def _ended(self, trial_id: str) -> None:
        planned = self._planned.get(trial_id)
        if planned is not None:
            self._hooks.after_attempt(planned, self.driver_id)
        self._settle(trial_id)

    def _settle(self, trial_id: str) -> None:
        planned = self._planned.pop(trial_id, None)
        self._given.pop(trial_id, None)
        self._pending.discard(trial_id)
        if trial_id in self._groups:
            self._release(self._groups.pop(trial_id))
        if planned is None:
            return
        self.touch()
        result = read_result(planned.folder)
        if result is not None:
            self._refusals = 0
            self.queue.end(planned.key, result)
        else:
            self.queue.put_back(planned.key)

    def release(self) -> None:
        """Takes back all runs that are under way: Tune has ended."""
        if self.broken is not None:  # the queue is made anew; what Ray holds for runs would stand in its way
            for trial_id in list(self._groups):
                self._release(self._groups.pop(trial_id))
        for trial_id in list(self._planned):
            self.ended(trial_id)

    def _died(self, trial_id: str, cause: str) -> None:
        planned = self._planned.get(trial_id)
        known = planned is not None and self._hooks.after_attempt(planned, self.driver_id)
        # What it left cannot be seen now: perhaps its result, so that nothing may be said of it.
        if planned is None or not known or read_result(planned.folder) is not None:
            return self._settle(trial_id)
        if WorkspaceError.__name__ in cause:
            self._put_back(planned, cause)
            return self._settle(trial_id)
        self._deaths.judge(planned, cause, self._given.get(trial_id, math.inf), self.announced)
        self._hooks.publish(planned, self.driver_id)
        return self._settle(trial_id)

    def _put_back(self, planned: PlannedRun, cause: str) -> None:
        """Takes a run back that its node could not work on, or whose results the storage did not take.

        That counts as no attempt, and never as a failure of the run. What lasts ends the launch.
        """
        lines = [line for line in cause.splitlines() if WorkspaceError.__name__ in line]
        said = lines[-1].partition(f"{WorkspaceError.__name__}: ")[2] or cause
        self._note(f"{planned.key.name} was put back: {said}")
        note_worker_failure(planned.folder, self.driver_id, reason="storage", cause=said)
        self._misplaced[planned.key.name] += 1
        self._refusals += 1
        pause = min(FIRST_PAUSE_SECONDS * 2 ** (self._refusals - 1), LONGEST_PAUSE_SECONDS)
        self._pause_until = time.monotonic() + pause
        often = self._misplaced[planned.key.name] >= self._resources.max_attempts
        if often or self._refusals >= MAX_REFUSALS:
            self.trouble = said


def report_seconds(runs: int) -> float:
    """Seconds between two reports of a run, so that so many runs together do not swamp the driver.

    Reports are heartbeats and carry no data. Tune waits five seconds for workers that it ends, so they stay below that.
    """
    return min(LONGEST_REPORT_SECONDS, max(REPORT_SECONDS, runs / REPORTS_A_SECOND))
