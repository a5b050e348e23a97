"""Statistics of a comparison: pure functions on arrays; every random draw takes an explicit generator.

The vocabulary is that of Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical
Precipice" (IQM, probability of improvement, bootstrap intervals). What differs: subjects are a *sample* of what
could be taught, not a fixed list of tasks, so that the bootstrap resamples subjects first and runs within a subject
second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Direction = Literal["max", "min"]

RESAMPLES = 10_000
LEVEL = 0.95
_EXACT_UP_TO = 16  # pairs; 2**16 sign patterns are enumerated, more are sampled
_CHUNK = 4_000_000  # numbers held at once while resampling


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        value: Mean over subjects of the means within a subject (None without data): every subject weighs the same.
        low, high: Interval of nominal coverage `level`; None where nothing can be said (fewer than two runs).
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
        return half if half > 1e-12 * max(abs(self.low), abs(self.high)) else 0.0


def groups_of(values: ArrayLike, clusters: Sequence[Hashable] | None = None) -> list[Floats]:
    """Returns the finite values of each cluster (subject), sorted by cluster; without clusters all are one group."""
    array = np.asarray(values, dtype=float).ravel()
    labels = list(clusters) if clusters is not None else [0] * array.size
    if len(labels) != array.size:
        raise ValueError(f"one cluster label a value: {array.size} values, {len(labels)} labels")
    finite = np.isfinite(array)
    names = sorted({label for label, keep in zip(labels, finite, strict=True) if keep}, key=str)
    return [array[[k for k, label in enumerate(labels) if label == name and finite[k]]] for name in names]


def bootstrap_means(groups: Sequence[Floats], rng: np.random.Generator, resamples: int = RESAMPLES) -> Floats:
    """Two-level bootstrap of the mean of group means, shape ``(resamples,)``.

    Draws groups with replacement, then values with replacement within each drawn group. With one group only its
    values are resampled; with one value a group this is the ordinary bootstrap.
    """
    count = len(groups)
    sizes = np.array([group.size for group in groups])
    width = int(sizes.max())
    padded = np.zeros((count, width))
    for row, group in zip(padded, groups, strict=True):
        row[: group.size] = group
    means = np.empty(resamples)
    step = max(1, _CHUNK // (count * width))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        chosen = rng.integers(0, count, (size, count)) if count > 1 else np.zeros((size, 1), dtype=int)
        chosen_sizes = sizes[chosen][..., None]
        inner = (rng.random((size, count, width)) * chosen_sizes).astype(int)
        drawn = padded[chosen[..., None], inner]
        used = np.arange(width) < chosen_sizes
        means[start : start + size] = ((drawn * used).sum(-1) / chosen_sizes[..., 0]).mean(-1)
    return means


def expanded_level(level: float, n: int) -> float:
    """Coverage to ask of a percentile bootstrap over `n` units so that it has about `level` on small samples.

    Hesterberg (2015), "What Teachers Should Know About the Bootstrap", section 3.4 (expanded percentile interval):
    the bootstrap's variance is too small by (n - 1) / n and its tails are normal rather than Student's. Returns 1.0
    (the full range of the resamples) where the correction asks for more than the resamples hold.
    """
    if n < 2:
        raise ValueError(f"an interval needs at least two units, got {n}")
    quantile = stats.t.ppf((1 + level) / 2, n - 1) * math.sqrt(n / (n - 1))
    return float(1 - 2 * stats.norm.sf(quantile))


def coverage_bound(n: int) -> float:
    """Most that an interval within the range of `n` units can cover: 1 - 2^(1 - n), exactly for a median.

    Two subjects: 50 %; five: 94 %; six: 97 %. This is why a study on two subjects must say so.
    """
    return 0.0 if n < 1 else 1 - 2.0 ** (1 - n)


def mean_interval(
    values: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    rng: np.random.Generator,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    expand: bool = True,
) -> Estimate:
    """Mean over subjects with a two-level percentile bootstrap interval.

    Args:
        values: One number a run; NaN and infinities are left out (and not counted in `n`).
        clusters: Subject of each run. None: the runs are independent.
        rng: The generator of the resamples.
        level: Nominal coverage.
        resamples: Number of bootstrap resamples.
        expand: Correct the percentile interval for small samples (`expanded_level`), by the number of subjects, or
            of runs where all are of one subject; the interval then speaks of that subject only.

    Returns:
        The estimate. One run gives a value without an interval; no run gives a value of None. With few subjects the
        interval degenerates to the range of what was seen; where subjects differ more than seeds it covers no more
        than `coverage_bound(n_subjects)`.
    """
    groups = groups_of(values, clusters)
    n, n_subjects = sum(group.size for group in groups), len(groups)
    if clusters is None:
        groups = [np.array([value]) for group in groups for value in group]
    if n == 0:
        return Estimate(None, level=level)
    value = float(np.mean([group.mean() for group in groups]))
    if n == 1:
        return Estimate(value, n=1, n_subjects=1, level=level)
    units = len(groups) if len(groups) > 1 else n
    asked = expanded_level(level, units) if expand else level
    means = bootstrap_means(groups, rng, resamples)
    low, high = np.quantile(means, [(1 - asked) / 2, (1 + asked) / 2])
    return Estimate(value, float(low), float(high), n, n_subjects, level)


def iqm(values: ArrayLike) -> float | None:
    """Interquartile mean: the mean without the lowest and the highest quarter (whole numbers of values, as scipy)."""
    array = np.asarray(values, dtype=float).ravel()
    array = array[np.isfinite(array)]
    return float(stats.trim_mean(array, 0.25)) if array.size else None


def bootstrap_statistic(
    groups: Sequence[Floats],
    statistic: Callable[[Floats], float],
    rng: np.random.Generator,
    resamples: int = 2_000,
) -> Floats:
    """Two-level bootstrap of any statistic of the pooled values, shape ``(resamples,)``."""
    found = np.empty(resamples)
    for k in range(resamples):
        chosen = rng.integers(0, len(groups), len(groups)) if len(groups) > 1 else np.zeros(1, dtype=int)
        found[k] = statistic(np.concatenate([rng.choice(groups[g], groups[g].size) for g in chosen.tolist()]))
    return found


def sign_flip_test(
    differences: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    rng: np.random.Generator,
    samples: int = 100_000,
) -> float | None:
    """Two-sided p of "the two arms are exchangeable in every pair", by flipping the signs of differences.

    Exact (all 2^n patterns) up to 16 units, otherwise `samples` random patterns with the observed one added, so
    that p is never 0. With `clusters`, all differences of a cluster flip together (the null then speaks of
    subjects). Returns None without data. The smallest p that n units can give is 2^(1 - n).
    """
    groups = groups_of(differences, clusters)
    units = (
        np.concatenate([*groups, []]) if clusters is None else np.array([group.mean() for group in groups])
    )
    n = units.size
    if n == 0:
        return None
    observed = abs(units.sum())
    tolerance = 1e-12 * max(1.0, float(np.abs(units).sum()))
    if n <= _EXACT_UP_TO:
        signs = np.array(list(product((1.0, -1.0), repeat=n)))
        return float(np.mean(np.abs(signs @ units) >= observed - tolerance))
    signs = rng.choice((1.0, -1.0), (samples, n))
    return float((1 + np.sum(np.abs(signs @ units) >= observed - tolerance)) / (samples + 1))


def wilcoxon_test(differences: ArrayLike) -> float | None:
    """Two-sided Wilcoxon signed-rank p of paired differences (zeros as Pratt); None without data."""
    array = np.asarray(differences, dtype=float).ravel()
    array = array[np.isfinite(array)]
    if array.size == 0:
        return None
    if not np.any(array):
        return 1.0
    method = "exact" if array.size <= 50 and len(np.unique(np.abs(array))) == array.size else "approx"
    return float(stats.wilcoxon(array, zero_method="pratt", method=method).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment (1979); None stays None and is not counted among the comparisons."""
    known = sorted((p, k) for k, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, k) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[k] = largest
    return adjusted


