"""Runs a study on Ray: claims it, joins or starts a cluster, and lets Tune place the runs of the queue.

Running the same study again resumes it. What has ended is kept, what was interrupted goes on from its
checkpoint, and what died unnoticed is found in the run folders; Tune's own state is never restored.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from study.cluster.capacity import WAIT_SECONDS, ClusterCapacity
from study.cluster.ray_cluster import Cluster, alive_nodes, cluster, dead_daemons
from study.dispatch.phased_queue import StudyQueue
from study.dispatch.run_hooks import RunHooks
from study.driver.claim import claimed
from study.driver.heartbeat import Heartbeat
from study.driver.launch_failures import records_failed, what_failed
from study.driver.remote_sync import storage_hooks
from study.driver.watchdog import Watchdog
from study.ledger.open_ledger import open_ledger
from study.ledger.stated import state_hypotheses
from study.spec.difference import not_taken
from study.spec.downstream_plan import total_runs
from study.spec.loading import read_contents
from study.storage.layout import TUNE_FOLDER, Storage
from study.storage.planned_run import PlannedRun, RunListener
from study.storage.run_key import RunKey
from study.storage.shared_marker import write_marker
from study.storage.study_record import read_study_record
from trainables.errors import UserError

if TYPE_CHECKING:
    from study.dispatch.dispatcher import Dispatcher
    from study.spec.study_spec import StudySpec

RUNNER = "trainables.run.execute:execute"
CLASSIFIER_RUNNER = "trainables.downstream.execute:execute"
RESIDENT = "trainables.run.resident:Resident"
WATCHDOG_MINUTES = 60.0
LONGEST_CALL_MINUTES = 30.0  # shipping of images, a database that is waited for: no call takes longer
MAX_STALLS = 3
GO_ON = "Interrupted runs keep their checkpoints: to go on, run the same command again"
STALL_SECONDS = 3.0  # times the number of stalls in a row: what fails may come back


@dataclass(frozen=True)
class Outcome:
    """How a launch ended.

    Attributes:
        failed: Runs of the study that are FAIL, with their reasons, those of earlier launches too.
        complete: Number of runs that are COMPLETE; likewise `pruned`.
        total: Number of runs that have ended in whatever way.
        interrupted: The study can and must be gone on with.
        message: Why it was interrupted, and how to go on.
        notes: What else should be known, such as workers that died and were replaced.
        seconds: That this launch took; `ended` is the number of runs that ended in it.
    """

    failed: list[tuple[RunKey, str]] = field(default_factory=list)
    complete: int = 0
    pruned: int = 0
    total: int = 0
    interrupted: bool = False
    message: str | None = None
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    ended: int = 0


@dataclass(frozen=True)
class Workers:
    """What workers run, and how long they may be silent.

    Attributes:
        runner: ``module:function`` that trains a run (see `trainables.run.execute.execute`).
        classifier_runner: The same of a run of the downstream phase.
        resident: ``module:class`` of what stays loaded between runs; empty for nothing.
        watchdog_minutes: Without a report or an end of a run for so long a launch ends.
    """

    runner: str = RUNNER
    resident: str = RESIDENT
    watchdog_minutes: float = WATCHDOG_MINUTES
    classifier_runner: str = CLASSIFIER_RUNNER


class Ending:
    """Whether and why a launch shall end before its study does."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def ask(self, reason: str) -> None:
        """Asks for the end; the first reason stays."""
        self.reason = self.reason or reason


@dataclass(frozen=True)
class LaunchContext:
    """What a launch works with from its beginning to its end, whatever becomes of Ray in between.

    Attributes:
        say: Takes a line for the user.
        notes: Lines for the end.
        started: When the launch began (monotonic seconds).
    """

    spec: StudySpec
    storage: Storage
    listeners: Sequence[RunListener]
    workers: Workers
    say: Callable[[str], None]
    ending: Ending
    notes: list[str]
    heartbeat: Heartbeat
    hooks: RunHooks
    watchdog: Watchdog
    started: float


