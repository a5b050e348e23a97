"""The ledger: the one truth of which trials exist and how they ended, an Optuna storage (default: SQLite).

Each arm has one Optuna study ``<study>/<arm>`` for its search and one ``<study>/<arm>/confirm``, in which
every (subject, seed) is a trial. Each trial carries these user attributes:

- ``params``: what was drawn; ``config``: the full configuration that follows from it;
- ``runs``: ``{run key: {state, attempts, folder, mlflow_run_id}}``;
- ``reason``: why it is FAIL or PRUNED; ``metrics``: means over its runs;
- ``search_trial``, ``subject``, ``seed``: in the confirm phase.

One driver writes, under the study's lock. SQLite stays in its default journal mode: with a single writer a
write-ahead log gains nothing, and without one the ledger is one file that can be copied and may lie on a
network folder. Readers (``study status``, optuna-dashboard) wait for locks instead of failing.
"""

from __future__ import annotations

import contextlib
import datetime
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from study.database import open_storage
from study.errors import UserError
from study.runs import Phase, RunKey, State
from study.samplers import derived_seed, draw, grid_points, make_sampler
from study.trial_record import LATE_RUN_ID, ArmSearch, TrialRecord, read_trial
from trainables.metrics_table import METRICS

if TYPE_CHECKING:
    import optuna


QUALITY = "quality"