def probability_of_improvement(
    first: ArrayLike,
    second: ArrayLike,
    first_clusters: Sequence[Hashable] | None = None,
    second_clusters: Sequence[Hashable] | None = None,
) -> float | None:
    """Chance that a run of `first` exceeds a run of `second` on the same subject, mean over common subjects; ties
    half.
    """

    def by_name(values: ArrayLike, clusters: Sequence[Hashable] | None) -> dict[Hashable, Floats]:
        array = np.asarray(values, dtype=float).ravel()
        labels = np.array(list(clusters) if clusters is not None else [0] * array.size, dtype=object)
        return {name: array[(labels == name) & np.isfinite(array)] for name in dict.fromkeys(labels)}

    one, two = by_name(first, first_clusters), by_name(second, second_clusters)
    chances = []
    for name in one:
        if name in two and one[name].size and two[name].size:
            difference = one[name][:, None] - two[name][None, :]
            chances.append(float(np.mean((difference > 0) + 0.5 * (difference == 0))))
    return float(np.mean(chances)) if chances else None


def _to_minimise(points: ArrayLike, directions: Sequence[Direction]) -> Floats:
    array = np.asarray(points, dtype=float).reshape(-1, len(directions))
    return np.asarray(array * np.array([-1.0 if direction == "max" else 1.0 for direction in directions]))


def pareto_front(points: ArrayLike, directions: Sequence[Direction]) -> NDArray[np.bool_]:
    """Which of the points, shape ``(n, d)``, no other dominates; equal points are all on the front, NaN never."""
    array = _to_minimise(points, directions)
    known = np.isfinite(array).all(axis=1)
    front = np.array(known, dtype=np.bool_)
    for k in np.flatnonzero(known):
        others = array[known]
        no_worse = (others <= array[k]).all(axis=1)
        better = (others < array[k]).any(axis=1)
        front[k] = not np.any(no_worse & better)
    return np.asarray(front, dtype=np.bool_)


def hypervolume_2d(points: ArrayLike, reference: Sequence[float], directions: Sequence[Direction]) -> float:
    """Area that the points dominate up to the reference point; points beyond the reference add nothing."""
    corner = _to_minimise([reference], directions)[0]
    array = _to_minimise(points, directions)
    array = array[np.isfinite(array).all(axis=1) & (array < corner).all(axis=1)]
    area, height = 0.0, float(corner[1])
    for x, y in array[np.lexsort((array[:, 1], array[:, 0]))]:
        if y < height:
            area += (corner[0] - x) * (height - y)
            height = float(y)
    return float(area)


def normal_interval(mean: float, deviation: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Student's interval of a mean of `n` normal values with sample standard deviation `deviation`."""
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * deviation / math.sqrt(n)
    return mean - half, mean + half


def normal_probability_of_improvement(
    mean: float, deviation: float, mean2: float, deviation2: float
) -> float:
    """Chance that a draw of N(mean, deviation^2) exceeds one of N(mean2, deviation2^2)."""
    return float(stats.norm.cdf((mean - mean2) / math.hypot(deviation, deviation2)))
