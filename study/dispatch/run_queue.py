"""Which run comes next: the order of a study's runs, kept in step with the ledger. Knows nothing of Ray.

Interrupted runs go first. Then the arms' searches take turns: each gives the next run of a trial that is under way, or
asks the ledger for a new trial, or, as soon as it is complete, the confirm runs of its choice; none waits for another
one. A search asks for a trial when all trials of earlier batches have ended (`ArmSearch.known_before`); meanwhile the
others have the turn. Whoever waits has a trial under way, so there is always something that will end.

A trial is told to the ledger when its last run has ended: its value is the mean over its runs. A trial with a
failed or pruned run cannot have that mean, so those of its runs that have not begun are left out.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from study.ledger.choice import violation
from study.ledger.ledger import Ledger
from study.ledger.trial import ArmSearch, TrialRecord
from study.spec.phases import SearchSpec
from study.storage.attempts import attempts
from study.storage.layout import Storage
from study.storage.planned_run import PlannedRun
from study.storage.run_key import RunKey, State
from study.storage.run_result import RunResult, mend_result, read_result
from trainables.evaluation.metrics_table import QUALITY
from trainables.run_config import WITHOUT_EFFECT

if TYPE_CHECKING:
    from study.spec.downstream_plan import DownstreamPlan
    from study.spec.study_spec import StudySpec

UNMET = "constraints_unmet"  # attribute of a search's Optuna study: whether its choice misses a constraint

# Of a RunConfig: what differs between the runs of one trial, or cannot change their results.
_OF_THE_RUN = {*WITHOUT_EFFECT, "subject", "seed", "generated", "generator_seed"}


@dataclass
class _Trial:
    """A trial that has not ended: its runs that wait, that are under way, and that have ended."""

    record: TrialRecord
    waiting: deque[RunKey]
    running: set[RunKey] = field(default_factory=set)
    ended: dict[RunKey, RunResult] = field(default_factory=dict)


@dataclass
class _Search:
    """Where one search of an arm stands; an arm without a search has one of no trials."""

    arm: ArmSearch
    subjects: tuple[str, ...]  # on which its choice is confirmed
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

    @property
    def may_ask(self) -> bool:
        """Whether there is a further trial to ask for, and all that it depends on have ended."""
        known = self.arm.first_number + self.arm.known_before(self.asked)
        return self.asked < self.arm.trials and not any(
            trial.record.phase == "search" and trial.record.number < known for trial in self.open
        )

    @property
    def name(self) -> str:
        """For notes to people."""
        which = f", search {self.arm.repeat + 1} of {self.arm.repeats}" if self.arm.repeats > 1 else ""
        return f"arm {self.arm.name!r}{which}"


class RunQueue:
    """Gives the runs of a study one by one and takes their ends.

    Args:
        spec: The study, or what it trains downstream.
        storage: Where its run folders are.
        ledger: Its ledger, with nobody else writing to it.
    """

    def __init__(self, spec: StudySpec | DownstreamPlan, storage: Storage, ledger: Ledger) -> None:
        self._spec, self._storage, self._ledger = spec, storage, ledger
        self._interrupted: deque[tuple[_Trial, RunKey]] = deque()
        self._live: dict[RunKey, _Trial] = {}
        self._turn = 0
        self.ended: dict[RunKey, RunResult] = {}
        self.resumed: list[RunKey] = []
        self.notes: list[str] = []
        self._searches = [
            self._search(name, repeat)
            for repeat in range(spec.search.repeats)
            for name in spec.arms
            if repeat == 0 or spec.trials_of(name)
        ]
        for search in self._searches:
            ledger.open_search(search.arm)
        for search in self._searches:
            self._recover(search)

    # What the dispatcher calls

    @property
    def live(self) -> tuple[RunKey, ...]:
        """Runs that were given out and have not ended."""
        return tuple(self._live)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to give out and nothing under way."""
        return not self._live and all(search.done for search in self._searches) and not self._interrupted

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
        self._take(self._search_of(key), trial, key, result)

    def put_back(self, key: RunKey) -> None:
        """Takes back a run that did not end, to be given out again before all others."""
        trial = self._live.pop(key)
        trial.running.discard(key)
        self._interrupted.append((trial, key))

    # Order

    def _next(self) -> tuple[_Trial, RunKey] | None:
        if self._interrupted:
            return self._interrupted.popleft()
        for offset in range(len(self._searches)):
            index = (self._turn + offset) % len(self._searches)
            found = self._next_of(self._searches[index])
            if found is not None:
                self._turn = (index + 1) % len(self._searches)
                return found
        return None

    def _next_of(self, search: _Search) -> tuple[_Trial, RunKey] | None:
        for trial in search.open:
            if trial.waiting:
                return trial, trial.waiting.popleft()
        if search.may_ask:
            search.asked += 1
            trial = self._open_search(search, self._ledger.ask(search.arm))
            return trial, trial.waiting.popleft()
        if search.to_confirm:
            key = search.to_confirm.popleft()
            trial = self._open(search, self._ledger.add_confirm(key, search.params), [key])
            return trial, trial.waiting.popleft()
        return None

    def _open_search(self, search: _Search, record: TrialRecord) -> _Trial:
        return self._open(search, record, self._spec.search_keys(search.arm.name, record.number))

    def _open(self, search: _Search, record: TrialRecord, keys: list[RunKey]) -> _Trial:
        trial = _Trial(self._configured(record, keys[0]), deque(keys))
        search.open.append(trial)
        return trial

    def _maybe_confirm(self, search: _Search) -> None:
        """Begins the confirm runs of a search if it is complete; takes over those begun before."""
        arm = search.arm
        if search.given_up or search.confirming or search.told < arm.trials:
            return
        best = self._ledger.best(arm.name, arm.repeat) if arm.trials else None
        if arm.trials and best is None:
            left = (
                f"; left out on {', '.join(search.subjects)}" if arm.repeats > 1 and search.subjects else ""
            )
            self.notes.append(
                f"{search.name}: no search trial is complete, so there is nothing to confirm{left}"
            )
            search.given_up = True
            return
        if best is not None and arm.constraints:
            self._note_unmet(search, best)
        number, search.params = (best.number, best.params) if best is not None else (0, {})
        keys = {
            (key.subject, key.seed): key
            for key in self._spec.confirm_keys(arm.name, number, arm.repeat if arm.trials else None)
        }
        if keys:
            self._ledger.open_confirm(arm.name, arm.method, arm.objectives)
        begun = {(record.subject, record.seed): record for record in self._ledger.trials(arm.name, "confirm")}
        search.to_confirm.extend(key for place, key in keys.items() if place not in begun)
        search.confirming = True
        for place, record in begun.items():
            if not record.ended and place in keys:
                self._resume(search, self._open(search, record, [keys[place]]))

    def _note_unmet(self, search: _Search, best: TrialRecord) -> None:
        """Says that the choice misses a constraint because every trial does."""
        unmet = violation(best) > 0
        self._ledger.note(search.arm.name, search.arm.repeat, UNMET, unmet)
        if unmet:
            wanted = " and ".join(map(str, search.arm.constraints))
            self.notes.append(
                f"{search.name}: no search trial has {wanted}, so the one that misses it least is confirmed "
                f"(trial {best.number})"
            )

    # Ends

    def _take(self, search: _Search, trial: _Trial, key: RunKey, result: RunResult) -> None:
        self.ended[key] = result
        trial.ended[key] = result
        started = len(attempts(self._storage.run_folder(key)))
        fields: dict[str, Any] = {"state": result.state, "attempts": max(started, result.attempts)}
        if result.reason is not None:
            fields["reason"] = result.reason
        self._ledger.update_run(trial.record, key, **fields)
        self._settle(search, trial)

    def _decided(self, trial: _Trial) -> bool:
        return any(result.state != "COMPLETE" for result in trial.ended.values())

    def _settle(self, search: _Search, trial: _Trial) -> None:
        """Tells the ledger if the trial is over."""
        if self._decided(trial):
            trial.waiting.clear()
        held = any(other is trial for other, _ in self._interrupted)
        if trial.waiting or trial.running or held or trial not in search.open:
            return
        self._tell(search, trial)
        search.open.remove(trial)
        if trial.record.phase == "search":
            search.told += 1
        self._maybe_confirm(search)

    def _tell(self, search: _Search, trial: _Trial) -> None:
        results = list(trial.ended.values())
        failed = next((result for result in results if result.state == "FAIL"), None)
        pruned = next((result for result in results if result.state == "PRUNED"), None)
        metrics = _means(results)
        if failed is not None:
            self._ledger.tell(trial.record, "FAIL", reason=failed.reason or "unknown", metrics=metrics)
        elif pruned is not None:
            self._tell_pruned(search, trial, metrics)
        else:
            values = [metrics.get(objective) for objective in search.arm.objectives]
            known = [value for value in values if value is not None]
            if len(known) < len(values):
                self._ledger.tell(trial.record, "FAIL", reason="no_value", metrics=metrics)
            else:
                missed = _violations(search.arm, metrics)
                self._ledger.tell(trial.record, "COMPLETE", known, metrics=metrics, violations=missed)

    def _tell_pruned(self, search: _Search, trial: _Trial, metrics: dict[str, float]) -> None:
        """Leaves the last value before the stop in the ledger, where samplers find it."""
        objectives = search.arm.objectives
        if len(objectives) == 1 and objectives[0] in metrics:
            self._ledger.report(trial.record, 1, metrics[objectives[0]])
        missed = _violations(search.arm, metrics)
        self._ledger.tell(trial.record, "PRUNED", reason="asha", metrics=metrics, violations=missed)

    # Recovery

    def _search(self, name: str, repeat: int) -> _Search:
        spec, search = self._spec, self._spec.search
        arm = ArmSearch(
            name=name,
            method=spec.arms[name].method,
            space=spec.space(name),
            trials=spec.trials_of(name),
            objectives=tuple(search.metrics),
            sampler=search.sampler,
            seed=search.seed,
            default=spec.default_params(name),
            repeat=repeat,
            repeats=search.repeats if spec.trials_of(name) else 1,
            batch_size=search.batch_size,
            constraints=search.constraints,
            drawn_as=None if isinstance(search, SearchSpec) else search.drawn_as,
        )
        return _Search(arm, spec.confirmed_subjects(name, repeat))

    def _recover(self, search: _Search) -> None:
        """Takes over what earlier launches left in ledger and run folders."""
        name = search.arm.name
        for record in self._ledger.trials(name, "search", search.arm.repeat):
            search.asked += 1
            if record.ended:
                search.told += 1
                self._remember(record)
                continue
            self._resume(search, self._open_search(search, record))
        for record in self._ledger.trials(name, "confirm"):
            if record.ended and record.subject in search.subjects:
                self._remember(record)
        self._maybe_confirm(search)

    def _resume(self, search: _Search, trial: _Trial) -> None:
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
        # All are under way until they are taken, or the first would settle the trial without the others.
        trial.running.update(key for key, _ in finished)
        for key, result in finished:
            trial.running.discard(key)
            self._take(search, trial, key, result)

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

    def _search_of(self, key: RunKey) -> _Search:
        mine = [search for search in self._searches if search.arm.name == key.arm]
        if not key.searches:
            return next(search for search in mine if key.subject in search.subjects)
        return mine[self._spec.repeat_of(key.arm, key.trial)]

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


def _violations(arm: ArmSearch, metrics: Mapping[str, float]) -> list[float] | None:
    """By how much a trial misses each constraint; None without constraints, or where one cannot be judged."""
    if not arm.constraints or any(constraint.metric not in metrics for constraint in arm.constraints):
        return None
    return [constraint.violation(metrics[constraint.metric]) for constraint in arm.constraints]


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
