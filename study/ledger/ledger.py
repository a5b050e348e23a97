"""The ledger: the one truth of which trials exist and how they ended, an Optuna storage (default: SQLite).

Each arm has one Optuna study ``<study>/<arm>`` for its search, further ones ``<study>/<arm>/search-2``, ... if it is
searched repeatedly, and one ``<study>/<arm>/confirm``, in which every (subject, seed) is a trial. Trials of an arm are
numbered through all of its searches. Classifiers of the downstream phase have the same under
``<study>:downstream/<cell>``. Each trial carries these user attributes:

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
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from study.ledger.choice import best_of
from study.ledger.database import open_storage
from study.ledger.proposals import direction, propose
from study.ledger.samplers import grid_points
from study.ledger.trial import (
    FIRST_TRIAL,
    LATE_RUN_ID,
    REPEAT,
    VIOLATIONS,
    ArmSearch,
    TrialRecord,
    read_trial,
    running_trial,
)
from study.storage.run_key import FOREIGN, Phase, RunKey, State
from trainables.errors import UserError

if TYPE_CHECKING:
    import optuna

_DOWNSTREAM = (
    ":downstream"  # ends the name under which a study's classifiers are; no study's name has a colon
)
_CONFIRM, _SEARCH, _REPEATS, _CONSTRAINTS = "confirm", "search-", "repeats", "constraints"


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
        self._begins: dict[str, list[int]] = {}  # by arm: number of the first trial of each of its searches
        # What open trials say of their runs, as last read or written here, and the trial of each run: so that a
        # change is one write, and no search. `trials`, with which every launch begins, reads all anew.
        self._runs: dict[int, dict[str, Any]] = {}
        self._trial_of: dict[str, int] = {}
        self._lock = threading.RLock()
        self._url = url

    @property
    def _is_downstream(self) -> bool:
        return self._name.endswith(_DOWNSTREAM)

    @cached_property
    def downstream(self) -> Ledger:
        """The ledger of the study's classifiers, in the same storage: their cells are its arms."""
        return Ledger(self._url, f"{self._name}{_DOWNSTREAM}")

    # Reading

    def arms(self, phase: Phase = "search") -> list[str]:
        """Returns the names of the arms that have been opened for a phase, in the order of their opening."""
        import optuna

        names = []
        for name in optuna.get_all_study_names(self._storage):
            head, _, rest = name.partition("/")
            arm, _, kind = rest.partition("/")
            if head == self._name and kind == (_CONFIRM if phase == "confirm" else ""):
                names.append(arm)
        return names

    def searches(self, arm: str) -> int:
        """Returns how many independent searches an arm has been opened for; 0 if it was not opened."""
        return len(self._first_trials(arm))

    def _first_trials(self, arm: str) -> list[int]:
        """The number of the first trial of each search of an arm; they do not change."""
        with self._lock:
            if arm in self._begins:
                return self._begins[arm]
            begins: list[int] = []
            while (study := self._study(arm, "search", len(begins))) is not None:
                attributes = study.user_attrs
                begins.append(int(attributes.get(FIRST_TRIAL, 0)))
                if len(begins) == attributes.get(_REPEATS):
                    self._begins[arm] = begins
                    break
            return begins

    def trials(self, arm: str, phase: Phase = "search", repeat: int | None = None) -> list[TrialRecord]:
        """Returns the trials of an arm in the order of their numbers; empty if the arm was not opened.

        Args:
            repeat: Only those of one search; None: of all.
        """
        if phase == "search" and repeat is None:
            return [record for each in range(self.searches(arm)) for record in self.trials(arm, phase, each)]
        study = self._study(arm, phase, repeat or 0)
        if study is None:
            return []
        with self._lock:
            late = study.user_attrs
            records = [read_trial(arm, phase, trial, late) for trial in study.get_trials(deepcopy=False)]
            for record in records:
                self._runs.pop(record.optuna_id, None)
            return records

    def best(self, arm: str, repeat: int = 0) -> TrialRecord | None:
        """Returns the trial of a search that is confirmed (see `study.ledger.choice`), or None if none is complete."""
        study = self._study(arm, "search", repeat)
        if study is None:
            return None
        gains = [1 if direction.name == "MAXIMIZE" else -1 for direction in study.directions]
        constrained = bool(study.user_attrs.get(_CONSTRAINTS))
        return best_of(self.trials(arm, "search", repeat), gains, constrained=constrained)

    # Opening

    def open_search(self, arm: ArmSearch) -> None:
        """Creates the Optuna study of one search of an arm, or finds it again.

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
        attributes = {"method": arm.method, "sampler": arm.sampler, "seed": arm.seed}
        attributes |= {REPEAT: arm.repeat, _REPEATS: arm.repeats, FIRST_TRIAL: arm.first_number}
        attributes[_CONSTRAINTS] = list(map(str, arm.constraints))
        self._open(arm.name, "search", arm.objectives, attributes, arm.repeat)

    def open_confirm(self, arm: str, method: str, objectives: Sequence[str]) -> None:
        """Creates the Optuna study of an arm's confirm runs, or finds it again."""
        self._open(arm, "confirm", objectives, {"method": method})

    def note(self, arm: str, repeat: int, name: str, value: Any) -> None:
        """Keeps a fact about a search as an attribute of its Optuna study, where reports and dashboards find it."""
        with self._lock:
            study = self._need(arm, "search", repeat)
            if study.user_attrs.get(name) != value:
                study.set_user_attr(name, value)

    def notes(self, arm: str, repeat: int) -> dict[str, Any]:
        """Returns all attributes of a search's Optuna study; none if it was not opened."""
        with self._lock:
            study = self._study(arm, "search", repeat)
            return {} if study is None else dict(study.user_attrs)

    def _open(
        self,
        arm: str,
        phase: Phase,
        objectives: Sequence[str],
        attributes: Mapping[str, Any],
        repeat: int = 0,
    ) -> None:
        import optuna

        with self._lock:
            study = optuna.create_study(
                storage=self._storage,
                study_name=self._study_name(arm, phase, repeat),
                directions=[direction(objective) for objective in objectives],
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
            self._studies[self._study_name(arm, phase, repeat)] = study

    # Writing

    def ask(self, arm: ArmSearch) -> TrialRecord:
        """Creates the next trial of a search, RUNNING, with its params, in one write.

        What is asked next depends on the ledger alone, so a resumed search goes on exactly as an uninterrupted one
        would (see `study.ledger.proposals`).
        """
        with self._lock:
            study = self._need(arm.name, "search", arm.repeat)
            proposal = propose(arm, study.get_trials(deepcopy=False))
            new = running_trial(
                proposal.params, proposal.distributions, {"params": proposal.params}, proposal.system_attrs
            )
            created = self._storage.create_new_trial(study._study_id, template_trial=new)
            return self._read(arm.name, "search", created, arm.repeat)

    def add_confirm(self, key: RunKey, params: Mapping[str, Any]) -> TrialRecord:
        """Returns the RUNNING trial of a confirm run, created if it is not there.

        It bears the parameters of the search trial that it confirms, so that dashboards show them.
        """
        with self._lock:
            study = self._need(key.arm, "confirm")
            for trial in study.get_trials(deepcopy=False):
                if (trial.user_attrs.get("subject"), trial.user_attrs.get("seed")) == (key.subject, key.seed):
                    return self._read(key.arm, "confirm", trial._trial_id)
            chosen = self._search_trial(key)
            attributes = {"search_trial": key.trial, "subject": key.subject, "seed": key.seed}
            new = running_trial(
                dict(chosen.params) if chosen else {},
                dict(chosen.distributions) if chosen else {},
                {**attributes, "params": dict(params)},
            )
            new._trial_id = self._storage.create_new_trial(study._study_id, template_trial=new)
            return read_trial(key.arm, "confirm", new, {})

    def _search_trial(self, key: RunKey) -> optuna.trial.FrozenTrial | None:
        """Returns the search trial that a confirm run confirms; None for an arm that has no search."""
        begins = self._first_trials(key.arm)
        repeat = self._repeat_at(key.arm, "search", key.trial)
        study = self._study(key.arm, "search", repeat)
        if study is None:
            return None
        with contextlib.suppress(KeyError):
            number = key.trial - begins[repeat]
            return self._storage.get_trial(
                self._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
            )
        return None

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
        violations: Sequence[float] | None = None,
    ) -> TrialRecord:
        """Gives a trial its final state; telling again what has ended changes nothing.

        Optuna knows no pruned trials with several objectives: such a trial is FAIL with reason ``pruned``.
        """
        import optuna

        study = self._need(record.arm, record.phase, record.repeat)
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
                if violations is not None:
                    self._storage.set_trial_system_attr(record.optuna_id, VIOLATIONS, list(violations))
                self._storage.set_trial_state_values(record.optuna_id, optuna.trial.TrialState[state], told)
            except optuna.exceptions.UpdateFinishedTrialError:
                return self._read(record.arm, record.phase, record.optuna_id, record.repeat)
        return replace(
            record,
            state=state,
            values=tuple(told or ()),
            reason=reason,
            metrics=dict(metrics or {}),
            violations=None if violations is None else tuple(violations),
            runs=runs,
        )

    # MLflow run ids (`study.tracking.run_ids.RunIds`)

    def mlflow_run_id(self, key: RunKey) -> str | None:
        """Returns the id of a run's MLflow run, or None if it has none yet."""
        if key.trains_classifier and not self._is_downstream:
            return self.downstream.mlflow_run_id(key)
        with self._lock:
            study = self._home(key)
            if study is None:
                return None
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

        if key.phase == FOREIGN:  # of no trial
            return
        if key.trains_classifier and not self._is_downstream:
            return self.downstream.set_mlflow_run_id(key, run_id)
        with self._lock:
            optuna_id = self._trial_of.get(key.name)
            if optuna_id not in self._runs:  # not given out by this process
                trial = self._find(key)
                optuna_id = trial._trial_id if trial is not None else None
            if optuna_id is not None:
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                    self._change(optuna_id, key, {"mlflow_run_id": run_id})
                    return
            study = self._home(key)
            if study is None:
                raise KeyError(f"arm {key.arm!r} has not been opened for its {key.phase} phase")
            study.set_user_attr(LATE_RUN_ID + key.name, run_id)

    def _find(self, key: RunKey) -> optuna.trial.FrozenTrial | None:
        """Returns the trial that knows a run."""
        if key.name in self._trial_of:
            return self._storage.get_trial(self._trial_of[key.name])
        study = self._home(key)
        for trial in study.get_trials(deepcopy=False) if study is not None else ():
            for name in trial.user_attrs.get("runs", {}):
                self._trial_of.setdefault(name, trial._trial_id)
            if key.name in trial.user_attrs.get("runs", {}):
                return trial
        return None

    # Helpers

    def _home(self, key: RunKey) -> optuna.Study | None:
        """The Optuna study in which a run's trial is."""
        if key.phase == FOREIGN:
            raise ValueError(f"{key.name} is in no ledger: its weights were trained elsewhere")
        phase: Phase = "search" if key.searches else "confirm"
        return self._study(key.arm, phase, self._repeat_at(key.arm, phase, key.trial))

    def _repeat_at(self, arm: str, phase: Phase, number: int) -> int:
        """The search to which a trial number belongs: the last one that begins at it or before."""
        if phase == "confirm":
            return 0
        begins = self._first_trials(arm)
        return max((repeat for repeat, begin in enumerate(begins) if begin <= number), default=0)

    def _study_name(self, arm: str, phase: Phase, repeat: int = 0) -> str:
        name = f"{self._name}/{arm}"
        if phase == "confirm":
            return f"{name}/{_CONFIRM}"
        return f"{name}/{_SEARCH}{repeat + 1}" if repeat else name

    def _study(self, arm: str, phase: Phase, repeat: int = 0) -> optuna.Study | None:
        import optuna

        name = self._study_name(arm, phase, repeat)
        with self._lock:
            if name not in self._studies:
                try:
                    self._studies[name] = optuna.load_study(
                        study_name=name, storage=self._storage, sampler=optuna.samplers.RandomSampler()
                    )
                except KeyError:
                    return None
            return self._studies[name]

    def _need(self, arm: str, phase: Phase, repeat: int = 0) -> optuna.Study:
        study = self._study(arm, phase, repeat)
        if study is None:
            raise KeyError(f"arm {arm!r} has not been opened for its {phase} phase")
        return study

    def _read(self, arm: str, phase: Phase, optuna_id: int, repeat: int = 0) -> TrialRecord:
        trial = self._storage.get_trial(optuna_id)
        return read_trial(arm, phase, trial, self._need(arm, phase, repeat).user_attrs)
