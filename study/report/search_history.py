"""What the search saw: best score so far per trial, and which hyperparameters mattered.

These numbers describe the search. None of them is a result: the best of many noisy scores is too good to be true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from study.report.measures import measure
from study.report.prepared import Rows, value_or_none
from study.report.random_streams import stream
from study.report.searches import Objective, repeats_of, search_objective, trials_of_search
from study.results.columns import PARAM_PREFIX
from study.spec.phases import Constraint

MIN_TRIALS = 8  # below this, the share that chance explains is larger than what a strong parameter does
FEW_TRIALS = 20
PERMUTATIONS = 2_000
METHOD = (
    "Share of the variance of the trials' ranks that is explained by the parameter, cut into quantile bins "
    "(categories as "
    "they are), less the mean share under random permutation and rescaled so that 1 is everything; p by "
    "permutation. "
    "Complete trials only. Effects of single parameters, not of interactions."
)


@dataclass(frozen=True)
class History:
    """The search of one arm in the order of its trials.

    Attributes:
        repeat: Which of the arm's independent searches, counted from 0.
        trials: Trial numbers, as in the names of runs. places: The same counted from 0 in their search.
        scores: Mean score of the trial's complete runs, None where it has none.
        best: Best score up to and with each trial, of those that meet the objective's constraints.
        states: COMPLETE, PRUNED, FAIL or RUNNING.
        feasible: Whether the trial met the constraints; True without any, False where a constrained metric is missing.
    """

    arm: str
    repeat: int
    measure: str
    trials: tuple[int, ...]
    places: tuple[int, ...]
    scores: tuple[float | None, ...]
    best: tuple[float | None, ...]
    states: tuple[str, ...]
    feasible: tuple[bool, ...]


@dataclass(frozen=True)
class ParameterImportance:
    """How much one parameter explains: adjusted share of variance in 0..1, its permutation p, and the rank
    correlation.
    """

    name: str
    share: float
    p: float
    correlation: float | None


@dataclass(frozen=True)
class Importance:
    """Importance of an arm's searched parameters, or the reason why there is none.

    Attributes:
        trials: Complete ones, of all its searches together. searches: how many these were.
    """

    arm: str
    trials: int
    parameters: tuple[ParameterImportance, ...] = ()
    skipped: str | None = None
    warning: str | None = None
    searches: int = 1

    @property
    def count_text(self) -> str:
        """E.g. "24", or "24 in 2 searches"."""
        return str(self.trials) if self.searches == 1 else f"{self.trials} in {self.searches} searches"


def objective(rows: Rows) -> str:
    """The measure that the search optimised: the first of several; quality where nothing is recorded."""
    return search_objective(rows).metric


def trial_scores(rows: Rows, arm: str, about: Objective) -> pd.DataFrame:
    """One row a trial of an arm's search: its state, its score (mean over its complete runs), and its feasibility."""
    own = rows.search[rows.search["arm"] == arm]
    records = []
    for trial, group in own.groupby("trial", sort=True):
        states = set(group["state"])
        state = next((s for s in ("FAIL", "PRUNED", "RUNNING") if s in states), "COMPLETE")
        complete = group[group["state"] == "COMPLETE"]
        scored = state == "COMPLETE" and len(complete) > 0
        score = value_or_none(complete[about.metric].mean()) if scored else None
        feasible = all(_meets(complete, constraint) for constraint in about.constraints)
        records.append({"trial": trial, "state": state, "score": score, "feasible": feasible})
    frame = pd.DataFrame(records, columns=["trial", "state", "score", "feasible"]).set_index("trial")
    return frame.astype({"score": "float64"})


def _meets(runs: pd.DataFrame, constraint: Constraint) -> bool:
    """Whether the mean over a trial's runs meets a bound; a run without the metric does not."""
    if constraint.metric not in runs or runs.empty or runs[constraint.metric].isna().any():
        return False
    return constraint.violation(float(runs[constraint.metric].mean())) <= 0


