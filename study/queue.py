"""Which run comes next: the order of a study's runs, kept in step with the ledger. Knows nothing of Ray.

Interrupted runs go first. Then arms take turns: each gives the next run of a trial that is under way, or asks
the ledger for a new trial, or, as soon as its own search is complete, its confirm runs; no arm waits for
another one's search.

A trial is told to the ledger when its last run has ended: its value is the mean over its runs. A trial with a
failed or pruned run cannot have that mean, so those of its runs that have not begun are left out.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from study.attempt import attempts
from study.ledger import QUALITY, Ledger
from study.run_result import RunResult, mend_result, read_result
from study.runs import PlannedRun, RunKey, State, Storage
from study.trial_record import ArmSearch, TrialRecord

if TYPE_CHECKING:
    from study.spec import StudySpec

# Of a RunConfig: what differs between the runs of one trial, or says where they happen.
_OF_THE_RUN = {"subject", "seed", "output_dir", "cache_dir", "cpu_threads", "device", "located"}


@dataclass
class _Trial:
    """A trial that has not ended: its runs that wait, that are under way, and that have ended."""

    record: TrialRecord
    waiting: deque[RunKey]
    running: set[RunKey] = field(default_factory=set)
    ended: dict[RunKey, RunResult] = field(default_factory=dict)


@dataclass
class _Arm:
    """Where an arm stands."""

    search: ArmSearch
    asked: int = 0
    told: int = 0
    open: list[_Trial] = field(default_factory=list)
    confirming: bool = False
    to_confirm: deque[RunKey] = field(default_factory=deque)
    params: dict[str, Any] = field(default_factory=dict)
    given_up: bool = False

    @property
    def done(self) -> bool:
        return self.given_up or (self.confirming and not self.open and not self.to_confirm)


class RunQueue:
    """Gives the runs of a study one by one and takes their ends.

    Args:
        spec: The study.
        storage: Where its run folders are.
        ledger: Its ledger, with nobody else writing to it.
    """

    def __init__(self, spec: StudySpec, storage: Storage, ledger: Ledger) -> None:
        self._spec, self._storage, self._ledger = spec, storage, ledger
        self._interrupted: deque[tuple[_Trial, RunKey]] = deque()
        self._live: dict[RunKey, _Trial] = {}
        self._turn = 0
        self.ended: dict[RunKey, RunResult] = {}
        self.resumed: list[RunKey] = []
        self.notes: list[str] = []
        self._arms = [self._arm(name) for name in spec.arms]
        for arm in self._arms:
            ledger.open_search(arm.search)
        for arm in self._arms:
            self._recover(arm)

    # What the executor calls

    @property
    def live(self) -> tuple[RunKey, ...]:
        """Runs that were given out and have not ended."""
        return tuple(self._live)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to give out and nothing under way."""
        return not self._live and all(arm.done for arm in self._arms) and not self._interrupted

    def next(self) -> PlannedRun | None:
        """Returns a run to start now, or None if none is ready (`finished`, or others must end first)."""
        chosen = self._next()
        if chosen is None:
            return None
        trial, key = chosen
        trial.running.add(key)
        self._live[key] = trial
        known = trial.record.runs.get(key.name, {})
        planned = replace(self._plan(trial.record, key), attempt=int(known.get("attempts", 0)) + 1)
        self._ledger.update_run(
            trial.record,
            key,
            state="RUNNING",
            attempts=planned.attempt,
            folder=str(planned.folder.relative_to(self._storage.folder)),
        )
        trial.record.runs[key.name] = {**known, "attempts": planned.attempt}
        return planned

    def end(self, key: RunKey, result: RunResult) -> None:
        """Takes the end of a run: COMPLETE, PRUNED or FAIL."""
        trial = self._live.pop(key)
        trial.running.discard(key)
        arm = self._arm_of(key)
        self._take(arm, trial, key, result)

    def put_back(self, key: RunKey) -> None:
        """Takes back a run that did not end, to be given out again before all others."""
        trial = self._live.pop(key)
        trial.running.discard(key)
        self._interrupted.append((trial, key))

    # Order

    def _next(self) -> tuple[_Trial, RunKey] | None:
        if self._interrupted:
            return self._interrupted.popleft()
        for offset in range(len(self._arms)):
            index = (self._turn + offset) % len(self._arms)
            found = self._next_of(self._arms[index])
            if found is not None:
                self._turn = (index + 1) % len(self._arms)
                return found
        return None

    def _next_of(self, arm: _Arm) -> tuple[_Trial, RunKey] | None:
        for trial in arm.open:
            if trial.waiting:
                return trial, trial.waiting.popleft()
        if arm.asked < arm.search.trials:
            arm.asked += 1
            trial = self._open_search(arm, self._ledger.ask(arm.search))
            return trial, trial.waiting.popleft()
        if arm.to_confirm:
            key = arm.to_confirm.popleft()
            trial = self._open(arm, self._ledger.add_confirm(key, arm.params), [key])
            return trial, trial.waiting.popleft()
        return None

    def _open_search(self, arm: _Arm, record: TrialRecord) -> _Trial:
        return self._open(arm, record, self._spec.search_keys(arm.search.name, record.number))

    def _open(self, arm: _Arm, record: TrialRecord, keys: list[RunKey]) -> _Trial:
        trial = _Trial(self._configured(record, keys[0]), deque(keys))
        arm.open.append(trial)
        return trial

    def _maybe_confirm(self, arm: _Arm) -> None:
        """Begins the arm's confirm runs if its search is complete; takes over those begun before."""
        if arm.given_up or arm.confirming or arm.told < arm.search.trials:
            return
        name = arm.search.name
        best = self._ledger.best(name) if arm.search.trials else None
        if arm.search.trials and best is None:
            self.notes.append(f"arm {name!r}: no search trial is complete, so there is nothing to confirm")
            arm.given_up = True
            return
        number, arm.params = (best.number, best.params) if best is not None else (0, {})
        keys = {(key.subject, key.seed): key for key in self._spec.confirm_keys(name, number)}
        if keys:
            self._ledger.open_confirm(name, arm.search.method, arm.search.objectives)
        begun = {(record.subject, record.seed): record for record in self._ledger.trials(name, "confirm")}
        arm.to_confirm.extend(key for place, key in keys.items() if place not in begun)
        arm.confirming = True
        for place, record in begun.items():
            if not record.ended and place in keys:
                self._resume(arm, self._open(arm, record, [keys[place]]))

    # Ends

    def _take(self, arm: _Arm, trial: _Trial, key: RunKey, result: RunResult) -> None:
        self.ended[key] = result
        trial.ended[key] = result
        started = len(attempts(self._storage.run_folder(key)))
        fields: dict[str, Any] = {"state": result.state, "attempts": max(started, result.attempts)}
        if result.reason is not None:
            fields["reason"] = result.reason
        self._ledger.update_run(trial.record, key, **fields)
        self._settle(arm, trial)

    def _decided(self, trial: _Trial) -> bool:
        return any(result.state != "COMPLETE" for result in trial.ended.values())

    def _settle(self, arm: _Arm, trial: _Trial) -> None:
        """Tells the ledger if the trial is over."""
        if self._decided(trial):
            trial.waiting.clear()
        held = any(other is trial for other, _ in self._interrupted)
        if trial.waiting or trial.running or held or trial not in arm.open:
            return
        self._tell(arm, trial)
        arm.open.remove(trial)
        if trial.record.phase == "search":
            arm.told += 1
        self._maybe_confirm(arm)

    def _tell(self, arm: _Arm, trial: _Trial) -> None:
        results = list(trial.ended.values())
        failed = next((result for result in results if result.state == "FAIL"), None)
        pruned = next((result for result in results if result.state == "PRUNED"), None)
        metrics = _means(results)
        if failed is not None:
            self._ledger.tell(trial.record, "FAIL", reason=failed.reason or "unknown", metrics=metrics)
        elif pruned is not None:
            self._tell_pruned(arm, trial, metrics)
        else:
            values = [metrics.get(objective) for objective in arm.search.objectives]
            known = [value for value in values if value is not None]
            if len(known) < len(values):
                self._ledger.tell(trial.record, "FAIL", reason="no_value", metrics=metrics)
            else:
                self._ledger.tell(trial.record, "COMPLETE", known, metrics=metrics)

    def _tell_pruned(self, arm: _Arm, trial: _Trial, metrics: dict[str, float]) -> None:
        """Leaves the last value before the stop in the ledger, where samplers find it."""
        objectives = arm.search.objectives
        if len(objectives) == 1 and objectives[0] in metrics:
            self._ledger.report(trial.record, 1, metrics[objectives[0]])
        self._ledger.tell(trial.record, "PRUNED", reason="asha", metrics=metrics)

    # Recovery

    def _arm(self, name: str) -> _Arm:
        search = self._spec.search
        return _Arm(
            ArmSearch(
                name=name,
                method=self._spec.arms[name].method,
                space=self._spec.space(name),
                trials=self._spec.trials_of(name),
                objectives=tuple(search.metrics),
                sampler=search.sampler,
                seed=search.seed,
            )
        )

    def _recover(self, arm: _Arm) -> None:
        """Takes over what earlier launches left in ledger and run folders."""
        name = arm.search.name
        for record in self._ledger.trials(name):
            arm.asked += 1
            if record.ended:
                arm.told += 1
                self._remember(record)
                continue
            self._resume(arm, self._open_search(arm, self._ledger.complete_asking(arm.search, record)))
        for record in self._ledger.trials(name, "confirm"):
            if record.ended:
                self._remember(record)
        self._maybe_confirm(arm)

    def _resume(self, arm: _Arm, trial: _Trial) -> None:
        """Sorts the runs of an open trial: ended ones are told, interrupted ones come first, others wait."""
        started: list[RunKey] = []
        finished: list[tuple[RunKey, RunResult]] = []
        for key in list(trial.waiting):
            result = self._end_of(key)
            if result is not None:
                trial.waiting.remove(key)
                finished.append((key, result))
            elif key.name in trial.record.runs:
                trial.waiting.remove(key)
                started.append(key)
        for key in started:
            self._interrupted.append((trial, key))
            self.resumed.append(key)
        for key, result in finished:
            self._take(arm, trial, key, result)

    def _remember(self, record: TrialRecord) -> None:
        for name, run in record.runs.items():
            key = RunKey.parse(name)
            state: State = run["state"] if run["state"] != "RUNNING" else "FAIL"
            self.ended[key] = self._end_of(key) or RunResult(state, reason=run.get("reason") or record.reason)

    def _end_of(self, key: RunKey) -> RunResult | None:
        """How a run ended; None if it did not.

        At a URL a run has ended when its result is there, which comes last: without it, weights may be missing, too.
        """
        folder = self._storage.run_folder(key)
        return mend_result(folder) if self._storage.url is None else read_result(folder)

    # Helpers

    def _arm_of(self, key: RunKey) -> _Arm:
        return next(arm for arm in self._arms if arm.search.name == key.arm)

    def _plan(self, record: TrialRecord, key: RunKey) -> PlannedRun:
        config = self._spec.run_config(key, record.params, self._storage)
        return PlannedRun(key, self._storage.run_folder(key), config)

    def _configured(self, record: TrialRecord, key: RunKey) -> TrialRecord:
        """Writes the trial's full configuration to the ledger if it is not there yet."""
        if record.config:
            return record
        config = self._plan(record, key).config.model_dump(mode="json", exclude=_OF_THE_RUN)
        self._ledger.set_config(record, config)
        return replace(record, config=config)


def _means(results: list[RunResult]) -> dict[str, float]:
    """Mean of every metric that all of the results have; of one missing there is no mean."""

    def names() -> Iterator[str]:
        for result in results:
            yield from result.evaluation
            yield from result.cost

    means = {}
    for name in dict.fromkeys([QUALITY, *names()]):
        values = [result.value(name) for result in results]
        known = [value for value in values if value is not None]
        if known and len(known) == len(values):
            means[name] = statistics.fmean(known)
    return means
