"""What the search was to optimise, held against the verdict: another measure than ranks the arms, and bounds that what
it chose does not keep.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from study.report.formatting import fixed, listing
from study.report.measures import measure
from study.report.prepared import Rows, distinct, value_or_none
from study.report.searches import bound_words, repeat_of, repeats_of, search_objective
from study.spec.phases import Constraint


@dataclass(frozen=True)
class Missed:
    """A bound of the objective that is not kept: by the chosen trial of an arm, or by its confirm runs.

    Attributes:
        name: The arm; with its search where it had several and the trial is meant.
        value: Mean over the runs; None where one of them has no value, which counts as missed in a search.
    """

    name: str
    constraint: Constraint
    value: float | None

    @property
    def text(self) -> str:
        """E.g. "lora-cosine (0.62)", with as many decimals as show that it misses."""
        if self.value is None:
            return f"{self.name} (not measured)"
        digits = (d for d in range(2, 9) if self.constraint.violation(round(self.value, d)) > 0)
        return f"{self.name} ({fixed(self.value, next(digits, 9))})"


def missed_when_chosen(rows: Rows) -> list[Missed]:
    """Bounds that the chosen trials missed in their search; arms without a search chose nothing."""
    found = []
    for constraint in search_objective(rows).constraints:
        for arm in rows.trained_arms:
            confirm = rows.frame[(rows.frame["phase"] == "confirm") & (rows.frame["arm"] == arm)]
            for repeat, own in confirm.groupby(repeat_of(rows, arm).loc[confirm.index]):
                name = f"{arm} (search {int(repeat) + 1})" if repeats_of(rows) > 1 else arm
                for trial in distinct(own["trial"]):
                    runs = rows.search[(rows.search["arm"] == arm) & (rows.search["trial"] == trial)]
                    values = _values(runs[runs["state"] == "COMPLETE"], constraint)
                    value = None if values.isna().any() else value_or_none(values.mean())
                    if len(runs) and (value is None or constraint.violation(value) > 0):
                        found.append(Missed(name, constraint, value))
    return found


def missed_when_confirmed(rows: Rows) -> list[Missed]:
    """Bounds that arms miss in the mean over their confirm subjects; arms without a value are left out."""
    found = []
    for constraint in search_objective(rows).constraints:
        for arm in rows.trained_arms:
            own = rows.confirm[rows.confirm["arm"] == arm]
            value = value_or_none(_values(own, constraint).groupby(own["subject"]).mean().mean())
            if value is not None and constraint.violation(value) > 0:
                found.append(Missed(arm, constraint, value))
    return found


def _values(runs: pd.DataFrame, constraint: Constraint) -> pd.Series:
    """What the runs have of the constrained metric; NaN where the study measured none."""
    if constraint.metric not in runs:
        return pd.Series(math.nan, index=runs.index)
    return pd.to_numeric(runs[constraint.metric], errors="coerce")


def objective_words(rows: Rows, primary: str) -> list[str]:
    """That arms are ranked by something else than the search optimised; nothing where that is the same."""
    about = search_objective(rows)
    if rows.search.empty or (about.metrics == (primary,) and not about.constraints):
        return []
    anyway = ", whether they keep the bound or not" if about.constraints else ""
    title = measure(primary).title.lower()
    return [f"The search chose configurations by {about.words}; arms are ranked by {title}{anyway}."]


def best_words(rows: Rows, best: str) -> str:
    """A sentence for the headline where the arm with the highest mean misses a bound; empty where it keeps them."""
    missed = [m for m in missed_when_confirmed(rows) if m.name == best]
    if not missed:
        return ""
    bounds = listing(f"{bound_words(m.constraint)} {m.text.removeprefix(m.name).strip()}" for m in missed)
    return f" {best} misses what the search was bound to: {bounds}."


def constraint_warnings(rows: Rows) -> list[str]:
    """Bounds that chosen trials missed, and that confirm runs miss."""
    found = []
    for constraint in search_objective(rows).constraints:
        bound = f"The bound of the objective, {bound_words(constraint)},"
        if chosen := _of(missed_when_chosen(rows), constraint):
            found.append(
                f"{bound} was missed in the search by the chosen trial of {chosen}: a search takes the trial that "
                "misses least where none keeps it."
            )
        if confirmed := _of(missed_when_confirmed(rows), constraint):
            found.append(
                f"{bound} is missed by the mean of the confirm runs of {confirmed}. Arms are ranked all the same."
            )
    return found


def _of(missed: Sequence[Missed], constraint: Constraint) -> str:
    return listing(m.text for m in missed if m.constraint == constraint)
