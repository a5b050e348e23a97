"""What the ledger takes and gives: an arm to search, and a trial as it stands."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from study.storage.run_key import Phase, State

if TYPE_CHECKING:
    import optuna

    from search_spaces.schema import SearchSpace
    from study.spec.phases import Constraint

LATE_RUN_ID = "mlflow_run_id:"  # begins a study attribute: the MLflow run of a trial that had ended
REPEAT = "repeat"  # study attribute: which of the arm's searches it is
FIRST_TRIAL = "first_trial"  # study attribute: number of a search's first trial among all of the arm
VIOLATIONS = "constraints"  # Optuna's name of the trial attribute that its samplers and dashboard read


MEMORYLESS = ("random", "grid")  # samplers that take no notice of what has ended

_MOST_AT_ONCE = 8  # trials of a default batch


@dataclass(frozen=True)
class ArmSearch:
    """What the ledger must know of one search of an arm.

    Attributes:
        trials: Budget; failed and pruned trials count too, or an arm that fails often would get more tries.
        objectives: One metric, or several for a multi-objective search.
        seed: Of the study's searches; each arm's and repeat's draws are seeded by it and by their own names.
        default: The first trial's parameters (`study.spec.defaults`).
        repeat: Which of the arm's independent searches this is, from 0 on.
        repeats: How many there are.
        batch_size: Trials that are proposed from the same knowledge; None: a quarter of the trials, at most 8.
        constraints: What a trial must meet to be chosen.
        drawn_as: What seeds the draws in its name's place: searches with one of these draw alike.
    """

    name: str
    method: str
    space: SearchSpace
    trials: int
    objectives: tuple[str, ...]
    sampler: str
    seed: int
    default: Mapping[str, Any]
    repeat: int = 0
    repeats: int = 1
    batch_size: int | None = None
    constraints: tuple[Constraint, ...] = ()
    drawn_as: str | None = None

    @property
    def seeded_by(self) -> str:
        """What its draws are seeded by, beside the study's seed."""
        return self.drawn_as or self.name

    @property
    def first_number(self) -> int:
        """Number of its first trial: the trials of an arm are numbered through all of its searches."""
        return self.repeat * self.trials

    def known_before(self, index: int) -> int:
        """Returns how many of its first trials must have ended before its trial `index` is proposed.

        All earlier batches, whatever runs at once and ends first, so that a proposal depends on neither.
        """
        if self.sampler in MEMORYLESS:
            return 0
        batch = self.batch_size or max(1, min(_MOST_AT_ONCE, self.trials // 4))
        return index - index % batch


@dataclass(frozen=True)
class TrialRecord:
    """A trial as it stands in the ledger.

    Attributes:
        number: Of the search trial, through all searches of the arm; a confirm record bears the number of the trial
            that it confirms.
        values: One per objective; empty unless COMPLETE.
        metrics: Means over the trial's runs.
        violations: By how much each constraint of the search is missed (at most 0 where it is met); None where there
            is none, or where a constrained metric is missing.
        repeat: Which of the arm's searches it belongs to, from 0 on; 0 in the confirm phase.
        subject: Only in the confirm phase; likewise `seed`.
    """

    arm: str
    phase: Phase
    number: int
    state: State
    optuna_id: int
    params: dict[str, Any]
    values: tuple[float, ...] = ()
    reason: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    violations: tuple[float, ...] | None = None
    repeat: int = 0
    subject: str | None = None
    seed: int | None = None

    @property
    def ended(self) -> bool:
        """Whether it has its final state."""
        return self.state != "RUNNING"


def read_trial(
    arm: str, phase: Phase, trial: optuna.trial.FrozenTrial, late: Mapping[str, Any]
) -> TrialRecord:
    """Returns what an Optuna trial says; `late` are its study's attributes, among them run ids that came late."""
    attributes = trial.user_attrs
    runs = {name: dict(run) for name, run in attributes.get("runs", {}).items()}
    for name, run in runs.items():
        run["mlflow_run_id"] = late.get(LATE_RUN_ID + name, run.get("mlflow_run_id"))
    state: State = trial.state.name
    return TrialRecord(
        arm=arm,
        phase=phase,
        number=attributes["search_trial"] if phase == "confirm" else late.get(FIRST_TRIAL, 0) + trial.number,
        state=state,
        optuna_id=trial._trial_id,
        params=dict(attributes.get("params", {})),
        values=tuple(trial.values or ()) if state == "COMPLETE" else (),
        reason=attributes.get("reason"),
        config=dict(attributes.get("config", {})),
        runs=runs,
        metrics=dict(attributes.get("metrics", {})),
        violations=tuple(trial.system_attrs[VIOLATIONS]) if VIOLATIONS in trial.system_attrs else None,
        repeat=late.get(REPEAT, 0),
        subject=attributes.get("subject"),
        seed=attributes.get("seed"),
    )


def running_trial(
    params: Mapping[str, Any],
    distributions: Mapping[str, Any],
    user_attrs: Mapping[str, Any],
    system_attrs: Mapping[str, Any] | None = None,
) -> optuna.trial.FrozenTrial:
    """A trial to be created whole, in one write: a driver that dies leaves all of it or nothing."""
    from optuna.trial import FrozenTrial, TrialState

    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=TrialState.RUNNING,
        value=None,
        values=None,
        datetime_start=datetime.datetime.now(),
        datetime_complete=None,
        params=dict(params),
        distributions=dict(distributions),
        user_attrs=dict(user_attrs),
        system_attrs=dict(system_attrs or {}),
        intermediate_values={},
    )
