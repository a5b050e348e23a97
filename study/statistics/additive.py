"""An additive surrogate within subjects: what each hyperparameter does to a score, by ridge regression on trials.

A subject's trials share a level of their own, so that scores and features are taken as differences from their
subject's mean. Intervals are those of the jackknife over subjects: of a mean over subjects it is Student's.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from study.statistics.paired import LEVEL, Estimate
from study.statistics.power import MIN_SUBJECTS

Floats = NDArray[np.float64]

# Relative to the number of trials and the features' own variance: the largest halves the effect of a feature that
# varies with no other. A larger one would make intervals narrow by making every effect small.
PENALTIES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
_SPREAD = 1e-12  # variance of a feature below which it does not vary


@dataclass(frozen=True)
class Additive:
    """A fitted surrogate.

    Attributes:
        weights: Of each feature, [k]: a prediction is a difference of features times them.
        penalty: Of the ridge.
        explained: Share of the variance within subjects that it predicts for a subject that was left out (a trial,
            where there is one subject): at most 1, and 0 or below where it is no better than each subject's mean.
        left_out: Weights without each subject in turn, with a penalty of their own, [subjects, k].
        subjects: In the order of `left_out`.
    """

    weights: Floats
    penalty: float
    explained: float
    left_out: Floats
    subjects: tuple[Hashable, ...]


def fit_additive(features: ArrayLike, scores: ArrayLike, subjects: Sequence[Hashable]) -> Additive:
    """Fits a surrogate; its penalty is the one of `PENALTIES` that predicts subjects (or trials of one) left out best.

    Args:
        features: Of each trial, [n, k].
        scores: Of each trial, [n].
        subjects: Of each trial.
    """
    x, y = np.asarray(features, dtype=float), np.asarray(scores, dtype=float)
    names = tuple(dict.fromkeys(subjects))
    labels = np.array([names.index(one) for one in subjects])
    units = [_sums(x[labels == k], y[labels == k]) for k in range(len(names))]
    if len(units) > 1:
        errors = [_left_out_error(units, penalty) for penalty in PENALTIES]
        total = sum(unit.scores for unit in units)
    else:
        errors = [_trials_error(x, y, penalty) for penalty in PENALTIES]
        total = _trials_error(x, y, np.inf)
    best = _best(errors)
    left_out = []
    for k in range(len(units)):
        others = units[:k] + units[k + 1 :]
        own = _best([_left_out_error(others, penalty) for penalty in PENALTIES]) if len(others) > 1 else best
        left_out.append(_weights(others, PENALTIES[own]) if others else np.full(x.shape[1], np.nan))
    return Additive(
        _weights(units, PENALTIES[best]),
        PENALTIES[best],
        1 - errors[best] / total if total > 0 else 0.0,
        np.array(left_out).reshape(len(names), x.shape[1]),
        names,
    )


def _best(errors: Sequence[float]) -> int:
    """The place of the smallest error; of equal ones the largest penalty."""
    return min(range(len(errors)), key=lambda k: (errors[k], -PENALTIES[k]))


@dataclass(frozen=True)
class _Sums:
    """Of one subject's trials, as differences from their mean: products of features, with scores, and of scores."""

    gram: Floats
    moments: Floats
    scores: float
    count: int


def _sums(x: Floats, y: Floats) -> _Sums:
    x, y = x - x.mean(axis=0), y - y.mean()
    return _Sums(x.T @ x, x.T @ y, float(y @ y), len(y))


def _weights(units: Sequence[_Sums], penalty: float) -> Floats:
    """Ridge regression within subjects, on features of unit variance; 0 for a feature that does not vary."""
    gram, moments = sum(unit.gram for unit in units), sum(unit.moments for unit in units)
    count = sum(unit.count for unit in units)
    assert isinstance(gram, np.ndarray)
    assert isinstance(moments, np.ndarray)
    found = np.zeros(len(moments))
    variance = np.diag(gram) / max(count, 1)
    varies = variance > _SPREAD
    if varies.any() and np.isfinite(penalty):
        ridge = gram[np.ix_(varies, varies)] + penalty * count * np.diag(variance[varies])
        found[varies] = np.linalg.solve(ridge, moments[varies])
    return found


def _left_out_error(units: Sequence[_Sums], penalty: float) -> float:
    """Sum of squared errors within each subject, predicted without it."""
    error = 0.0
    for k, unit in enumerate(units):
        weights = _weights([*units[:k], *units[k + 1 :]], penalty)
        error += unit.scores - 2 * float(weights @ unit.moments) + float(weights @ unit.gram @ weights)
    return error


def _trials_error(x: Floats, y: Floats, penalty: float) -> float:
    """Sum of squared errors of one subject's trials, each predicted without it."""
    error = 0.0
    for k in range(len(y)):
        rest = np.arange(len(y)) != k
        if rest.any():
            weights = _weights([_sums(x[rest], y[rest])], penalty)
            away = y[k] - y[rest].mean() - (x[k] - x[rest].mean(axis=0)) @ weights
            error += float(away) ** 2
    return error


def jackknife(value: float, left_out: ArrayLike, level: float = LEVEL) -> Estimate:
    """A statistic with the interval of the jackknife over subjects, from three subjects on.

    Args:
        value: Of all subjects.
        left_out: Without each subject in turn; NaN where that cannot be told, and then there is no interval.
    """
    others = np.asarray(left_out, dtype=float)
    count = others.size
    if count < MIN_SUBJECTS or not np.isfinite(others).all():
        return Estimate(value, n_subjects=count, level=level)
    error = np.sqrt((count - 1) / count * ((others - others.mean()) ** 2).sum())
    half = float(special.stdtrit(count - 1, (1 + level) / 2) * error)
    return Estimate(value, value - half, value + half, n_subjects=count, level=level)
