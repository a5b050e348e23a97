"""Runs a study on Ray: claims it, joins or starts a cluster, and lets Tune place the runs of the queue.

Running the same study again resumes it. What has ended is kept, what was interrupted goes on from its checkpoint, and
what died unnoticed is found in the run folders; Tune's own state is never restored.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from study.claim import claimed
from study.errors import UserError
from study.ledger import Ledger
from study.local_ray import Cluster, cluster, environment
from study.queue import RunQueue
from study.runs import Follower, PlannedRun, RunKey, Storage

if TYPE_CHECKING:
    from study.search import Dispatcher
    from study.spec import StudySpec

RUNNER = "trainables.run:execute"
RESIDENT = "trainables.resident:Resident"
WATCHDOG_MINUTES = 60.0
MAX_STALLS = 3


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
    """

    failed: list[tuple[RunKey, str]] = field(default_factory=list)
    complete: int = 0
    pruned: int = 0
    total: int = 0
    interrupted: bool = False
    message: str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class _Ending:
    """Whether and why the launch shall end before the study does."""

    reason: str | None = None

    def ask(self, reason: str) -> None:
        self.reason = self.reason or reason


def open_ledger(spec: StudySpec, storage: Storage) -> Ledger:
    """Returns the ledger of a study: the process's one object, so that all its threads share one lock."""
    url = spec.storage.ledger_url or storage.ledger_url
    with _ledgers_lock:
        if (url, spec.name) not in _ledgers or not _still_there(url):
            _ledgers[url, spec.name] = Ledger(url, spec.name)
        return _ledgers[url, spec.name]


_ledgers: dict[tuple[str, str], Ledger] = {}
_ledgers_lock = threading.Lock()


def _still_there(url: str) -> bool:
    return not url.startswith("sqlite:///") or os.path.exists(url.removeprefix("sqlite:///"))


def launch(
    spec: StudySpec,
    storage: Storage,
    *,
    address: str | None = None,
    followers: Sequence[Follower] = (),
    runner: str = RUNNER,
    resident: str = RESIDENT,
    watchdog_minutes: float = WATCHDOG_MINUTES,
    say: Callable[[str], None] | None = None,
) -> Outcome:
    """Runs a study to its end, or goes on with it.

    Args:
        spec: The study.
        storage: Its place; absolute.
        address: Of a running Ray cluster; None starts one on this machine.
        followers: Told of every run that is started; closing them is the caller's.
        runner: ``module:function`` that trains a run (see `trainables.run.execute`), importable by workers.
        resident: ``module:class`` of what workers keep loaded between runs; empty for none.
        watchdog_minutes: Without any sign of life for so long the launch ends, saying what it waited for.
        say: Takes a line for the user while the study runs; default: standard error.

    Returns:
        How it ended. An interruption (first SIGINT or SIGTERM, the budget's hours, the watchdog) is an outcome.

    Raises:
        UserError: If the study cannot be run: it was changed, another driver runs it, no room, no resources.
    """
    started = time.monotonic()
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    with claimed(spec, storage):
        queue = RunQueue(spec, storage, open_ledger(spec, storage))
        ending = _Ending()
        notes: list[str] = []
        stalls = 0
        with _signals(ending, say):
            while not queue.finished and ending.reason is None:
                ended = len(queue.ended)
                with cluster(address) as joined:
                    limit = _concurrency(spec, joined)
                    failure = _tune(
                        spec, storage, queue, ending, notes, followers, runner, resident, limit, started, watchdog_minutes
                    )
                stalls = 0 if len(queue.ended) > ended else stalls + 1
                if failure is not None:
                    notes.append(f"Ray Tune broke off and was started again: {failure}")
                if stalls >= MAX_STALLS:
                    ending.ask(f"Ray Tune broke off {stalls} times without finishing a run ({failure})")
        if queue.finished:
            shutil.rmtree(storage.folder / "ray", ignore_errors=True)
        return _outcome(spec, queue, ending, notes)


