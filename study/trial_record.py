"""What the ledger takes and gives: an arm to search, and a trial as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from study.runs import Phase, State

if TYPE_CHECKING:
    import optuna

    from search_spaces.schema import SearchSpace

LATE_RUN_ID = "mlflow_run_id:"  # begins a study attribute: the MLflow run of a trial that had ended


@dataclass(frozen=True)
class ArmSearch:
    """What the ledger must know of an arm to search it.

    Attributes:
        trials: Budget; failed and pruned trials count too, or an arm that fails often would get more tries.
        objectives: One metric, or several for a multi-objective search.
    """

    name: str
    method: str
    space: SearchSpace
    trials: int
    objectives: tuple[str, ...]
    sampler: str
    seed: int


@dataclass(frozen=True)
class TrialRecord:
    """A trial as it stands in the ledger.

    Attributes:
        number: Of the search trial; a confirm record bears the number of the trial that it confirms.
        values: One per objective; empty unless COMPLETE.
        metrics: Means over the trial's runs.
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
    subject: str | None = None
    seed: int | None = None

    @property
    def ended(self) -> bool:
        """Whether it has its final state."""
        return self.state != "RUNNING"


def read_trial(
    arm: str, phase: Phase, trial: optuna.trial.FrozenTrial, late: Mapping[str, Any]
) -> TrialRecord:
    """Returns what an Optuna trial says; `late` are the study's attributes, with run ids that came late."""
    attributes = trial.user_attrs
    runs = {name: dict(run) for name, run in attributes.get("runs", {}).items()}
    for name, run in runs.items():
        run["mlflow_run_id"] = late.get(LATE_RUN_ID + name, run.get("mlflow_run_id"))
    state: State = trial.state.name
    return TrialRecord(
        arm=arm,
        phase=phase,
        number=attributes["search_trial"] if phase == "confirm" else trial.number,
        state=state,
        optuna_id=trial._trial_id,
        params=dict(attributes.get("params", {})),
        values=tuple(trial.values or ()) if state == "COMPLETE" else (),
        reason=attributes.get("reason"),
        config=dict(attributes.get("config", {})),
        runs=runs,
        metrics=dict(attributes.get("metrics", {})),
        subject=attributes.get("subject"),
        seed=attributes.get("seed"),
    )
