"""What each factor of a crossed design does, over all arms that differ in it alone.

A study that crosses, say, {LoRA, DreamBooth} x {no prior, prior} x {cosine, constant} asks three questions, and its
pairs of arms are 28. The effect of a factor uses all runs: for each subject the mean difference of all pairs of arms
that differ in that factor and in nothing else (a main effect of a factorial design, with the subject as the unit).
Which factors there are follows from the study file, not from results. They share one level with the pairs of arms, half
of it each (`study.statistics.paired.shares_of`), so that a headline on both is false no more often than on one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from study.report.comparisons import Comparison
from study.report.factors import LENGTH, differing_fields, factors_of, searched_fields
from study.report.pairing import Contrast, Values, mean_of_known
from study.report.prepared import Rows, section
from study.spec.crossing import (
    DECIDING,
    OF_THE_FACTOR,
    Crossed,
    crossed_factors,
    fields_of,
    stated_alike,
    without_searched,
)

#: Fields of `Factors` by what they are called; each is a question that a study may ask.
QUESTIONS = {
    "trains": "What is trained",
    "prior": "Prior preservation",
    "text_encoder": "Text encoder trained",
    "schedule": "Schedule",
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
        comparisons: By measure; the verdict is that of the primary one, which comes first.
    """

    factor: str
    first: str
    second: str
    arms: tuple[tuple[str, str], ...]
    differs: tuple[str, ...]
    comparisons: dict[str, Comparison]


def crossed_arms(rows: Rows) -> tuple[Crossed, ...]:
    """Returns the factors that several pairs of arms differ in alone; none where nothing is crossed.

    Neither what a search drew nor which runs failed changes what is asked: a factor that an arm searches has no level.
    """
    levels = {
        one.arm: without_searched(
            {factor: getattr(one, factor) for factor in QUESTIONS}, searched_fields(rows, one.arm)
        )
        for one in factors_of(rows)
    }
    files = {arm: (rows.methods.get(arm, ""), section(rows.meta, "spec", "arms", arm)) for arm in levels}
    return crossed_factors(levels, lambda factor, one, other: stated_alike(factor, files[one], files[other]))


def factor_effects(
    rows: Rows, crossed: Sequence[Crossed], compared: Mapping[str, Sequence[Comparison]]
) -> tuple[FactorEffect, ...]:
    """Puts the effects of the factors together.

    Args:
        compared: By measure, the primary one first: the comparison of each factor's levels.
    """
    return tuple(
        FactorEffect(
            QUESTIONS[one.factor],
            one.first,
            one.second,
            one.arms,
            _also_differing(rows, one.factor, one.arms),
            {name: family[k] for name, family in compared.items()},
        )
        for k, one in enumerate(crossed)
    )


def _also_differing(rows: Rows, factor: str, arms: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """What the confirmed configurations of the pairs differ in beside the factor, of what both of a pair have."""
    found: dict[str, None] = {}
    for pair in arms:
        one, other = (fields_of(rows.methods.get(arm, "")) for arm in pair)
        shared = one & other - DECIDING - OF_THE_FACTOR.get(factor, set())
        known = {LENGTH, *(name.replace("_", " ") for name in shared)}
        found |= dict.fromkeys(field for field in differing_fields(rows, *pair) if field in known)
    return tuple(found)


def effect_of(values: Values, crossed: Crossed) -> Contrast:
    """Returns the contrast of two levels: differences of runs with one subject and seed, averaged over pairs of arms.

    A subject and seed counts where all pairs have it, or else pairs would weigh differently from subject to subject.
    """
    arms = crossed.arms
    single = [values.contrast(one, other) for one, other in arms]
    differences = np.stack([values.of(one) - values.of(other) for one, other in arms])
    mean = differences.mean(axis=0)  # (subjects, seeds), NaN where a pair is missing
    units = mean_of_known(mean)
    chances = np.stack([contrast.chances for contrast in single]).mean(axis=0)
    chances = np.where(np.isfinite(units), chances, np.nan)
    found = mean[np.isfinite(mean)]
    return Contrast(crossed.first, crossed.second, values.measure, units, tuple(found.tolist()), chances)