class Ledger:
    """Reads and writes the ledger of one study; usable from several threads, writing from one process only.

    Args:
        url: SQLAlchemy URL of an Optuna storage, such as ``sqlite:////abs/ledger.db``.
        study: Name of the study, the first part of every Optuna study's name.

    Raises:
        UserError: If the storage cannot be opened.
    """

    def __init__(self, url: str, study: str) -> None:
        self._name = study
        self._storage = open_storage(url)
        self._studies: dict[str, optuna.Study] = {}
        # What open trials say of their runs, as last read or written here, and the trial of each run: so that a
        # change is one write, and no search. `trials`, with which every launch begins, reads all anew.
        self._runs: dict[int, dict[str, Any]] = {}
        self._trial_of: dict[str, int] = {}
        self._lock = threading.RLock()

    # Reading

    def arms(self, phase: Phase = "search") -> list[str]:
        """Returns the names of the arms that have been opened for a phase, in the order of their opening."""
        import optuna

        suffix = "/confirm"
        names = []
        for name in optuna.get_all_study_names(self._storage):
            head, _, arm = name.partition("/")
            if head == self._name and arm.endswith(suffix) == (phase == "confirm"):
                names.append(arm.removesuffix(suffix))
        return names

    def trials(self, arm: str, phase: Phase = "search") -> list[TrialRecord]:
        """Returns the trials of an arm in the order of their creation; empty if the arm was not opened."""
        study = self._study(arm, phase)
        if study is None:
            return []
        with self._lock:
            late = study.user_attrs
            trials = study.get_trials(deepcopy=False)
            records = [read_trial(arm, phase, trial, late) for trial in trials if _counts(trial)]
            for record in records:
                self._runs.pop(record.optuna_id, None)
            return records

    def best(self, arm: str) -> TrialRecord | None:
        """Returns the trial whose configuration is confirmed, or None if none is complete.

        One objective: the best value, the earliest of equals. Several: of the Pareto front the trial with the
        highest quality, which weighs both fidelities; the front itself is reported apart.
        """
        study = self._study(arm, "search")
        complete = [record for record in self.trials(arm) if record.state == "COMPLETE"]
        if study is None or not complete:
            return None
        directions = [1 if direction.name == "MAXIMIZE" else -1 for direction in study.directions]
        gains = {
            record.number: [sign * value for sign, value in zip(directions, record.values, strict=True)]
            for record in complete
        }
        if len(directions) == 1:
            return max(complete, key=lambda record: (gains[record.number][0], -record.number))
        front = [record for record in complete if not _dominated(gains[record.number], gains.values())]
        return max(front, key=lambda record: (record.metrics.get(QUALITY, float("-inf")), -record.number))

    # Opening

    def open_search(self, arm: ArmSearch) -> None:
        """Creates the Optuna study of an arm, or finds it again.

        Raises:
            UserError: For a grid that has fewer points than the budget, or none.
        """
        if arm.sampler == "grid":
            points = len(grid_points(arm.space, seed=arm.seed, arm=arm.name))
            if points < arm.trials:
                raise UserError(
                    f"the grid of arm {arm.name!r} has {points} points, fewer than its {arm.trials} trials; "
                    f"set search.trials to at most {points} or widen the space"
                )
        self._open(
            arm.name,
            "search",
            arm.objectives,
            {"method": arm.method, "sampler": arm.sampler, "seed": arm.seed},
        )

    def open_confirm(self, arm: str, method: str, objectives: Sequence[str]) -> None:
        """Creates the Optuna study of an arm's confirm runs, or finds it again."""
        self._open(arm, "confirm", objectives, {"method": method})

    def _open(self, arm: str, phase: Phase, objectives: Sequence[str], attributes: Mapping[str, Any]) -> None:
        import optuna

        with self._lock:
            study = optuna.create_study(
                storage=self._storage,
                study_name=self._study_name(arm, phase),
                directions=[_direction(objective) for objective in objectives],
                sampler=optuna.samplers.RandomSampler(),
                pruner=optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
            known = study.user_attrs
            for name, value in {
                "arm": arm,
                "phase": phase,
                "objectives": list(objectives),
                **attributes,
            }.items():
                if known.get(name) != value:
                    study.set_user_attr(name, value)
            if not known:  # dashboards show the metric's name instead of "Objective 0"
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    study.set_metric_names(list(objectives))
            self._studies[self._study_name(arm, phase)] = study

    # Writing

    def enqueue(self, arm: str, params: Mapping[str, Any]) -> None:
        """Puts a configuration in front of what the sampler would draw; it uses up budget like any other."""
        with self._lock:
            self._need(arm, "search").enqueue_trial(dict(params), skip_if_exists=True)

    def ask(self, arm: ArmSearch) -> TrialRecord:
        """Creates the arm's next trial, RUNNING, with its params drawn."""
        import optuna

        with self._lock:
            study = self._need(arm.name, "search")
            trials = study.get_trials(deepcopy=False)
            number = sum(_counts(trial) for trial in trials)
            waiting = any(trial.state == optuna.trial.TrialState.WAITING for trial in trials)
            if arm.sampler == "grid" and not waiting:
                study.enqueue_trial(grid_points(arm.space, seed=arm.seed, arm=arm.name)[number])
            trial = self._draw(study, arm, number, study.ask)
            return self._read(arm.name, "search", trial._trial_id)

    def complete_asking(self, arm: ArmSearch, record: TrialRecord) -> TrialRecord:
        """Finishes the drawing of a trial whose driver died in the middle of `ask`; harmless otherwise."""
        import optuna

        with self._lock:
            study = self._need(arm.name, "search")
            if "params" not in study._storage.get_trial(record.optuna_id).user_attrs:
                self._draw(study, arm, record.number, lambda: optuna.Trial(study, record.optuna_id))
            return self._read(arm.name, "search", record.optuna_id)

    def _draw(
        self, study: optuna.Study, arm: ArmSearch, number: int, new_trial: Callable[[], optuna.Trial]
    ) -> optuna.Trial:
        """Draws a trial's params with samplers that are seeded by study seed, arm, trial and dimension.

        So what is asked next depends on the ledger alone, and a resumed search goes on exactly as an
        uninterrupted one would.
        """

        def sampler(*dimension: str) -> optuna.samplers.BaseSampler:
            return make_sampler(arm.sampler, derived_seed(arm.seed, arm.name, number, *dimension), arm.trials)

        trial, params = draw(study, new_trial, arm.space, sampler)
        trial.set_user_attr("params", params)
        return trial

    def add_confirm(self, key: RunKey, params: Mapping[str, Any]) -> TrialRecord:
        """Returns the RUNNING trial of a confirm run, created if it is not there.

        It bears the parameters of the search trial that it confirms, so that dashboards show them.
        """
        from optuna.trial import FrozenTrial, TrialState

        with self._lock:
            study = self._need(key.arm, "confirm")
            for trial in study.get_trials(deepcopy=False):
                if (trial.user_attrs.get("subject"), trial.user_attrs.get("seed")) == (key.subject, key.seed):
                    return self._read(key.arm, "confirm", trial._trial_id)
            chosen = self._search_trial(key)
            new = FrozenTrial(
                number=-1,
                trial_id=-1,
                state=TrialState.RUNNING,
                value=None,
                values=None,
                datetime_start=datetime.datetime.now(),
                datetime_complete=None,
                params=dict(chosen.params) if chosen else {},
                distributions=dict(chosen.distributions) if chosen else {},
                user_attrs={
                    "search_trial": key.trial,
                    "subject": key.subject,
                    "seed": key.seed,
                    "params": dict(params),
                },
                system_attrs={},
                intermediate_values={},
            )
            new._trial_id = self._storage.create_new_trial(study._study_id, template_trial=new)
            return read_trial(key.arm, "confirm", new, {})

    def _search_trial(self, key: RunKey) -> optuna.trial.FrozenTrial | None:
        """Returns the search trial that a confirm run confirms; None for an arm that has no search."""
        searched = self._study(key.arm, "search")
        if searched is None:
            return None
        try:
            number = self._storage.get_trial_id_from_study_id_trial_number(searched._study_id, key.trial)
        except KeyError:
            return None
        return self._storage.get_trial(number)

    def set_config(self, record: TrialRecord, config: Mapping[str, Any]) -> None:
        """Stores the full configuration of a running trial."""
        with self._lock:
            self._storage.set_trial_user_attr(record.optuna_id, "config", dict(config))

    def update_run(self, record: TrialRecord, key: RunKey, **fields: Any) -> dict[str, Any]:
        """Changes what a running trial says about one of its runs, and returns all of it."""
        with self._lock:
            return self._change(record.optuna_id, key, fields)

    def _change(self, optuna_id: int, key: RunKey, fields: Mapping[str, Any]) -> dict[str, Any]:
        runs = self._runs.get(optuna_id)
        if runs is None:
            runs = dict(self._storage.get_trial(optuna_id).user_attrs.get("runs", {}))
        runs = {**runs, key.name: {"mlflow_run_id": None, "attempts": 0, **runs.get(key.name, {}), **fields}}
        self._storage.set_trial_user_attr(optuna_id, "runs", runs)
        self._runs[optuna_id] = runs
        self._trial_of[key.name] = optuna_id
        return dict(runs[key.name])

    def report(self, record: TrialRecord, step: int, value: float) -> None:
        """Stores an intermediate value of a single-objective trial, which samplers use if it is pruned."""
        with self._lock:
            self._storage.set_trial_intermediate_value(record.optuna_id, step, value)

    def tell(
        self,
        record: TrialRecord,
        state: State,
        values: Sequence[float] = (),
        *,
        reason: str | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> TrialRecord:
        """Gives a trial its final state; telling again what has ended changes nothing.

        Optuna knows no pruned trials with several objectives: such a trial is FAIL with reason ``pruned``.
        """
        import optuna

        study = self._need(record.arm, record.phase)
        if state == "PRUNED" and len(study.directions) > 1:
            state, reason = "FAIL", reason or "pruned"
        told = list(values) if state == "COMPLETE" else None
        with self._lock:
            runs = self._runs.pop(record.optuna_id, record.runs)
            try:
                if reason is not None:
                    self._storage.set_trial_user_attr(record.optuna_id, "reason", reason)
                if metrics:
                    self._storage.set_trial_user_attr(record.optuna_id, "metrics", dict(metrics))
                self._storage.set_trial_state_values(record.optuna_id, optuna.trial.TrialState[state], told)
            except optuna.exceptions.UpdateFinishedTrialError:
                return self._read(record.arm, record.phase, record.optuna_id)
        return replace(
            record,
            state=state,
            values=tuple(told or ()),
            reason=reason,
            metrics=dict(metrics or {}),
            runs=runs,
        )

    # MLflow run ids (`study.tracking.record.RunIds`)

    def mlflow_run_id(self, key: RunKey) -> str | None:
        """Returns the id of a run's MLflow run, or None if it has none yet."""
        study = self._study(key.arm, key.phase)
        if study is None:
            return None
        with self._lock:
            if late := study.user_attrs.get(LATE_RUN_ID + key.name):
                return str(late)
            trial = self._find(key)
            found = trial.user_attrs["runs"][key.name].get("mlflow_run_id") if trial is not None else None
        return str(found) if found else None

    def set_mlflow_run_id(self, key: RunKey, run_id: str) -> None:
        """Stores the id of a run's MLflow run: in its trial, or in the study if the trial has ended.

        Optuna closes ended trials to changes, and MLflow may have been away while the run lasted.
        """
        import optuna

        with self._lock:
            optuna_id = self._trial_of.get(key.name)
            if optuna_id not in self._runs:  # not given out by this process
                trial = self._find(key)
                optuna_id = trial._trial_id if trial is not None else None
            if optuna_id is not None:
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                    self._change(optuna_id, key, {"mlflow_run_id": run_id})
                    return
            self._need(key.arm, key.phase).set_user_attr(LATE_RUN_ID + key.name, run_id)

    def _find(self, key: RunKey) -> optuna.trial.FrozenTrial | None:
        """Returns the trial that knows a run."""
        if key.name in self._trial_of:
            return self._storage.get_trial(self._trial_of[key.name])
        study = self._study(key.arm, key.phase)
        for trial in study.get_trials(deepcopy=False) if study is not None else ():
            for name in trial.user_attrs.get("runs", {}):
                self._trial_of.setdefault(name, trial._trial_id)
            if key.name in trial.user_attrs.get("runs", {}):
                return trial
        return None

    # Helpers

    def _study_name(self, arm: str, phase: Phase) -> str:
        return f"{self._name}/{arm}" + ("/confirm" if phase == "confirm" else "")

    def _study(self, arm: str, phase: Phase) -> optuna.Study | None:
        import optuna

        name = self._study_name(arm, phase)
        with self._lock:
            if name not in self._studies:
                try:
                    self._studies[name] = optuna.load_study(
                        study_name=name, storage=self._storage, sampler=optuna.samplers.RandomSampler()
                    )
                except KeyError:
                    return None
            return self._studies[name]

    def _need(self, arm: str, phase: Phase) -> optuna.Study:
        study = self._study(arm, phase)
        if study is None:
            raise KeyError(f"arm {arm!r} has not been opened for its {phase} phase")
        return study

    def _read(self, arm: str, phase: Phase, optuna_id: int) -> TrialRecord:
        trial = self._storage.get_trial(optuna_id)
        # Ids that came late are those of ended trials.
        late = self._need(arm, phase).user_attrs if trial.state.is_finished() else {}
        return read_trial(arm, phase, trial, late)


def _direction(objective: str) -> str:
    return "maximize" if METRICS[objective].direction == "higher" else "minimize"


def _counts(trial: optuna.trial.FrozenTrial) -> bool:
    return trial.state.name != "WAITING"


def _dominated(gains: Sequence[float], others: Iterable[Sequence[float]]) -> bool:
    """Whether another point is nowhere worse and somewhere better."""
    return any(
        all(theirs >= mine for theirs, mine in zip(other, gains, strict=True)) and list(other) != list(gains)
        for other in others
    )
