"""Families of comparisons between arms, and the verdict on each pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from study.report.measures import SCORES, measure
from study.report.pairing import Contrast
from study.report.random_streams import stream
from study.statistics.paired import (
    LEVEL,
    RESAMPLES,
    Decisions,
    Estimate,
    Outcome,
    bootstrap_t_interval,
    chance_interval,
    decide,
    effect_size,
    moments,
    shares_of,
)
from study.statistics.power import OWN_SPREAD_FROM, SIGNIFICANCE, subjects_to_decide, typical_deviation

MARGIN = 0.05  # of quality; the default of `report.margin`
ROUNDING = 1e-12  # of means of the same numbers in another order


@dataclass(frozen=True)
class Settings:
    """Settings of the statistics, printed in the report and the manifest.

    Attributes:
        margin: Differences within it count as equivalent; None: what the study file states (`report.margin`).
    """

    seed: int = 0
    level: float = LEVEL
    resamples: int = RESAMPLES
    significance: float = SIGNIFICANCE
    margin: float | None = None


@dataclass(frozen=True)
class Needed:
    """What would decide a pair with 80 % power, if its difference were the one that was seen.

    Attributes:
        subjects: None: more than `study.statistics.power.MOST_SUBJECTS`.
        at_least: Whether it is a lower bound: a difference that stands out, the lead of the best arm above all, is too
            large on average, and a smaller one takes more subjects. Within the margin it may take fewer, since it may
            be shown equivalent.
    """

    subjects: int | None
    at_least: bool


@dataclass(frozen=True)
class Comparison:
    """Two arms on the same subjects and seeds; differences are first minus second.

    Attributes:
        difference: Mean over subjects of the paired differences, Student's interval; `difference.n` counts pairs.
        simultaneous: The same with the interval that holds together with those of all that share its level
            (Bonferroni).
        check: The same with a bootstrap-t interval over subjects, from five subjects on.
        p, p_holm: Two-sided t test over subjects, and adjusted over all that share its level.
        p_equivalent: Of "the difference is at least the margin", adjusted likewise; None without a margin.
        effect: Difference in standard deviations of the subjects' differences.
        improvement: Chance that a run of the first is better than one of the second on the same subject.
        outcome: The verdict on the first; "better" and "worse" follow the direction of the measure,
            "different" stands in their place where it has none.
        alpha: Level at which it is tested at the strictest step: what all together have, times its share.
        needed: What would decide it where that is "not enough"; None where it is decided, or nothing is known.
    """

    first: str
    second: str
    measure: str
    difference: Estimate
    simultaneous: Estimate
    check: Estimate
    p: float | None
    p_holm: float | None
    p_equivalent: float | None
    effect: Estimate
    improvement: Estimate
    outcome: Outcome
    alpha: float
    needed: Needed | None

    @property
    def subjects_needed(self) -> int | None:
        """Subjects that would decide it; None where it is decided, unknown, or takes too many to count."""
        return None if self.needed is None else self.needed.subjects

    @property
    def established(self) -> bool:
        """Whether a difference is shown that is not within the margin."""
        return self.outcome in ("better", "worse", "different")

    @property
    def trails(self) -> bool:
        """Whether the first is behind on the subjects that both have, by more than rounding."""
        return measure(self.measure).sign * (self.difference.value or 0.0) < -ROUNDING

    def reversed(self) -> Comparison:
        """The same, seen from the second arm."""
        turned: dict[Outcome, Outcome] = {"better": "worse", "worse": "better"}
        return replace(
            self,
            first=self.second,
            second=self.first,
            difference=_negative(self.difference),
            simultaneous=_negative(self.simultaneous),
            check=_negative(self.check),
            effect=_negative(self.effect),
            improvement=_mirrored(self.improvement, 1.0),
            outcome=turned.get(self.outcome, self.outcome),
        )


def _mirrored(estimate: Estimate, around: float) -> Estimate:
    def turn(value: float | None) -> float | None:
        return None if value is None else around - value

    return replace(estimate, value=turn(estimate.value), low=turn(estimate.high), high=turn(estimate.low))


def _negative(estimate: Estimate) -> Estimate:
    return _mirrored(estimate, 0.0)


def compare(
    contrasts: Sequence[Contrast], margin: float | None, settings: Settings
) -> tuple[Comparison, ...]:
    """Compares pairs of arms as one family: adjustments are over all of them. Arguments: see `compare_families`."""
    return compare_families([contrasts], margin, settings)[0]


def compare_families(
    families: Sequence[Sequence[Contrast]], margin: float | None, settings: Settings
) -> list[tuple[Comparison, ...]]:
    """Compares several families of questions under one level, shared out by `study.statistics.paired.shares_of`.

    Args:
        families: Contrasts, in any measures.
        margin: Differences within it are equivalent; None: equivalence is not asked.

    Returns:
        The comparisons of each family.
    """
    contrasts = [contrast for family in families for contrast in family]
    if not contrasts:
        return [() for _ in families]
    width = max(c.units.size for c in contrasts)
    units = np.full((len(contrasts), width), np.nan)
    for row, contrast in zip(units, contrasts, strict=True):
        row[: contrast.units.size] = contrast.units
    shares = shares_of([len(family) for family in families])
    found = decide(units, margin, weights=shares, level=settings.level, significance=settings.significance)
    told, begin = [], 0
    for family in families:
        own = range(begin, begin + len(family))
        begin += len(family)
        names = np.array([contrasts[k].measure for k in own])
        spreads = {
            name: planning_deviation(units[list(own)][names == name])
            for name in dict.fromkeys(names.tolist())
        }
        told.append(
            tuple(
                _comparison(
                    contrasts[k], k, found, margin, spreads[contrasts[k].measure], float(shares[k]), settings
                )
                for k in own
            )
        )
    return told


def planning_deviation(units: ArrayLike) -> float | None:
    """Standard deviation of the subjects' differences, pooled over a family; None with one subject."""
    count, _, deviation = moments(units)
    several = count > 1
    if not several.any():
        return None
    squares = (deviation[several] ** 2 * (count[several] - 1)).sum()
    return float(np.sqrt(squares / (count[several] - 1).sum()))