def histories(rows: Rows) -> tuple[History, ...]:
    """The history of every search of every arm that was searched."""
    about = search_objective(rows)
    found = []
    for arm in rows.arms:
        table = trial_scores(rows, arm, about)
        if table.empty:
            continue
        size = trials_of_search(rows, arm)
        repeats = np.minimum(table.index.to_numpy() // size, repeats_of(rows) - 1)
        for repeat, own in table.groupby(repeats):
            found.append(_history(arm, int(repeat), own, about, int(repeat) * size))
    return tuple(found)


def _history(arm: str, repeat: int, table: pd.DataFrame, about: Objective, first: int) -> History:
    sign = measure(about.metric).sign
    best: list[float | None] = []
    for score, feasible in zip(table["score"], table["feasible"], strict=True):
        last = best[-1] if best else None
        known = value_or_none(score) if feasible else None
        best.append(
            last if known is None else known if last is None else sign * max(sign * last, sign * known)
        )
    return History(
        arm,
        repeat,
        about.metric,
        tuple(int(trial) for trial in table.index),
        tuple(int(trial) - first for trial in table.index),
        tuple(value_or_none(score) for score in table["score"]),
        tuple(best),
        tuple(table["state"]),
        tuple(bool(met) for met in table["feasible"]),
    )


def importances(rows: Rows, seed: int) -> tuple[Importance, ...]:
    """The importance of the searched parameters of each arm, with a reason where it cannot be told."""
    return tuple(
        replace(importance_of(rows, arm, seed), searches=repeats_of(rows))
        for arm in rows.trained_arms
        if (rows.search["arm"] == arm).any()
    )


def importance_of(rows: Rows, arm: str, seed: int) -> Importance:
    """The importance of one arm's searched parameters; see `METHOD`."""
    table = trial_scores(rows, arm, search_objective(rows))
    known = table[table["score"].notna()]
    columns = rows.parameters_of(arm)
    if not columns:
        return Importance(arm, len(known), skipped="no hyperparameter varied in its search")
    if len(known) < MIN_TRIALS:
        return Importance(
            arm,
            len(known),
            skipped=f"needs at least {MIN_TRIALS} complete trials, the search has {len(known)}",
        )
    if known["score"].nunique() < 2:
        return Importance(arm, len(known), skipped="all trials scored the same")
    own = rows.search[rows.search["arm"] == arm].groupby("trial")[columns].first().loc[known.index]
    found = []
    for column in columns:
        values = own[column].tolist()
        if len({str(value) for value in values}) > 1:
            found.append(parameter_importance(column, values, known["score"].to_numpy(), seed, arm))
    warning = f"few trials ({len(known)}): shares are rough" if len(known) < FEW_TRIALS else None
    order = sorted(found, key=lambda item: (-item.share, item.p, item.name))
    return Importance(arm, len(known), tuple(order), warning=warning)


def parameter_importance(
    column: str, values: Sequence[object], scores: NDArray[np.float64], seed: int, arm: str = ""
) -> ParameterImportance:
    """Adjusted share of rank variance that one parameter explains, with its permutation p."""
    ranks = stats.rankdata(scores)
    numbers = [value_or_none(value) for value in values]
    numeric = all(number is not None for number in numbers)
    groups = quantile_bins(np.array(numbers, dtype=float)) if numeric else categories(values)
    observed = explained_share(groups, ranks)
    rng = stream(seed, "importance", arm, column)
    null = np.array([explained_share(groups, rng.permutation(ranks)) for _ in range(PERMUTATIONS)])
    expected = float(null.mean())
    share = max(0.0, (observed - expected) / (1 - expected)) if expected < 1 else 0.0
    p = float((1 + np.sum(null >= observed - 1e-12)) / (PERMUTATIONS + 1))
    correlation = (
        float(stats.spearmanr(np.array(numbers, dtype=float), scores).statistic) if numeric else None
    )
    return ParameterImportance(column.removeprefix(PARAM_PREFIX), share, p, correlation)


def quantile_bins(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bin of each value: its own where there are few distinct ones, else at most 5 quantiles of at least 3 trials
    each.
    """
    distinct = np.unique(values)
    bins = int(np.clip(len(values) // 3, 2, 5))
    if len(distinct) <= bins:
        return np.searchsorted(distinct, values)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.searchsorted(edges, values, side="left")


def categories(values: Sequence[object]) -> NDArray[np.int64]:
    """Number of each value's category."""
    names = sorted({str(value) for value in values})
    return np.array([names.index(str(value)) for value in values])


def explained_share(groups: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    """Correlation ratio: between-group sum of squares over the total, in 0..1."""
    total = float(((scores - scores.mean()) ** 2).sum())
    if total == 0:
        return 0.0
    sums, counts = np.bincount(groups, weights=scores), np.bincount(groups)
    used = counts > 0
    between = float((counts[used] * (sums[used] / counts[used] - scores.mean()) ** 2).sum())
    return between / total
