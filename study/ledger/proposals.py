"""What a search tries next, as a pure function of what has ended before it.

A proposal knows the default, the search's seeds, its own number, and of the trials of earlier batches how they are
ordered: not their last digits, not the order in which they ended, and of its own batch nothing but the parameters.
So the same study proposes the same points on another processor and with another number of concurrent runs, as long
as scores order alike. (Early stopping compares runs as they come, and is the exception.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study.ledger.samplers import derived_seed, draw, grid_points, make_sampler
from study.ledger.trial import VIOLATIONS, ArmSearch
from trainables.evaluation.metrics_table import METRICS, VALIDATION_SCORES

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

# System attributes of samplers that later proposals read; others only tell parallel processes of each other.
_KEPT = ("NSGAIISampler:",)


@dataclass(frozen=True)
class Proposal:
    """A point of a search space, with what Optuna keeps of it.

    Attributes:
        params: Value of each dimension that applies.
        distributions: Where each was drawn from.
        system_attrs: What the sampler noted for later proposals, such as NSGA-II's generation.
    """

    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    system_attrs: dict[str, Any]


def propose(arm: ArmSearch, trials: Sequence[FrozenTrial]) -> Proposal:
    """Returns the next trial of a search.

    Args:
        arm: The search.
        trials: Its trials so far, in the order of their numbers.

    Raises:
        ValueError: If a trial of an earlier batch has not ended.
    """
    import numpy as np
    import optuna

    index = len(trials)
    known = arm.known_before(index)
    if not all(trial.state.is_finished() for trial in trials[:known]):
        raise ValueError(
            f"trial {index} of {arm.name!r} is asked for before its first {known} trials have ended"
        )
    study = optuna.create_study(
        storage=optuna.storages.InMemoryStorage(),
        directions=[direction(objective) for objective in arm.objectives],
        sampler=make_sampler(
            arm.sampler, derived_seed(arm.seed, arm.seeded_by, arm.repeat, index), arm.trials
        ),
        pruner=optuna.pruners.NopPruner(),
    )
    study.add_trials(_in_ranks(trials[:known], len(arm.constraints)))
    study.add_trials([_as_running(trial) for trial in trials[known:]])
    given = _given(arm, index)
    if given is not None:
        study.enqueue_trial(given)
    # Optuna's GP divides 0 by 0, and goes on rightly, where its acquisition function has a single peak.
    with np.errstate(invalid="ignore"):
        params = draw(study.ask(), arm.space)
    drawn = study.get_trials(deepcopy=False)[-1]
    kept = {name: value for name, value in drawn.system_attrs.items() if name.startswith(_KEPT)}
    return Proposal(params if given is None else given, dict(drawn.distributions), kept)


def _given(arm: ArmSearch, index: int) -> dict[str, Any] | None:
    """What no sampler is asked for: the default, and the points of a grid."""
    if arm.sampler == "grid":
        points = grid_points(
            arm.space, seed=arm.seed, arm=arm.seeded_by, repeat=arm.repeat, first=arm.default
        )
        return points[index]
    return dict(arm.default) if index == 0 else None


def direction(objective: str) -> str:
    """Returns Optuna's word for a metric's better direction."""
    if objective in VALIDATION_SCORES:
        return "maximize"
    return "maximize" if METRICS[objective].direction == "higher" else "minimize"


def _in_ranks(trials: Sequence[FrozenTrial], constraints: int) -> list[FrozenTrial]:
    """Ended trials with ranks in the order of the search instead of values.

    A constraint's bound is kept: ranks of violations begin at 1, what is met goes from 0 downwards. A trial without
    the constrained metric is worse than all others.
    """
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    of_objectives = [_ranks(values) for values in zip(*(trial.values for trial in complete), strict=True)]
    last = _ranks(_last_value(trial) for trial in trials if trial.intermediate_values)
    missed = [_missed(trials, number) for number in range(constraints)]
    ranked = []
    for trial in trials:
        system_attrs = {name: value for name, value in trial.system_attrs.items() if name != VIOLATIONS}
        if constraints:
            found = trial.system_attrs.get(VIOLATIONS)
            worst = [max([0.0, *ranks.values()]) + 1 for ranks in missed]
            system_attrs[VIOLATIONS] = (
                worst if found is None else [ranks[value] for ranks, value in zip(missed, found, strict=True)]
            )
        values = None
        if trial.state.name == "COMPLETE":
            values = [ranks[value] for ranks, value in zip(of_objectives, trial.values, strict=True)]
        reports = (
            {max(trial.intermediate_values): last[_last_value(trial)]} if trial.intermediate_values else {}
        )
        ranked.append(_copy(trial, trial.state, values, system_attrs, reports))
    return ranked


def _as_running(trial: FrozenTrial) -> FrozenTrial:
    """A trial of the same batch: its values are not known, even if it has ended by now."""
    from optuna.trial import TrialState

    system_attrs = {name: value for name, value in trial.system_attrs.items() if name != VIOLATIONS}
    return _copy(trial, TrialState.RUNNING, None, system_attrs, {})


def _copy(
    trial: FrozenTrial,
    state: optuna.trial.TrialState,
    values: list[float] | None,
    system_attrs: dict[str, Any],
    reports: dict[int, float],
) -> FrozenTrial:
    from optuna.trial import create_trial

    return create_trial(
        state=state,
        values=values,
        params=trial.params,
        distributions=trial.distributions,
        system_attrs=system_attrs,
        intermediate_values=reports,
    )


def _ranks(values: Iterable[float]) -> dict[float, float]:
    """Rank of each value among those that differ, from 1 for the least on."""
    return {value: float(rank) for rank, value in enumerate(sorted(set(values)), start=1)}


def _missed(trials: Iterable[FrozenTrial], number: int) -> dict[float, float]:
    """Signed ranks of the violations of one constraint."""
    found = {trial.system_attrs[VIOLATIONS][number] for trial in trials if VIOLATIONS in trial.system_attrs}
    met = sorted((value for value in found if value <= 0), reverse=True)
    return _ranks(value for value in found if value > 0) | {
        value: -float(rank) for rank, value in enumerate(met)
    }


def _last_value(trial: FrozenTrial) -> float:
    return trial.intermediate_values[max(trial.intermediate_values)]