def _tune(
    spec: StudySpec,
    storage: Storage,
    queue: RunQueue,
    ending: _Ending,
    notes: list[str],
    followers: Sequence[Follower],
    runner: str,
    resident: str,
    limit: int,
    started: float,
    watchdog_minutes: float,
) -> str | None:
    """Lets Tune work on the queue; returns what Tune itself died of, or None."""
    from ray import tune

    from study.search import Dispatcher, LedgerSearcher, SearchScheduler, Watch
    from study.worker import RunWorker

    def on_start(run: PlannedRun) -> None:
        for follower in followers:
            follower.follow(run)

    dispatcher = Dispatcher(
        queue, spec.resources, runner=runner, resident=resident, max_concurrent=limit, on_start=on_start
    )
    dispatcher.notes = notes

    def tick() -> None:
        _maybe_end(spec, dispatcher, ending, started, watchdog_minutes)
        dispatcher.stopping = ending.reason is not None

    class Stop(tune.Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return dispatcher.stopping

        def __reduce__(self) -> tuple[Any, ...]:
            return (dict, ())

    tuner = tune.Tuner(
        RunWorker,
        tune_config=tune.TuneConfig(
            search_alg=LedgerSearcher(dispatcher),
            scheduler=SearchScheduler(spec.search.scheduler),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=dispatcher.session[:12],
            storage_path=str(storage.folder / "ray"),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
            callbacks=[Watch(dispatcher, tick)],
            stop=Stop(),
            log_to_file=False,
        ),
    )
    failure = None
    with environment({"TUNE_MAX_PENDING_TRIALS_PG": str(limit)}), _quiet():
        try:
            tuner.fit()
        except Exception as error:
            failure = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}"
    dispatcher.release()
    return failure


def _maybe_end(
    spec: StudySpec, dispatcher: Dispatcher, ending: _Ending, started: float, watchdog_minutes: float
) -> None:
    now = time.monotonic()
    hours = spec.budget.max_hours
    if hours is not None and now - started > hours * 3600:
        ending.ask(f"budget.max_hours = {hours:g} is over")
    if now - dispatcher.last_activity > watchdog_minutes * 60:
        waiting = ", ".join(key.name for key in dispatcher.queue.live) or "resources for the next run"
        ending.ask(f"no sign of life for {watchdog_minutes:g} minutes while waiting for {waiting}")


def _concurrency(spec: StudySpec, joined: Cluster) -> int:
    """Returns how many runs may be under way at once.

    Raises:
        UserError: If not a single run fits and nothing says that the cluster will grow.
    """
    resources = spec.resources
    places = joined.places(resources.cpus_per_run, resources.gpus_per_run)
    wanted = resources.max_concurrent_runs
    if joined.local or wanted is None:
        if places < 1:
            where = "this machine" if joined.local else "the cluster"
            raise UserError(
                f"a run needs {resources.cpus_per_run} CPUs and {resources.gpus_per_run:g} GPUs (resources.cpus_per_run, "
                f"gpus_per_run), but {where} has {joined.cpus:g} CPUs and {joined.gpus:g} GPUs; ask for less, or give "
                "--address of a larger cluster (one that grows on demand also needs resources.max_concurrent_runs)"
            )
        return min(places, wanted or places)
    return wanted


def _outcome(spec: StudySpec, queue: RunQueue, ending: _Ending, notes: list[str]) -> Outcome:
    states = {key: result for key, result in sorted(queue.ended.items())}
    message = None
    if not queue.finished:
        left = spec.number_of_runs() - len(states)
        message = (
            f"{ending.reason or 'interrupted'}; {len(states)} runs have ended, up to {left} are left. Interrupted runs "
            "keep their checkpoints: to go on, run the same command again"
        )
    return Outcome(
        failed=[(key, result.reason or "unknown") for key, result in states.items() if result.state == "FAIL"],
        complete=sum(result.state == "COMPLETE" for result in states.values()),
        pruned=sum(result.state == "PRUNED" for result in states.values()),
        total=len(states),
        interrupted=not queue.finished,
        message=message,
        notes=[*queue.notes, *notes],
    )


def _trial_name(trial: Any) -> str:
    return str(trial.trial_id)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray and Tune log what the study knows better."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.air", "ray.train")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _signals(ending: _Ending, say: Callable[[str], None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM ends the launch in order, the second at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: Any) -> None:
        if ending.reason is not None:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        ending.ask(f"interrupted by {name}")
        say(f"{name}: ending, running runs keep their checkpoints (once more to stop at once)")

    caught = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handle) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
