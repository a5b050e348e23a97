"""Statistics of a comparison, over subjects: pure functions on arrays; every random draw takes an explicit generator.

The unit is the subject. Runs of one subject are averaged first: other seeds and images of a subject say how well
*it* was learnt and are no further subjects. All functions of `units` work on the last axis, one number a subject,
and pass over NaN.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from study.statistics.power import MIN_SUBJECTS

Floats = NDArray[np.float64]
Direction = Literal["max", "min", "none"]
Outcome = Literal["better", "worse", "different", "equivalent", "not enough"]

RESAMPLES = 10_000
LEVEL = 0.95
BOOTSTRAP_FROM = 5  # subjects; with fewer, too many resamples hold one subject only and have no spread
_LARGE = 1_000.0  # of a t statistic
_ROUNDING = 1e-12  # spread below this share of the values is rounding


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        value: Mean over subjects of the means within a subject (None without data): every subject weighs the same.
        low, high: Interval of nominal coverage `level`; None where nothing can be said (fewer than three subjects).
        n: Number of runs.
        n_subjects: Number of subjects they are from.
        level: Nominal coverage.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    n_subjects: int = 0
    level: float = LEVEL

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval; 0 where it is no wider than the rounding of its limits."""
        if self.low is None or self.high is None:
            return None
        half = (self.high - self.low) / 2
        return half if half > _ROUNDING * max(abs(self.low), abs(self.high)) else 0.0

    def cut(self, least: float, most: float) -> Estimate:
        """The estimate with its interval cut at what is possible, which Student's interval does not know."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(least, self.low), high=min(most, self.high))


# ------------------------------------------------------------------ subjects


def groups_of(values: ArrayLike, clusters: Sequence[Hashable] | None = None) -> list[Floats]:
    """Returns the finite values of each cluster (subject), sorted by cluster; without clusters each is its own."""
    array = np.asarray(values, dtype=float).ravel()
    labels = list(clusters) if clusters is not None else list(range(array.size))
    if len(labels) != array.size:
        raise ValueError(f"one cluster label a value: {array.size} values, {len(labels)} labels")
    found: dict[Hashable, list[float]] = {}
    for label, value in zip(labels, array.tolist(), strict=True):
        if np.isfinite(value):
            found.setdefault(label, []).append(value)
    return [np.array(found[name]) for name in sorted(found, key=str)]


def mean_interval(
    values: ArrayLike, clusters: Sequence[Hashable] | None = None, *, level: float = LEVEL
) -> Estimate:
    """Mean over subjects with Student's interval on the subjects' means, from three subjects on.

    Args:
        values: One number a run; NaN and infinities are left out (and not counted in `n`).
        clusters: Subject of each run. None: each run is a subject of its own.
        level: Nominal coverage.
    """
    groups = groups_of(values, clusters)
    n = sum(group.size for group in groups)
    return estimate_of(np.array([group.mean() for group in groups]), n, level=level)


def estimate_of(units: ArrayLike, n: int | None = None, *, level: float = LEVEL) -> Estimate:
    """The estimate of a mean from one number a subject, shape ``(subjects,)``; `n`: runs behind them."""
    array = np.asarray(units, dtype=float)
    count = int(np.isfinite(array).sum())
    if count == 0:
        return Estimate(None, level=level)
    _, mean, _ = moments(array)
    low, high = t_interval(array, level)
    known = bool(np.isfinite(low))
    return Estimate(
        float(mean), float(low) if known else None, float(high) if known else None,
        count if n is None else n, count, level,
    )  # fmt: skip


def moments(units: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Number of subjects, mean (NaN without any) and standard deviation (NaN below two) along the last axis."""
    array = np.asarray(units, dtype=float)
    known = np.isfinite(array)
    count = known.sum(-1).astype(float)
    filled = np.where(known, array, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(-1) / count
        away = np.where(known, array - mean[..., None], 0.0)
        deviation = np.sqrt((away**2).sum(-1) / np.where(count > 1, count - 1, np.nan))
    largest = np.abs(filled).max(-1, initial=0.0)
    return count, mean, np.where(deviation <= _ROUNDING * largest, 0.0, deviation)


def t_interval(units: ArrayLike, level: float | Floats = LEVEL) -> tuple[Floats, Floats]:
    """Student's interval of the mean; NaN below three subjects, the mean itself where all subjects are equal."""
    count, mean, deviation = moments(units)
    enough = np.where(count >= MIN_SUBJECTS, count, np.nan)
    half = special.stdtrit(enough - 1, (1 + np.asarray(level)) / 2) * deviation / np.sqrt(enough)
    return mean - half, mean + half


def _one_sided(mean: Floats, deviation: Floats, count: Floats) -> Floats:
    """P(T >= t) of a mean above 0, NaN below three subjects; a mean without spread is certain."""
    enough = np.where(count >= MIN_SUBJECTS, count, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        statistic = mean / (deviation / np.sqrt(enough))
    statistic = np.where((mean == 0) & (deviation == 0), 0.0, statistic)
    return np.asarray(np.where(np.isnan(enough), np.nan, special.stdtr(enough - 1, -np.asarray(statistic))))


def t_test(units: ArrayLike) -> Floats:
    """Two-sided p of "the mean over subjects is 0" (Student's paired t test on differences)."""
    count, mean, deviation = moments(units)
    return np.minimum(1.0, 2 * _one_sided(np.abs(mean), deviation, count))


def equivalence_test(units: ArrayLike, margin: float) -> Floats:
    """p of "the mean lies outside -margin..margin": the larger of two one-sided t tests (Schuirmann 1987)."""
    count, mean, deviation = moments(units)
    return _one_sided(margin - np.abs(mean), deviation, count)


def holm(p_values: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Holm's step-down adjustment (1979) along the last axis; NaN stays NaN and is not counted.

    Args:
        weights: Shares of the level, above 0, shape ``(comparisons,)``: the weighted procedure of the same paper
            (section 3), in which what is rejected leaves its share to the others. None: equal shares.
    """
    p = np.asarray(p_values, dtype=float)
    shares = np.broadcast_to(1.0 if weights is None else np.asarray(weights, dtype=float), p.shape)
    order = np.argsort(p / shares, axis=-1, kind="stable")  # NaN last
    ordered, own = (np.take_along_axis(array, order, -1) for array in (p, shares))
    counted = np.where(np.isfinite(ordered), own, 0.0)
    left = np.flip(
        np.cumsum(np.flip(counted, -1), axis=-1), -1
    )  # the shares of this one and of those that follow
    stepped = np.maximum.accumulate(np.minimum(1.0, ordered * left / own), axis=-1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, stepped, -1)
    return adjusted


# ------------------------------------------------------------------ comparisons that share one level


@dataclass(frozen=True)
class Decisions:
    """What comparisons that share one level come to: arrays of shape ``(..., comparisons)``, NaN where it is unknown.

    Attributes:
        mean, low, high: Mean difference over subjects with its own 95 % interval.
        family_low, family_high: Intervals that hold all together with 95 % (Bonferroni). One without 0 is always
            established; Holm's test, which is stronger, may establish more.
        p, p_holm: Student's, two-sided, and adjusted over the family.
        p_equivalent: Of two one-sided tests against the margin, adjusted over the family; NaN without a margin.
    """

    mean: Floats
    low: Floats
    high: Floats
    family_low: Floats
    family_high: Floats
    p: Floats
    p_holm: Floats
    p_equivalent: Floats
    significance: float

    @property
    def equivalent(self) -> NDArray[np.bool_]:
        """Which differences are shown to lie within the margin; they count as equivalent, whatever their sign."""
        return np.asarray(self.p_equivalent < self.significance)

    @property
    def established(self) -> NDArray[np.bool_]:
        """Which differences are shown, and are not equivalent."""
        return np.asarray((self.p_holm < self.significance) & ~self.equivalent)

    def outcome(self, k: int, sign: float) -> Outcome:
        """The verdict on one comparison; `sign`: 1 where larger is better, -1 where smaller is, 0 for neither."""
        if self.equivalent[k]:
            return "equivalent"
        if not self.established[k]:
            return "not enough"
        ahead = sign * self.mean[k]
        return "better" if ahead > 0 else "worse" if ahead < 0 else "different"


def decide(
    units: ArrayLike,
    margin: float | None,
    *,
    weights: ArrayLike | None = None,
    level: float = LEVEL,
    significance: float = 1 - LEVEL,
) -> Decisions:
    """Decides comparisons that share one level from the subjects' differences, shape ``(..., comparisons, subjects)``.

    Args:
        margin: Differences within it are equivalent; None: equivalence is not asked.
        weights: Shares of the level, see `holm` and `shares_of`; None: equal shares.
    """
    array = np.asarray(units, dtype=float)
    _, mean, _ = moments(array)
    p = t_test(array)
    shares, alone = family_shares(p, weights)
    low, high = t_interval(array, level)
    family_low, family_high = t_interval(array, 1 - (1 - level) * alone)
    inside = np.full_like(p, np.nan) if margin is None else holm(equivalence_test(array, margin), shares)
    return Decisions(mean, low, high, family_low, family_high, p, holm(p, shares), inside, significance)


def family_shares(p: Floats, weights: ArrayLike | None) -> tuple[Floats, Floats]:
    """Shares of the level as given (equal ones for None), and of the comparisons that have a p alone, with sum 1."""
    shares = np.broadcast_to(1.0 if weights is None else np.asarray(weights, dtype=float), p.shape)
    total = np.where(np.isfinite(p), shares, 0.0).sum(-1, keepdims=True)
    return shares, np.divide(shares, total, out=np.ones_like(p), where=total > 0)


def shares_of(sizes: Sequence[int]) -> Floats:
    """Shares of one level for several families of questions: equal parts for the families, and within each of them.

    Few questions that a study was built to ask are so not drowned by many that it can also answer, and all of them
    together are false no more often than one family by itself.

    Args:
        sizes: Questions in each family; a family without any takes no part.

    Returns:
        The shares, shape ``(sum of sizes,)``, sum 1; empty without questions.
    """
    asked = [size for size in sizes if size]
    return (
        np.concatenate([np.full(size, 1 / (len(asked) * size)) for size in asked]) if asked else np.empty(0)
    )


# ------------------------------------------------------------------ beside the tests


def bootstrap_t_interval(
    units: ArrayLike, rng: np.random.Generator, *, level: float = LEVEL, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Bootstrap-t interval of the mean over subjects (Efron and Tibshirani 1993, section 12.5), from five on.

    Resamples subjects, and studentises each resample's mean by its own standard error: a check of Student's interval
    where subjects are skewed. Resamples without spread are left out.
    """
    array = np.asarray(units, dtype=float)
    array = array[np.isfinite(array)]
    count, mean, deviation = moments(array)
    if count < BOOTSTRAP_FROM or deviation == 0:
        return None
    drawn = array[rng.integers(0, array.size, (resamples, array.size))]
    _, means, deviations = moments(drawn)
    spread = deviations > 0
    found = (means[spread] - mean) / deviations[spread]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(mean - high * deviation), float(mean - low * deviation)


def effect_size(units: ArrayLike, *, level: float = LEVEL) -> Estimate:
    """Paired effect size d = mean / standard deviation of the subjects' differences, from three subjects on.

    The interval inverts the noncentral t distribution (Cumming and Finch 2001). None where all subjects are equal.
    """
    count, mean, deviation = moments(units)
    n = int(count)
    if n < MIN_SUBJECTS or deviation == 0:
        return Estimate(None, n=n, n_subjects=n, level=level)
    root = float(np.sqrt(n))
    statistic = float(mean / deviation) * root
    low, high = (_noncentrality(statistic, n - 1, (1 + side * level) / 2) / root for side in (1, -1))
    return Estimate(statistic / root, low, high, n, n, level)


def _noncentrality(statistic: float, freedom: int, probability: float) -> float:
    """The noncentrality at which a noncentral t lies below `statistic` with this probability."""
    if statistic < 0:
        return -_noncentrality(-statistic, freedom, 1 - probability)
    if statistic > _LARGE:  # the spread of the standard deviation is all that counts, and scipy's tails end
        return statistic * float(np.sqrt(stats.chi2.ppf(1 - probability, freedom) / freedom))

    def above(shift: float) -> float:
        # NaN is scipy's answer far out in a tail.
        value = float(special.nctdtr(freedom, shift, statistic))
        return (value if np.isfinite(value) else float(shift < statistic)) - probability

    low, high, step = statistic - 1.0, statistic + 1.0, 1.0
    while above(low) < 0:
        low, step = low - step, 2 * step
    step = 1.0
    while above(high) > 0:
        high, step = high + step, 2 * step
    return float(optimize.brentq(above, low, high))


def chance_interval(chances: ArrayLike, n: int | None = None, *, level: float = LEVEL) -> Estimate:
    """Mean of the subjects' chances (each in 0..1) with an interval, from three subjects on.

    Clopper and Pearson's (1934), with the sum of the chances as the number of successes: exact for 0 and 1, wider than
    needed between, and never of width 0 because all subjects agree.
    """
    array = np.asarray(chances, dtype=float)
    array = array[np.isfinite(array)]
    count, total = array.size, float(array.sum())
    if count == 0:
        return Estimate(None, level=level)
    runs = count if n is None else n
    if count < MIN_SUBJECTS:
        return Estimate(total / count, None, None, runs, count, level)
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, total, count - total + 1)) if total > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, total + 1, count - total)) if total < count else 1.0
    return Estimate(total / count, low, high, runs, count, level)


