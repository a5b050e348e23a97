"""How stable the order of the arms is when other subjects are drawn: chances of being best and on the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from study.report.comparisons import Settings
from study.report.measures import measure
from study.report.pairing import Values
from study.report.random_streams import stream
from study.statistics.paired import Floats, pareto_front, resampled_means, subject_draws
from study.statistics.power import MIN_SUBJECTS

_FRONT_RESAMPLES = 2_000


@dataclass(frozen=True)
class Standing:
    """One arm's place among the trained arms, over resamples of subjects (the same subjects for every arm).

    Attributes:
        rank: Mean rank, 1 for the best. rank_low, rank_high: 95 % of the resamples lie between.
        best: Share of the resamples in which it is best; ties are shared.
        on_front: Share in which no arm is both better and cheaper to train.
        on_front_with_search: The same, with the training time of one search of the arm added to its cost.
    """

    arm: str
    rank: float | None = None
    rank_low: float | None = None
    rank_high: float | None = None
    best: float | None = None
    on_front: float | None = None
    on_front_with_search: float | None = None


def standings(
    quality: Values,
    cost: Values,
    search_seconds: Mapping[str, float | None],
    arms: Sequence[str],
    settings: Settings,
) -> tuple[Standing, ...]:
    """Resamples subjects and ranks the arms in each resample; nothing is said below three subjects.

    Args:
        quality: The measure that arms are ranked by.
        cost: Seconds of the runs.
        search_seconds: Training seconds of one search of each arm, None where unknown.
        arms: The trained arms that have a result.
    """
    scores = quality.means(arms)
    common = np.isfinite(scores).all(axis=0) if len(arms) else np.zeros(0, dtype=bool)
    if len(arms) < 2 or common.sum() < MIN_SUBJECTS:
        return tuple(Standing(arm) for arm in arms)
    rng = stream(settings.seed, "ranking", quality.measure)
    draws = subject_draws(int(common.sum()), rng, settings.resamples)
    sign = -measure(quality.measure).sign
    drawn = sign * resampled_means(scores[:, common], draws)  # smaller is better
    ranks, best = ranks_of(drawn), _shares_of_best(drawn)
    low, high = np.quantile(ranks, [(1 - settings.level) / 2, (1 + settings.level) / 2], axis=1)
    subjects = [quality.subjects[k] for k in np.flatnonzero(common)]
    fronts = _fronts(drawn, draws, _costs(cost, arms, subjects), search_seconds, arms)
    return tuple(
        Standing(arm, float(ranks[k].mean()), float(low[k]), float(high[k]), float(best[k]), *fronts[k])
        for k, arm in enumerate(arms)
    )


def ranks_of(drawn: Floats) -> Floats:
    """Rank of each arm in each resample, shape ``(arms, resamples)``, 1 for the smallest; ties have their mean rank."""
    below = (drawn[None, :, :] < drawn[:, None, :]).sum(axis=1)
    equal = (drawn[None, :, :] == drawn[:, None, :]).sum(axis=1)
    return np.asarray(below + (equal + 1) / 2, dtype=float)


def _shares_of_best(drawn: Floats) -> Floats:
    first = drawn == drawn.min(axis=0)
    return np.asarray((first / first.sum(axis=0)).mean(axis=1), dtype=float)


def _costs(cost: Values, arms: Sequence[str], subjects: Sequence[str]) -> Floats:
    """Cost of each arm on each subject, in the order of `subjects`."""
    found = np.full((len(arms), len(subjects)), np.nan)
    means = cost.means(arms)
    for column, subject in enumerate(subjects):
        if subject in cost.subjects:
            found[:, column] = means[:, cost.subjects.index(subject)]
    return found


def _fronts(
    drawn: Floats,
    draws: np.ndarray,
    costs: Floats,
    search_seconds: Mapping[str, float | None],
    arms: Sequence[str],
) -> list[tuple[float | None, float | None]]:
    """Shares of being on the front of each arm, without and with the cost of its search."""
    if not np.isfinite(costs).all():
        return [(None, None)] * len(arms)
    few = slice(0, _FRONT_RESAMPLES)
    spent = resampled_means(costs, draws[few])
    score = drawn[:, few]

    def shares(extra: Floats) -> Floats:
        points = np.stack([(spent + extra[:, None]).T, score.T], axis=-1)  # (resamples, arms, 2)
        return np.asarray(pareto_front(points, ("min", "min")).mean(axis=0), dtype=float)

    without = shares(np.zeros(len(arms)))
    searches = [search_seconds.get(arm) for arm in arms]
    if any(value is None for value in searches):
        return [(float(share), None) for share in without]
    total = shares(np.array(searches, dtype=float))
    return [(float(a), float(b)) for a, b in zip(without, total, strict=True)]
