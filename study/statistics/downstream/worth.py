"""How many further real images a class would give the score that an arm has: its place on the curve of real subsets.

The curve is the isotonic regression of the subsets' mean scores, since more images of the same kind are taken to do no
harm (subsets whose order is reversed share their mean), with lines between the sizes in the logarithm of the number of
images. It is not extended: an arm may be worth more than the curve reaches.

The interval holds all numbers of images at which the arm and the curve do not differ (a test turned round, as
Fieller's intervals are): at each number the difference is a sum of tables of scores, so that test images, classifier
seeds and generator seeds are counted as in all other comparisons, paired. Which sizes share their mean is taken as
known. Percentiles of places found anew in each resample would inherit what percentile intervals of the differences
lack (`comparison`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, special

from study.statistics.downstream.comparison import ScoreTable, combined, seed_mean
from study.statistics.downstream.images import Floats, Unusable
from study.statistics.downstream.scores import direction_of
from study.statistics.paired import LEVEL

_STEPS = 10  # at which limits are looked for between two sizes
_ROUNDING = 1e-12  # of mean scores


@dataclass(frozen=True)
class Worth:
    """What an arm's further images are worth, in further real images a class.

    Attributes:
        value: 0: the score of its real images alone; negative: less than none, the score of fewer real images.
            Infinity: more than the curve reaches; minus infinity: less than its smallest subset.
        low, high: Interval of nominal coverage `level`, with infinities where it leaves the curve; NaN where the error
            is unknown (`seed_mean`). A low limit equal to `most` says "surely more than the curve reaches".
        least, most: The ends of the curve: smallest and largest subset less the arm's real images.
        level: Nominal coverage.
    """

    value: float
    low: float
    high: float
    least: float
    most: float
    level: float = LEVEL

    @property
    def surely_some(self) -> bool:
        """Whether the whole interval lies above none."""
        return self.low > 0

    @property
    def surely_none(self) -> bool:
        """Whether the whole interval lies below none: the further images did harm."""
        return self.high < 0


def worth_of(arm: ScoreTable, curve: Mapping[int, ScoreTable], real: int, level: float = LEVEL) -> Worth:
    """Places an arm on the curve of real subsets.

    Args:
        arm: Of an arm that was trained on `real` real images a class, and on further ones.
        curve: Of classifiers trained on so many real images a class, on the same test images, resamples and classifier
            seeds, without generator seeds. Where one subset of each size serves all seeds, the chance of choosing it
            is not in the interval.
        real: A class, between the curve's smallest and largest size.

    Raises:
        Unusable: Fewer than two sizes, `real` outside of them, or tables that do not fit together.
    """
    sizes = sorted(curve)
    problems = []
    if len(sizes) < 2 or sizes[0] < 1:
        problems.append(f"a curve needs at least two sizes, each of an image or more, got {sizes}")
    elif not sizes[0] <= real <= sizes[-1]:
        problems.append(f"{real} real images lie outside of the curve, {sizes[0]} to {sizes[-1]}")
    if any(table.generator_seeds for table in curve.values()):
        problems.append("subsets of real images have no generator seeds")
    if problems:
        raise Unusable(problems)
    arm, points = _paired(arm, [curve[size] for size in sizes])
    sign = direction_of(arm.score)
    means = np.array([float(point.values[0].mean()) for point in points])
    shares = pooling(sign * means)
    places = np.log(sizes)
    value = _place(sign * float(arm.values[0].mean()), sign * (shares @ means), places)

    smooth = np.tensordot(shares, np.stack([point.values for point in points]), 1)

    def away(place: float) -> tuple[float, float]:
        """The arm's lead over the curve at a logarithm of a number of images, and what chance explains of it."""
        last = min(int(np.searchsorted(places, place, side="right")), len(places) - 1)
        part = (place - places[last - 1]) / (places[last] - places[last - 1])
        lead = arm.values - (1 - part) * smooth[last - 1] - part * smooth[last]
        found = seed_mean(replace(arm, values=lead))
        return sign * found.mean, float(special.stdtrit(found.freedom, (1 + level) / 2)) * found.error

    low, high = _limits(away, places)
    value, low, high = (_further(place, real) for place in (value, low, high))
    return Worth(value, low, high, float(sizes[0] - real), float(sizes[-1] - real), level)


def pooling(means: Floats) -> Floats:
    """Isotonic regression of rising means as shares of them, ``(sizes, sizes)``: the curve is shares @ means."""
    blocks = optimize.isotonic_regression(means).blocks
    shares = np.zeros((means.size, means.size))
    for begin, end in itertools.pairwise(blocks):
        shares[begin:end, begin:end] = 1 / (end - begin)
    return shares


def _paired(arm: ScoreTable, points: list[ScoreTable]) -> tuple[ScoreTable, list[ScoreTable]]:
    """The tables with the seeds alone that all have."""
    nothing = [0.0] * len(points)
    arm = combined([arm, *points], [1, *nothing])
    seeds = arm.classifier_seeds
    columns = [[point.classifier_seeds.index(seed) for seed in seeds] for point in points]
    return arm, [
        ScoreTable(point.score, point.values[:, :, chosen], (), seeds, point.freedom)
        for point, chosen in zip(points, columns, strict=True)
    ]


def _place(score: float, curve: Floats, places: Floats) -> float:
    """Where a curve that never falls first reaches a score; infinite beyond its ends."""
    if score < curve[0] - _ROUNDING:
        return -math.inf
    reached = np.flatnonzero(curve >= score - _ROUNDING)
    if not reached.size:
        return math.inf
    k = int(reached[0])
    if k == 0:
        return float(places[0])
    part = min(1.0, (score - curve[k - 1]) / (curve[k] - curve[k - 1]))
    return float(places[k - 1] + part * (places[k] - places[k - 1]))


def _limits(away: Callable[[float], tuple[float, float]], places: Floats) -> tuple[float, float]:
    """The first place at which the arm is not shown to be ahead of the curve, and the last at which not behind it."""
    grid = np.unique(np.concatenate([np.linspace(a, b, _STEPS) for a, b in itertools.pairwise(places)]))
    lead, chance = np.array([away(place) for place in grid]).T
    if not np.isfinite(chance).all():
        return math.nan, math.nan

    def root(sign: int, k: int) -> float:
        def beyond(place: float) -> float:
            ahead, half = away(place)
            return sign * ahead - half

        return float(optimize.brentq(beyond, grid[k], grid[k + 1], xtol=1e-4))

    ahead, behind = lead > chance, -lead > chance
    low, high = -math.inf, math.inf
    if ahead.all():
        low = float(grid[-1])
    elif ahead[0]:
        low = root(1, int(np.flatnonzero(~ahead)[0]) - 1)
    if behind.all():
        high = float(grid[0])
    elif behind[-1]:
        high = root(-1, int(np.flatnonzero(~behind)[-1]))
    return low, high


def _further(place: float, real: int) -> float:
    """Images beyond the real ones, from a logarithm of all."""
    return math.exp(place) - real if math.isfinite(place) else place
