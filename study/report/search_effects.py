"""What the trials of a search say of each hyperparameter: a surrogate of the score, and what it predicts.

The surrogate is additive: a line and a bend for each number (on a logarithmic scale where it was tried over a factor
of `LOG_FROM`), a step for each other level, and a level for each subject; see ``study/statistics/additive.py``. It
knows no interactions. What it predicts is no result: the trials were few, chosen by a sampler, and each was judged
once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.report.prepared import Rows, value_or_none
from study.report.search_history import MIN_TRIALS, trial_scores
from study.report.searches import default_trials, search_objective
from study.results.columns import PARAM_PREFIX
from study.statistics.additive import Additive, fit_additive, jackknife
from study.statistics.paired import Estimate

LOG_FROM = 4.0  # factor between the largest and the smallest value that was tried
TWO = 2  # numbers of no more values than these are levels
MOST_LEVELS = (
    6  # of a field that some trials have no number for; with more it is a number, missing where it is off
)
LOW, HIGH = 0.1, 0.9  # quantiles of the tried values to which effects are told
METHOD = (
    "Predicted from the complete trials of the search, not measured: ridge regression of the score within subjects on "
    "a line and a bend for each number and a step for each other level, without interactions; its penalty is the one "
    "that predicts a subject left out best (with one subject, a trial), and shrinks effects to no less than about "
    "half. Arms of which it predicts nothing are left out. Intervals: jackknife over the search's subjects, from 3 "
    "subjects on."
)
_LEFT_OUT = {True: "a subject that is left out", False: "a trial that is left out"}


@dataclass(frozen=True)
class Field:
    """One searched field as features, which are 0 at its reference: the default, or else the middle of what was tried.

    Attributes:
        column: Of the runs.
        levels: Of a field that is no number, the reference first; empty of a number.
        reference: The value that effects begin from.
        scale: Half of the range that was tried, on the scale of the features; of a number.
        logarithmic: Whether that scale is.
    """

    column: str
    reference: object
    levels: tuple[str, ...] = ()
    scale: float = 1.0
    logarithmic: bool = False

    @property
    def name(self) -> str:
        """As in a study file."""
        return self.column.removeprefix(PARAM_PREFIX)

    @property
    def width(self) -> int:
        """Number of its features."""
        return len(self.levels) - 1 if self.levels else 2

    def features(self, values: Sequence[object]) -> NDArray[np.float64]:
        """Of each value, [n, width]; a number that has no value (its field has no effect there) is as the reference."""
        if self.levels:
            names = [value_text(value) for value in values]
            return np.array([[float(name == level) for level in self.levels[1:]] for name in names])
        away = [self._away(value) for value in values]
        return np.array([[u, u * u] for u in away])

    def _away(self, value: object) -> float:
        known, start = value_or_none(value), value_or_none(self.reference)
        if known is None or start is None or (self.logarithmic and known <= 0):
            return 0.0
        if self.logarithmic:
            return math.log(known / start) / self.scale
        return (known - start) / self.scale


@dataclass(frozen=True)
class Surrogate:
    """The surrogate of one arm, or the reason why there is none.

    Attributes:
        trials: One row a complete trial and subject: trial, subject, score, and the searched columns.
    """

    arm: str
    trials: pd.DataFrame
    fields: tuple[Field, ...] = ()
    model: Additive | None = None
    skipped: str | None = None

    def place(self, field: Field) -> slice:
        """Of the field's features among all."""
        start = sum(other.width for other in self.fields[: self.fields.index(field)])
        return slice(start, start + field.width)

    def contributions(self, field: Field, first: object, second: object) -> tuple[float, NDArray[np.float64]]:
        """What going from one value to another is predicted to add, by all trials and without each subject."""
        assert self.model is not None
        away = field.features([second])[0] - field.features([first])[0]
        place = self.place(field)
        return float(away @ self.model.weights[place]), self.model.left_out[:, place] @ away


@dataclass(frozen=True)
class Effect:
    """What the score is predicted to change by if one field goes from its reference to another value."""

    field: str
    first: str
    second: str
    change: Estimate


def surrogates(rows: Rows) -> tuple[Surrogate, ...]:
    """A surrogate for each arm that was searched."""
    return tuple(surrogate_of(rows, arm) for arm in rows.trained_arms if (rows.search["arm"] == arm).any())