def subject_draws(subjects: int, rng: np.random.Generator, resamples: int) -> NDArray[np.int64]:
    """Numbers of the subjects in each bootstrap resample, shape ``(resamples, subjects)``."""
    return rng.integers(0, subjects, (resamples, subjects))


def resampled_means(units: Floats, draws: NDArray[np.int64]) -> Floats:
    """Mean of each row of `units`, shape ``(rows, subjects)``, in each resample: shape ``(rows, resamples)``."""
    return np.stack([moments(row[draws])[1] for row in units]) if len(units) else np.empty((0, len(draws)))


def iqm(values: ArrayLike) -> float | None:
    """Interquartile mean: the mean without the lowest and the highest quarter (whole numbers of values, as scipy)."""
    array = np.asarray(values, dtype=float).ravel()
    array = array[np.isfinite(array)]
    return float(stats.trim_mean(array, 0.25)) if array.size else None


def pareto_front(points: ArrayLike, directions: Sequence[Direction]) -> NDArray[np.bool_]:
    """Which of the points, shape ``(..., n, d)``, no other dominates; equal points are all on the front, NaN never.

    Raises:
        ValueError: A direction is "none": where neither way is better, nothing dominates.
    """
    if "none" in directions:
        raise ValueError(f"a front needs a better direction of every measure, got {', '.join(directions)}")
    signs = np.array([-1.0 if direction == "max" else 1.0 for direction in directions])
    array = np.asarray(points, dtype=float)
    array = array.reshape(*array.shape[:-2], -1, len(directions)) * signs
    known = np.isfinite(array).all(-1)
    others, own = array[..., None, :, :], array[..., :, None, :]
    beaten = ((others <= own).all(-1) & (others < own).any(-1)).any(-1)
    return np.asarray(known & ~beaten, dtype=np.bool_)