def launch(
    spec: StudySpec,
    storage: Storage,
    *,
    address: str | None = None,
    listeners: Sequence[RunListener] = (),
    workers: Workers | None = None,
    say: Callable[[str], None] | None = None,
    dashboard: bool = False,
) -> Outcome:
    """Runs a study to its end, or goes on with it.

    Args:
        spec: The study.
        storage: Its place; absolute.
        address: Of a running Ray cluster; None starts one on this machine.
        listeners: Told of every run that is started; closing them is the caller's.
        workers: Other than the default only in tests and benchmarks.
        say: Takes a line for the user while the study runs; default: standard error.
        dashboard: Give the cluster that is started here Ray's dashboard, on loopback and behind its token.

    Returns:
        How it ended. Interruptions (first SIGINT or SIGTERM, `study stop`, the budget's hours, the watchdog) are
        outcomes.

    Raises:
        UserError: If the study cannot be run: it was changed, another driver runs it, no room, no resources.
    """
    started = time.monotonic()
    workers = workers or Workers()
    say = say or _to_standard_error
    ending = Ending()
    notes: list[str] = []
    spec = spec.with_contents(read_contents(spec))
    with (
        claimed(spec, storage, lost=ending.ask) as spec,
        _signals(ending, say),
        storage_hooks(
            spec, storage, open_ledger=lambda: open_ledger(spec, storage), end=ending.ask, say=say
        ) as hooks,
        Heartbeat(storage, _obey(ending, say)) as heartbeat,
        Watchdog(
            60 * max(2 * workers.watchdog_minutes, LONGEST_CALL_MINUTES), say, lambda: waiting()
        ) as watchdog,
    ):
        for line in not_taken(read_study_record(storage), spec):
            notes.append(line)
            say(line)
        queue = _queue(spec, storage)
        for line in state_hypotheses(open_ledger(spec, storage), spec.statements):
            notes.append(line)
            say(line)
        ended_before = len(queue.ended)
        stalls = rounds = 0
        stale = False

        def waiting() -> str:
            return ", ".join(key.name for key in queue.live if not stale) or "Ray or the ledger"

        context = LaunchContext(
            spec, storage, listeners, workers, say, ending, notes, heartbeat, hooks, watchdog, started
        )

        while (stale or not queue.finished) and ending.reason is None:
            ended, rounds, failure = len(queue.ended), rounds + 1, None
            watchdog.reset()
            try:
                if stale:  # what was under way is in ledger and folders, not in memory
                    queue, stale = StudyQueue(spec, storage, open_ledger(spec, storage)), False
                    if queue.finished:
                        break
                with cluster(address, dashboard=dashboard) as joined:
                    if dashboard and joined.dashboard:
                        say(f"Ray dashboard: {joined.dashboard}; its token is in {joined.token_file}")
                    failure = _work(context, queue, joined)
            except Exception as error:
                if rounds == 1 and isinstance(error, UserError):
                    raise  # the study cannot be run at all
                failure = what_failed(error)
            # A queue whose ledger failed takes runs for given out that nobody has, and would wait for them for ever.
            stale = failure is not None
            if stale:
                heartbeat.describe = dict  # nothing is given out until there is a new queue
            stalls = 0 if len(queue.ended) > ended else stalls + 1
            if failure is not None:
                notes.append(f"the work broke off and was begun again: {failure}")
                say(notes[-1])
                _pause(STALL_SECONDS * stalls, ending)
            if stalls >= MAX_STALLS:
                ending.ask(f"the work broke off {stalls} times without finishing a run ({failure})")
        shutil.rmtree(storage.folder / TUNE_FOLDER, ignore_errors=True)
        finished = queue.finished and not stale
        heartbeat.how = "finished" if finished else ending.reason or "interrupted"
        return replace(
            _outcome(spec, queue, ending, notes, finished=finished),
            seconds=time.monotonic() - started,
            ended=len(queue.ended) - ended_before,
        )


def _queue(spec: StudySpec, storage: Storage) -> StudyQueue:
    """Returns the queue of a study; a ledger or storage that fails from the beginning is the user's business."""
    try:
        return StudyQueue(spec, storage, open_ledger(spec, storage))
    except UserError:
        raise
    except Exception as error:
        failure = records_failed(error)
        if failure is None:
            raise
        raise UserError(failure) from error