def surrogate_of(rows: Rows, arm: str) -> Surrogate:
    """Fits the surrogate of one arm."""
    columns = rows.parameters_of(arm)
    trials = trial_rows(rows, arm, columns)
    count = trials["trial"].nunique()
    if not columns:
        return Surrogate(arm, trials, skipped="no hyperparameter varied in its search")
    if count < MIN_TRIALS:
        reason = f"needs at least {MIN_TRIALS} complete trials, the search has {count}"
        return Surrogate(arm, trials, skipped=reason)
    defaults = trials[trials["trial"].isin(default_trials(rows, arm))]
    fields = tuple(
        field_of(column, trials[column].tolist(), defaults[column].tolist())
        for column in columns
        if trials[column].astype(str).nunique() > 1
    )
    if not fields:
        return Surrogate(arm, trials, skipped="no hyperparameter varied in its complete trials")
    features = np.hstack([one.features(trials[one.column].tolist()) for one in fields])
    model = fit_additive(features, trials["score"].to_numpy(dtype=float), trials["subject"].tolist())
    if model.explained <= 0:
        return Surrogate(
            arm, trials, skipped=f"the trials tell nothing of {_LEFT_OUT[len(model.subjects) > 1]}"
        )
    return Surrogate(arm, trials, fields, model)


def trial_rows(rows: Rows, arm: str, columns: Sequence[str]) -> pd.DataFrame:
    """One row a complete trial of an arm's search and subject, with the mean score over its seeds."""
    about = search_objective(rows)
    known = trial_scores(rows, arm, about)["score"].dropna().index
    own = rows.search[(rows.search["arm"] == arm) & rows.search["trial"].isin(known)]
    own = own.assign(score=own[about.metric])
    own = own[own["score"].notna()]
    found = own.groupby(["trial", "subject"], sort=True)
    return found.agg({"score": "mean", **dict.fromkeys(columns, _first)}).reset_index()


def _first(values: pd.Series) -> object:
    """The first value, also a missing one: it says that the field is off."""
    return values.iloc[0]


def field_of(column: str, values: Sequence[object], defaults: Sequence[object]) -> Field:
    """Makes the features of a field from the values that were tried; `defaults`: those of default trials."""
    numbers = [None if isinstance(value, (bool, np.bool_)) else value_or_none(value) for value in values]
    known = sorted(number for number in numbers if number is not None)
    missing = [value for value, number in zip(values, numbers, strict=True) if number is None]
    words = any(not pd.isna(value) for value in missing)  # type: ignore[call-overload]
    distinct = len(set(known)) + bool(missing)
    if words or distinct <= (MOST_LEVELS if missing else TWO):
        names = [value_text(value) for value in values]
        first = value_text(defaults[0]) if defaults else max(sorted(set(names)), key=names.count)
        others = sorted(set(names) - {first}, key=lambda name: (value_or_none(name) or 0.0, name))
        return Field(column, first, (first, *others))
    start = value_or_none(defaults[0]) if defaults else None
    reference = known[len(known) // 2] if start is None else start
    logarithmic = known[0] > 0 and reference > 0 and known[-1] / known[0] >= LOG_FROM
    span = math.log(known[-1] / known[0]) if logarithmic else known[-1] - known[0]
    return Field(column, reference, scale=span / 2, logarithmic=logarithmic)


def effects_of(found: Surrogate) -> tuple[Effect, ...]:
    """From each field's reference to a low and to a high value of those that were tried, or to each other level."""
    if found.model is None:
        return ()
    effects = []
    for field in found.fields:
        others: list[object] = list(field.levels[1:])
        if not field.levels:
            values = found.trials[field.column].to_numpy(dtype=float)
            ends = [float(np.quantile(values, share, method="nearest")) for share in (LOW, HIGH)]
            others = [end for end in dict.fromkeys(ends) if end != field.reference]
        for other in others:
            value, left_out = found.contributions(field, field.reference, other)
            change = jackknife(value, left_out)
            effects.append(Effect(field.name, value_text(field.reference), value_text(other), change))
    return tuple(effects)


def value_text(value: object) -> str:
    """A value of a field, numbers with three digits."""
    known = None if isinstance(value, (bool, np.bool_, str)) else value_or_none(value)
    if known is None:
        return str(value)
    return str(int(known)) if known.is_integer() and abs(known) < 1e6 else f"{known:.3g}"
