"""McNemar's test of two trained classifiers on the same test images, and what a number of test images can show.

The test is about these two classifiers and no others: training anew with another seed gives other ones, of which
`study.statistics.downstream.comparison` speaks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from study.statistics.power import POWER, SIGNIFICANCE


@dataclass(frozen=True)
class McNemar:
    """The test's result.

    Attributes:
        first_only, second_only: Images that one classifier alone has right.
        difference: Accuracy of the first minus that of the second.
        p: Exact, two-sided: the chance that as many discordant images are split at least as unevenly, by tosses of a
            coin.
        mid_p: Its mid-p variant, which is less careful and, unlike the exact one, uses up its level (Fagerland,
            Lydersen and Laake 2013, doi:10.1186/1471-2288-13-91).
    """

    first_only: int
    second_only: int
    difference: float
    p: float
    mid_p: float


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Tests whether two classifiers have the same accuracy, from which images each has right, shape ``(images,)``."""
    right, other = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if right.shape != other.shape or right.ndim != 1 or not right.size:
        raise ValueError(f"two rows about the same images are needed, got {right.shape} and {other.shape}")
    b, c = int((right & ~other).sum()), int((~right & other).sum())
    fewer = min(b, c)
    point = float(stats.binom.pmf(fewer, b + c, 0.5))
    p = min(1.0, 2 * float(stats.binom.cdf(fewer, b + c, 0.5)))
    mid_p = 1 - point / 2 if b == c else p - point
    return McNemar(b, c, (b - c) / right.size, p, mid_p)


# ------------------------------------------------------------------ power


def images_needed(
    difference: float,
    *,
    accuracy: float | None = None,
    discordant: float | None = None,
    alpha: float = SIGNIFICANCE,
    power: float = POWER,
) -> int:
    """Test images that show a difference in accuracy of two classifiers, in this share of cases.

    Args:
        difference: In accuracy, 0 to 1 (points / 100).
        accuracy: Mean accuracy of the two: *unpaired*, each on images of its own, as many (the test of two
            proportions; Fleiss, Levin and Paik 2003, section 4.2, without continuity correction).
        discordant: Share of images that one of the two alone has right: *paired*, on the same images, by McNemar's
            test (Miettinen 1968; Connor 1987, doi:10.2307/2531961). At least `difference`. Two classifiers of
            accuracy a that err independently have 2a(1 - a), and two seeds of one recipe usually less.
        alpha: Two-sided, after any adjustment.

    Returns:
        Images of each classifier's test set.

    Raises:
        ValueError: Not one of `accuracy` and `discordant`, or a number out of its range.
    """
    sure, likely = -float(special.ndtri(alpha / 2)), float(special.ndtri(power))
    none, there = _deviations(difference, accuracy, discordant)
    return math.ceil(((sure * none + likely * there) / difference) ** 2)


def smallest_difference(
    images: int,
    *,
    accuracy: float | None = None,
    discordant: float | None = None,
    alpha: float = SIGNIFICANCE,
    power: float = POWER,
) -> float:
    """The smallest difference in accuracy that this many test images find; arguments and formulae of `images_needed`.

    Returns:
        A difference between 0 and 1; NaN where even the largest possible one is not found.
    """
    sure, likely = -float(special.ndtri(alpha / 2)), float(special.ndtri(power))

    def beyond(difference: float) -> float:
        none, there = _deviations(difference, accuracy, discordant)
        return difference * math.sqrt(images) - sure * none - likely * there

    most = discordant if discordant is not None else 2 * min(accuracy or 0.0, 1 - (accuracy or 0.0))
    least = 1e-9
    _deviations(least, accuracy, discordant)
    return float(optimize.brentq(beyond, least, most)) if beyond(most) > 0 else math.nan


def _deviations(difference: float, accuracy: float | None, discordant: float | None) -> tuple[float, float]:
    """Standard deviations of an image's (pair's) difference, if there is none and if it is this one."""
    if (accuracy is None) == (discordant is None):
        raise ValueError("either the mean accuracy (unpaired) or the discordant share (paired) is needed")
    if discordant is not None:
        if not 0 < difference <= discordant <= 1:
            raise ValueError(
                f"0 < difference <= discordant <= 1 is needed, got {difference:g} and {discordant:g}"
            )
        return math.sqrt(discordant), math.sqrt(max(0.0, discordant - difference**2))
    assert accuracy is not None
    high, low = accuracy + difference / 2, accuracy - difference / 2
    if not (difference > 0 and low > -1e-12 and high < 1 + 1e-12):
        raise ValueError(f"accuracies between 0 and 1 are needed, got {low:g} and {high:g}")
    apart = high * (1 - high) + low * (1 - low)
    return math.sqrt(2 * accuracy * (1 - accuracy)), math.sqrt(max(0.0, apart))