def _work(context: LaunchContext, queue: StudyQueue, joined: Cluster) -> str | None:
    """Works on the queue until it is finished or the launch shall end; returns what Tune died of, or None."""
    from study.dispatch.dispatcher import Dispatcher
    from study.driver.node_preparation import prepared_nodes
    from study.ray_tune.experiment import PREEMPTED, place_runs, remove_placement_group

    spec, storage, ending, say = context.spec, context.storage, context.ending, context.say
    workers = context.workers

    def on_start(run: PlannedRun) -> None:
        for listener in context.listeners:
            listener.watch(run)

    def tick() -> None:
        context.watchdog.reset()
        if dispatcher.broken is not None:
            raise dispatcher.broken
        if joined.local and (dead := dead_daemons()):
            if "gcs_server" in dead:
                say("Ray's control service died, upon which Ray ends this process within a minute; " + GO_ON)
            raise RuntimeError(f"Ray's {' and '.join(dead)} died")
        capacity.update()
        dispatcher.max_concurrent = capacity.limit
        if dispatcher.starved_seconds() > WAIT_SECONDS and not said:
            said.append(capacity.shortage(len(dispatcher.queue.live)))
            say(f"{said[0]}. Without a heartbeat the launch ends after {workers.watchdog_minutes:g} minutes")
        elif not dispatcher.starved_seconds():
            said.clear()
        _maybe_end(context, dispatcher, capacity)
        if dispatcher.trouble is not None:
            ending.ask(dispatcher.trouble)
        dispatcher.stopping = ending.reason is not None

    said: list[str] = []
    capacity = ClusterCapacity(
        spec.resources,
        joined.nodes,
        alive_nodes,
        local=joined.local,
        on_change=lambda: dispatcher.touch(),
    )
    dispatcher = Dispatcher(
        queue,
        spec.resources,
        runner=workers.runner,
        classifier_runner=workers.classifier_runner,
        resident=workers.resident,
        max_concurrent=capacity.limit,
        on_start=on_start,
        note=context.notes.append,
        hooks=context.hooks,
        url=storage.url or "",
        home=str(storage.folder) if storage.url is None and not joined.local else "",
        study=spec.name,
        early_stopping=spec.search.metrics[0] if spec.search.scheduler is not None else "",
        release=remove_placement_group,
        preempted=PREEMPTED,
    )
    write_marker(storage.folder, dispatcher.driver_id)
    if not joined.local:
        dispatcher.path_map = prepared_nodes(spec, storage, dispatcher.driver_id, say)
    context.heartbeat.describe = lambda: _told(dispatcher, capacity, joined)
    context.heartbeat.beat()  # or the first runs would count as those of an earlier driver
    failure = place_runs(
        dispatcher, folder=storage.folder / TUNE_FOLDER, asha=spec.search.scheduler, tick=tick
    )
    if dispatcher.trouble is not None:
        ending.ask(dispatcher.trouble)
    return None if failure is None else what_failed(failure)


def _told(dispatcher: Dispatcher, capacity: ClusterCapacity, joined: Cluster) -> dict[str, Any]:
    """What the driver says of itself while it works (`study.storage.driver_record.Driver`)."""
    return {
        "driver_id": dispatcher.driver_id,
        "live": [key.name for key in dispatcher.queue.live],
        "pending": dispatcher.pending,
        "limit": capacity.limit,
        "nodes": [asdict(node) for node in capacity.nodes],
        "dashboard": joined.dashboard,
        "token_file": joined.token_file,
    }


def _maybe_end(context: LaunchContext, dispatcher: Dispatcher, capacity: ClusterCapacity) -> None:
    now, ending, watchdog_minutes = time.monotonic(), context.ending, context.workers.watchdog_minutes
    hours = context.spec.budget.max_hours
    if hours is not None and now - context.started > hours * 3600:
        ending.ask(f"budget.max_hours = {hours:g} is over")
    if now - dispatcher.last_activity > watchdog_minutes * 60:
        live = dispatcher.queue.live
        waiting = ", ".join(key.name for key in live) or "resources for the next run"
        if dispatcher.starved_seconds():
            waiting += f" ({capacity.shortage(len(live))})"
        ending.ask(f"no heartbeat for {watchdog_minutes:g} minutes while waiting for {waiting}")


def _pause(seconds: float, ending: Ending) -> None:
    """Waits, but not for what shall end."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and ending.reason is None:
        time.sleep(0.1)


def _outcome(
    spec: StudySpec, queue: StudyQueue, ending: Ending, notes: list[str], *, finished: bool
) -> Outcome:
    results = dict(sorted(queue.ended.items()))
    message = None
    if not finished:
        left = total_runs(spec) - len(results)
        message = (
            f"{ending.reason or 'interrupted'}; {len(results)} runs have ended, up to {left} are left. "
            + GO_ON
        )
    return Outcome(
        failed=[
            (key, result.reason or "unknown") for key, result in results.items() if result.state == "FAIL"
        ],
        complete=sum(result.state == "COMPLETE" for result in results.values()),
        pruned=sum(result.state == "PRUNED" for result in results.values()),
        total=len(results),
        interrupted=not finished,
        message=message,
        notes=[*queue.notes, *notes],
    )


def _obey(ending: Ending, say: Callable[[str], None]) -> Callable[[str], None]:
    """Returns what a request to stop does: the same as the first SIGINT."""

    def stop(reason: str) -> None:
        if ending.reason is None:
            ending.ask(reason)
            say(f"{reason}: ending; running runs keep their checkpoints")

    return stop


def _to_standard_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _signals(ending: Ending, say: Callable[[str], None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM ends the launch in order, the second at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: Any) -> None:
        if ending.reason is not None:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        ending.ask(f"interrupted by {name}")
        say(f"{name}: ending; running runs keep their checkpoints (once more to stop at once)")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
