"""The path from each arm's default configuration to the chosen one, one field at a time, as its search predicts it.

The surrogate (``search_effects.py``) is additive, so that the order of the steps changes none of them; they stand from
the largest predicted gain to the smallest. An arm with several searches has a path for each; shown is their mean, with
the jackknife over the searches' subjects. Beside it stands what the searches measured directly: the chosen trial's
score less the default trial's, which is too large, since the chosen one is the best of several noisy scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.report.formatting import listing
from study.report.measures import measure
from study.report.prepared import Rows, distinct, value_or_none
from study.report.results_tables import Pair, signed, texts
from study.report.search_effects import METHOD, Field, Surrogate, effects_of, value_text
from study.report.searches import default_trials, repeat_of, search_objective
from study.report.tables import Column, Table, assemble, number_cell
from study.statistics.additive import jackknife
from study.statistics.paired import Estimate, mean_interval

NOTHING = Estimate(None)


@dataclass(frozen=True)
class Step:
    """One field on the path.

    Attributes:
        default: Its value in the default, or "a to b" where defaults differ.
        chosen: In the chosen configurations, likewise.
        searches: How many searches changed it.
        change: Predicted change of the score by this step, a mean over all searches.
        reached: Predicted change from the default up to and with this step.
    """

    field: str
    default: str
    chosen: str
    searches: int
    change: Estimate
    reached: Estimate


@dataclass(frozen=True)
class Path:
    """The path of one arm, or the reason why there is none.

    Attributes:
        searches: With a default trial and a chosen trial that completed; `changed`: of which the two are not the same.
        explained: What the surrogate predicts of subjects left out (`Additive.explained`).
        measured: Score of the chosen trial less that of the default trial, over subjects of the searches.
    """

    arm: str
    searches: int = 0
    changed: int = 0
    steps: tuple[Step, ...] = ()
    explained: float | None = None
    measured: Estimate = NOTHING
    skipped: str | None = None


def paths(rows: Rows, found: Sequence[Surrogate], level: float) -> tuple[Path, ...]:
    """The path of each arm that was searched."""
    return tuple(path_of(rows, one, level) for one in found)


def path_of(rows: Rows, found: Surrogate, level: float) -> Path:
    """The path of one arm."""
    ends = trial_pairs(rows, found)
    if not ends:
        reason = "its search has no default trial, or no confirmed one, that completed"
        return Path(found.arm, skipped=found.skipped or reason)
    measured, changed = _measured(found, ends, level), sum(one.default != one.chosen for one in ends)
    if found.model is None:
        return Path(found.arm, len(ends), changed, measured=measured, skipped=found.skipped)
    sign = measure(search_objective(rows).metric).sign
    changes = [one for one in (_change(found, field, ends) for field in found.fields) if one.searches]
    changes.sort(key=lambda one: (-sign * one.value, one.field.name))
    value, left_out = 0.0, np.zeros(len(found.model.subjects))
    steps = []
    for one in changes:
        value, left_out = value + one.value, left_out + one.left_out
        change, reached = jackknife(one.value, one.left_out, level), jackknife(value, left_out, level)
        steps.append(
            Step(one.field.name, _range(one.defaults), _range(one.chosen), one.searches, change, reached)
        )
    return Path(found.arm, len(ends), changed, tuple(steps), found.model.explained, measured)


@dataclass(frozen=True)
class Ends:
    """One search: its default trial and the one that it chose, and on which subjects it was."""

    default: int
    chosen: int
    subjects: frozenset[str]


def trial_pairs(rows: Rows, found: Surrogate) -> tuple[Ends, ...]:
    """The ends of each search of an arm whose default and chosen trials both completed."""
    complete = found.trials.groupby("trial")["subject"].agg(frozenset)
    confirm = rows.frame[(rows.frame["phase"] == "confirm") & (rows.frame["arm"] == found.arm)]
    repeats = repeat_of(rows, found.arm).loc[confirm.index]
    chosen = {int(repeat): distinct(own["trial"]) for repeat, own in confirm.groupby(repeats)}
    pairs = []
    for repeat, default in enumerate(default_trials(rows, found.arm)):
        for trial in chosen.get(repeat, [])[:1]:
            if {default, trial} <= set(complete.index):
                pairs.append(Ends(default, int(trial), complete[default] & complete[trial]))
    return tuple(pairs)


@dataclass(frozen=True)
class _Change:
    field: Field
    value: float
    left_out: NDArray[np.float64]
    searches: int
    defaults: tuple[str, ...]
    chosen: tuple[str, ...]


def _change(found: Surrogate, field: Field, ends: Sequence[Ends]) -> _Change:
    """What going from default to chosen in one field is predicted to add, a mean over the searches."""
    assert found.model is not None
    first_rows = found.trials.drop_duplicates("trial").set_index("trial")[field.column]
    values, left_out, changed = [], [], []
    for one in ends:
        pair = first_rows[one.default], first_rows[one.chosen]
        value, without = found.contributions(field, *pair)
        # Without its subject a search is no part of the mean.
        own = np.array([subject in one.subjects for subject in found.model.subjects])
        values.append(value)
        left_out.append(np.where(own, np.nan, without))
        changed += [pair] if value_text(pair[0]) != value_text(pair[1]) else []
    table = np.array(left_out)
    count = np.isfinite(table).sum(axis=0)
    means = np.where(count > 0, np.nansum(table, axis=0) / np.maximum(count, 1), np.nan)
    texts = [
        tuple(dict.fromkeys(map(value_text, sorted(side, key=_order)))) for side in zip(*changed, strict=True)
    ]
    defaults, chosen = texts or ((), ())
    return _Change(field, float(np.mean(values)), means, len(changed), defaults, chosen)


def _order(value: object) -> tuple[float, str]:
    known = value_or_none(value)
    return (0.0 if known is None else known, str(value))


def _range(texts: tuple[str, ...]) -> str:
    """E.g. "0.001", "0.001 to 0.02", of words "constant or cosine"."""
    if len(texts) < 2:
        return "".join(texts)
    if all(value_or_none(text) is not None for text in texts):
        return f"{texts[0]} to {texts[-1]}"
    return " or ".join(texts)


def _measured(found: Surrogate, ends: Sequence[Ends], level: float) -> Estimate:
    """Scores of the chosen trials less those of the default trials, by subject."""
    scores = found.trials.set_index(["trial", "subject"])["score"]
    pairs = [(one, subject) for one in ends for subject in sorted(one.subjects)]
    values = [float(scores[one.chosen, subject] - scores[one.default, subject]) for one, subject in pairs]
    return mean_interval(np.array(values), [subject for _, subject in pairs], level=level)


# ------------------------------------------------------------------ tables


def effects_table(found: Sequence[Surrogate], name: str) -> Table | None:
    """One line an arm, field and value that effects are told for; None where no arm has a surrogate."""
    lines = [(one.arm, effect) for one in found for effect in effects_of(one)]
    if not lines:
        return None
    effects = [effect for _, effect in lines]
    columns = [
        texts("arm", "Arm", [arm for arm, _ in lines]),
        texts("field", "Field", [effect.field for effect in effects]),
        texts("from", "From", [effect.first for effect in effects]),
        texts("to", "To", [effect.second for effect in effects]),
        _signed("change", f"Δ {measure(name).words}", [effect.change for effect in effects]),
    ]
    note = (
        "From: the default, or else the middle of what was tried. To: the lower and the upper tenth of the values that "
        "were tried, or each other level."
    )
    caption = f"What the search's trials predict of each hyperparameter: change of {measure(name).words}."
    return assemble("hyperparameter-effects", caption, columns, (note, METHOD))


def ablation_table(found: Sequence[Path], name: str) -> Table | None:
    """One line a step of each arm's path, and one for what the search measured; None where there is no path."""
    arms, fields, values, searches, changes, reached, explained = [], [], [], [], [], [], []
    for path in found:
        for step in path.steps:
            arms.append(path.arm)
            fields.append(step.field)
            values.append(f"{step.default} → {step.chosen}")
            searches.append(f"{step.searches} of {path.searches}")
            changes.append(step.change)
            reached.append(step.reached)
            explained.append(path.explained)
        if path.searches:
            arms.append(path.arm)
            fields.append("measured in the search")
            values.append("default → chosen")
            searches.append(f"{path.changed} of {path.searches}")
            changes.append(Estimate(None))
            reached.append(path.measured)
            explained.append(None)
    if not arms:
        return None
    columns = [
        texts("arm", "Arm", arms),
        texts("field", "Field", fields),
        texts("values", "Default → chosen", values),
        texts("searches", "Searches that changed it", searches),
        _signed("change", f"Δ {measure(name).words}", changes),
        _signed("reached", "Δ so far", reached),
        (Column("explained", "Predicts", numeric=True), [number_cell(one, digits=2) for one in explained]),
    ]
    predicted = (
        f"{METHOD} Steps from the largest predicted gain to the smallest: in an additive surrogate their order changes "
        "none of them. Predicts: share of the variance within subjects that the surrogate predicts for a subject left "
        "out.",
    )
    notes = (
        *(predicted if any(path.steps for path in found) else ()),
        "Measured in the search: score of the chosen trial less that of the default trial of the same search. It is "
        "too large, since the chosen trial is the best of several noisy scores; no result is such a difference.",
    )
    caption = f"The path from default to chosen configuration, one field at a time: change of {measure(name).words}."
    return assemble("ablation", caption, columns, notes)


def skipped_words(found: Sequence[Path]) -> tuple[str, ...]:
    """Which arms have no path, and why."""
    reasons: dict[str, list[str]] = {}
    for path in found:
        if path.skipped:
            reasons.setdefault(path.skipped, []).append(path.arm)
    return tuple(f"Nothing is predicted for {listing(arms)}: {reason}." for reason, arms in reasons.items())


def _signed(key: str, title: str, estimates: Sequence[Estimate]) -> Pair:
    return Column(key, title, numeric=True, has_interval=True), [signed(one, score=True) for one in estimates]
