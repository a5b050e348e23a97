"""What each factor of a crossed design does, over all arms that differ in it alone.

A study that crosses, say, {LoRA, DreamBooth} x {no prior, prior} x {cosine, constant} asks three questions, and its
pairs of arms are 28. The effect of a factor uses all runs: for each subject the mean difference of all pairs of arms
that differ in that factor and in nothing else (a main effect of a factorial design, with the subject as the unit).
Which factors there are follows from the study file, not from results: they are one family of Holm's adjustment, beside
that of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from study.report.comparisons import Comparison, Settings, compare
from study.report.factors import LENGTH, PRIOR, SCHEDULE, TEXT_ENCODER, Factors, differing_fields, factors_of
from study.report.measures import SUBJECT_PROMPT
from study.report.pairing import Contrast, Values, mean_of_known
from study.report.prepared import Rows, section
from trainables.methods.registry import method_config_class, method_names

FEWEST_PAIRS = 2  # of arms; a single one stands in the table of pairs
#: Fields of `Factors` by what they are called; each is a question that a study may ask.
QUESTIONS = {
    "trains": "What is trained",
    "prior": "Prior preservation",
    "text_encoder": "Text encoder trained",
    "schedule": "Schedule",
}
_FIELDS = {PRIOR, TEXT_ENCODER, SCHEDULE}
#: Fields that one level of a factor has and the other has not.
_OF_THE_FACTOR = {
    "prior": {"prior_loss_weight"},
    "text_encoder": {"text_encoder_learning_rate", "text_encoder_target_modules"},
}


@dataclass(frozen=True)
class FactorEffect:
    """One factor: its first level minus its second.

    Attributes:
        factor: As in `QUESTIONS`.
        first, second: The levels, e.g. "yes" and "no".
        arms: The pairs of arms behind it, first level first.
        differs: What else the confirmed configurations of these pairs differ in: fields that were searched, or whose
            default is another at the other level.
        comparisons: By measure; the verdict is that of the primary one.
    """

    factor: str
    first: str
    second: str
    arms: tuple[tuple[str, str], ...]
    differs: tuple[str, ...]
    comparisons: dict[str, Comparison]


def factor_effects(
    rows: Rows, tables: Mapping[str, Values], names: Sequence[str], margin: float | None, settings: Settings
) -> tuple[FactorEffect, ...]:
    """Returns the effect of each factor that several pairs of arms differ in alone; none where nothing is crossed.

    Args:
        tables: Confirm runs by measure.
        names: The primary measure, then those behind it; each is a family of its own.
        margin: Of equivalence in quality, with the class kept or blind to it.
    """
    primary = names[0]
    known = [one for one in factors_of(rows) if one.arm in tables[primary].arms]
    crossed = [(factor, *found) for factor in QUESTIONS if (found := _pairs(rows, known, factor)) is not None]
    families = {
        name: compare(
            [effect_of(tables[name], first, second, arms) for _, first, second, arms in crossed],
            margin if name in (primary, SUBJECT_PROMPT) else None,
            settings,
        )
        for name in dict.fromkeys(names)
    }
    return tuple(
        FactorEffect(
            QUESTIONS[factor],
            first,
            second,
            arms,
            _also_differing(rows, factor, arms),
            {name: family[k] for name, family in families.items()},
        )
        for k, (factor, first, second, arms) in enumerate(crossed)
    )


def _also_differing(rows: Rows, factor: str, arms: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """What the confirmed configurations of the pairs differ in beside the factor, of what both of a pair have."""
    found: dict[str, None] = {}
    for pair in arms:
        shared = _fields(rows, pair[0]) & _fields(rows, pair[1]) - _FIELDS - _OF_THE_FACTOR.get(factor, set())
        known = {LENGTH, *(name.replace("_", " ") for name in shared)}
        found |= dict.fromkeys(field for field in differing_fields(rows, *pair) if field in known)
    return tuple(found)


def effect_of(values: Values, first: str, second: str, arms: Sequence[tuple[str, str]]) -> Contrast:
    """Returns the contrast of two levels: differences of runs with one subject and seed, averaged over pairs of arms.

    A subject and seed counts where all pairs have it, or else pairs would weigh differently from subject to subject.
    """
    single = [values.contrast(one, other) for one, other in arms]
    differences = np.stack([values.of(one) - values.of(other) for one, other in arms])
    mean = differences.mean(axis=0)  # (subjects, seeds), NaN where a pair is missing
    units = mean_of_known(mean)
    chances = np.stack([contrast.chances for contrast in single]).mean(axis=0)
    chances = np.where(np.isfinite(units), chances, np.nan)
    found = mean[np.isfinite(mean)]
    return Contrast(first, second, values.measure, units, tuple(found.tolist()), chances)


def _pairs(
    rows: Rows, known: Sequence[Factors], factor: str
) -> tuple[str, str, tuple[tuple[str, str], ...]] | None:
    """The two levels of a factor, and the pairs of arms that differ in it alone; None unless every arm is in one."""
    levels = list(dict.fromkeys(getattr(one, factor) for one in known))
    if len(levels) != 2 or "--" in levels:
        return None
    first, second = sorted(levels, key=lambda level: (level != "yes", level))
    found = [
        (one.arm, other.arm)
        for one in known
        for other in known
        if (getattr(one, factor), getattr(other, factor)) == (first, second)
        and all(getattr(one, name) == getattr(other, name) for name in QUESTIONS if name != factor)
        and _stated_alike(rows, one.arm, other.arm)
    ]
    paired = [arm for pair in found for arm in pair]
    if len(found) < FEWEST_PAIRS or sorted(paired) != sorted(one.arm for one in known):
        return None
    return first, second, tuple(found)


def _stated_alike(rows: Rows, one: str, other: str) -> bool:
    """Whether the study file gives two arms the same fields, beside the factors and what only one method has."""
    first, second = (_stated(rows, arm) for arm in (one, other))
    shared = _fields(rows, one) & _fields(rows, other)
    return all(first.get(name) == second.get(name) for name in shared - _FIELDS)


def _stated(rows: Rows, arm: str) -> Mapping[str, Any]:
    return section(rows.meta, "spec", "arms", arm)


def _fields(rows: Rows, arm: str) -> set[str]:
    method = rows.methods.get(arm, "")
    return set(method_config_class(method).model_fields) if method in method_names() else set()
