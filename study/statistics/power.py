"""How many subjects a comparison needs, and which differences a number of subjects can show (noncentral t)."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

SIGNIFICANCE = 0.05  # of all questions that share one level
POWER = 0.8
MIN_SUBJECTS = 3  # below, a Student's interval is so wide (two: 13 standard errors) that it says nothing
MOST_SUBJECTS = 1_000  # where the search for a number of subjects ends
OWN_SPREAD_FROM = (
    5  # subjects; the spread that four show is between .27 and 1.77 of the true one (in 95 % of studies)
)

# Standard deviations of the difference in quality of two arms, between subjects and between seeds of one subject, that
# are assumed where a study has not run yet. They are to be no less than those of shipped studies (python -m
# benchmarks.spread): arms of one method or two, as LoRA and DreamBooth, differ more alike than arms of many methods, of
# which some teach one subject well and another not at all.
BETWEEN_SUBJECTS = 0.087
BETWEEN_SUBJECTS_OF_METHODS = 0.14
MANY_METHODS = 3
BETWEEN_SEEDS = 0.051

Floats = NDArray[np.float64]


def typical_deviation(seeds: int, methods: int = 1) -> float:
    """The standard deviation that a subject's mean difference in quality is assumed to have.

    Args:
        seeds: Over how many seeds of each subject it is a mean.
        methods: Of how many methods the arms of the study are.
    """
    subjects = BETWEEN_SUBJECTS_OF_METHODS if methods >= MANY_METHODS else BETWEEN_SUBJECTS
    return math.hypot(subjects, BETWEEN_SEEDS / math.sqrt(max(1, seeds)))


def power_of_difference(subjects: int | Floats, effect: float | Floats, alpha: float = 0.05) -> Floats:
    """Chance that a two-sided paired t test finds a difference.

    Args:
        subjects: Number of subjects, at least 2.
        effect: True mean of the subjects' differences, in their standard deviations.
        alpha: Level of this one test, after any adjustment.
    """
    n = np.asarray(subjects, dtype=float)
    shift = np.abs(np.asarray(effect, dtype=float)) * np.sqrt(n)
    limit = -special.stdtrit(n - 1, alpha / 2)
    return np.asarray(_above(limit, n - 1, shift) + _below(-limit, n - 1, shift))


def power_of_equivalence(
    subjects: int | Floats, effect: float | Floats, margin: float, alpha: float = 0.05
) -> Floats:
    """Chance that two one-sided t tests show a difference to lie within the margin.

    Phillips (1990), "Power of the two one-sided tests procedure in bioequivalence", with both tests taken as
    exclusive: never too large. `effect` and `margin` are in standard deviations of the subjects' differences.
    """
    n = np.asarray(subjects, dtype=float)
    limit = -special.stdtrit(n - 1, alpha)
    near = np.asarray((margin - np.abs(effect)) * np.sqrt(n))
    far = np.asarray((margin + np.abs(effect)) * np.sqrt(n))
    both = _above(limit, n - 1, near) + _above(limit, n - 1, far) - 1
    return np.asarray(np.clip(both, 0, 1))


def _below(limit: Floats, freedom: Floats, shift: Floats) -> Floats:
    """Chance that a noncentral t lies below a limit.

    scipy.stats says the same, forty times slower: a report asks some thousand times. Far out in a tail both say NaN,
    where the chance is 0 or 1.
    """
    chance = special.nctdtr(freedom, shift, limit)
    return np.asarray(np.where(np.isnan(chance), np.where(shift < limit, 1.0, 0.0), chance))


def _above(limit: Floats, freedom: Floats, shift: Floats) -> Floats:
    return 1.0 - _below(limit, freedom, shift)


def subjects_to_decide(
    difference: float, deviation: float, margin: float | None, alpha: float = 0.05
) -> int | None:
    """Smallest number of subjects that decides a pair with 80 % power, if it is as it was observed.

    Args:
        difference: Mean of the subjects' differences.
        deviation: Their standard deviation, above 0.
        margin: Differences within it count as equivalent; None: only a difference can be shown.
        alpha: Level of the one test, after any adjustment.

    Returns:
        The number at which either the difference or the equivalence is shown; None above `MOST_SUBJECTS`.
    """

    def power(subjects: int) -> float:
        found = float(power_of_difference(subjects, difference / deviation, alpha))
        if margin is None or abs(difference) >= margin:
            return found
        effect, within = difference / deviation, margin / deviation
        return max(found, float(power_of_equivalence(subjects, effect, within, alpha)))

    return _fewest(power)


def subjects_to_show_inside(
    difference: float, deviation: float, margin: float, alpha: float = 0.05
) -> int | None:
    """Smallest number of subjects that shows with 80 % power that a mean lies within a margin around a value.

    Args:
        difference: Mean of the subjects' differences from the value, within the margin.
        deviation: Their standard deviation, above 0.
        alpha: Level of each of the two one-sided tests, after any adjustment.

    Returns:
        None above `MOST_SUBJECTS`.
    """
    effect, within = difference / deviation, margin / deviation
    return _fewest(lambda subjects: float(power_of_equivalence(subjects, effect, within, alpha)))


def _fewest(power: Callable[[int], float]) -> int | None:
    """The smallest number of subjects at which a power that grows with it is enough."""
    counts = range(MIN_SUBJECTS, MOST_SUBJECTS + 1)
    found = bisect.bisect_left(counts, True, key=lambda subjects: power(subjects) >= POWER)
    return counts[found] if found < len(counts) else None


def smallest_effect(subjects: int, alpha: float = 0.05) -> float:
    """Smallest difference, in standard deviations of the subjects' differences, that is found with 80 % power."""
    if subjects < MIN_SUBJECTS:
        return math.inf
    return float(
        optimize.brentq(lambda effect: float(power_of_difference(subjects, effect, alpha)) - POWER, 1e-6, 200)
    )