def _comparison(
    contrast: Contrast,
    k: int,
    found: Decisions,
    margin: float | None,
    spread: float | None,
    share: float,
    settings: Settings,
) -> Comparison:
    subjects = int(np.isfinite(contrast.units).sum())
    alpha = settings.significance * share

    def known(array: np.ndarray) -> float | None:
        return float(array[k]) if math.isfinite(array[k]) else None

    def estimate(low: float | None, high: float | None) -> Estimate:
        return Estimate(known(found.mean), low, high, contrast.pairs, subjects, settings.level)

    rng = stream(settings.seed, "pair", contrast.first, contrast.second, contrast.measure)
    resampled = bootstrap_t_interval(contrast.units, rng, level=settings.level, resamples=settings.resamples)
    outcome = outcome_of(found, k, contrast.measure)
    return Comparison(
        first=contrast.first,
        second=contrast.second,
        measure=contrast.measure,
        difference=estimate(known(found.low), known(found.high)),
        simultaneous=estimate(known(found.family_low), known(found.family_high)),
        check=estimate(*resampled) if resampled else Estimate(None, level=settings.level),
        p=known(found.p),
        p_holm=known(found.p_holm),
        p_equivalent=known(found.p_equivalent),
        effect=effect_size(contrast.units, level=settings.level),
        improvement=chance_interval(contrast.chances, contrast.pairs, level=settings.level),
        outcome=outcome,
        alpha=alpha,
        needed=None if outcome != "not enough" else _needed(contrast, margin, spread, alpha),
    )


def outcome_of(found: Decisions, k: int, name: str) -> Outcome:
    """The verdict on one comparison of a family."""
    return found.outcome(k, measure(name).sign)


def _needed(contrast: Contrast, margin: float | None, spread: float | None, alpha: float) -> Needed | None:
    """What would decide a pair, for the difference that was seen; None without any, or without a spread."""
    count, mean, _ = moments(contrast.units)
    assumed = _assumed_spread(contrast, margin, spread)
    if count == 0 or not assumed:
        return None
    found = subjects_to_decide(float(mean), assumed, margin, alpha)
    return Needed(
        None if found is None else max(found, int(count) + 1), margin is None or abs(float(mean)) >= margin
    )


def _assumed_spread(contrast: Contrast, margin: float | None, spread: float | None) -> float | None:
    """Standard deviation of the subjects' differences that a number of subjects is reckoned with.

    Of few subjects it is the family's, but no less than what is usual: pairs of the same few subjects share their arms,
    so that pooling adds less than their number promises, and a spread that happens to be small promises a verdict from
    a handful of subjects.
    """
    count, _, deviation = moments(contrast.units)
    if count >= OWN_SPREAD_FROM:
        return float(deviation)
    known = [] if spread is None else [spread]
    if count and margin is not None and contrast.measure in SCORES:  # of which it is known what is usual
        known.append(typical_deviation(round(contrast.pairs / float(count))))
    return max(known, default=None)
