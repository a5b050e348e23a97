"""One measure by arm, subject and seed, and the differences of two arms on the same subject and seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from study.report.measures import measure
from study.statistics.paired import Floats


@dataclass(frozen=True)
class Contrast:
    """Two arms on their common subjects; differences are first minus second.

    Attributes:
        units: Mean difference of each subject, shape ``(subjects,)``; NaN for subjects without a pair.
        pairs: Number of pairs behind them. values: their single differences.
        chances: Chance of each subject that a run of the first is better than one of the second; ties count half.
    """

    first: str
    second: str
    measure: str
    units: Floats
    values: tuple[float, ...]
    chances: Floats

    @property
    def pairs(self) -> int:
        """Number of pairs of runs."""
        return len(self.values)


@dataclass(frozen=True)
class Values:
    """One measure of the confirm runs, shape ``(arms, subjects, seeds)``; NaN where a run is missing."""

    measure: str
    arms: tuple[str, ...]
    subjects: tuple[str, ...]
    array: Floats

    def of(self, arm: str) -> Floats:
        """One arm's values, shape ``(subjects, seeds)``."""
        if arm not in self.arms:
            return np.full(self.array.shape[1:], np.nan)
        return self.array[self.arms.index(arm)]

    def means(self, arms: Sequence[str]) -> Floats:
        """Means within each subject, shape ``(arms, subjects)``."""
        if not arms:
            return np.empty((0, len(self.subjects)))
        return np.stack([mean_of_known(self.of(arm)) for arm in arms])

    def contrast(self, first: str, second: str, *, seeded: bool = True) -> Contrast:
        """Compares two arms.

        Args:
            seeded: Whether the seeds of both are paired; those of the untrained model are averaged, since they
                differ in evaluation noise only.
        """
        one, two = self.of(first), self.of(second)
        if not seeded:
            two = np.broadcast_to(mean_of_known(two)[:, None], one.shape)
        difference = one - two
        sign = measure(self.measure).sign  # NaN where neither way is better: no chance of being better then
        crossed = sign * (one[:, :, None] - two[:, None, :])
        chance = np.where(np.isfinite(crossed), (crossed > 0) + 0.5 * (crossed == 0), np.nan)
        found = difference[np.isfinite(difference)]
        return Contrast(
            first, second, self.measure, mean_of_known(difference), tuple(found.tolist()),
            mean_of_known(chance.reshape(len(chance), math.prod(chance.shape[1:]))),
        )  # fmt: skip


def values_of(confirm: pd.DataFrame, name: str) -> Values:
    """Puts one measure of the confirm runs (columns arm, subject, seed) in order; doubled runs are averaged."""
    known = confirm[["arm", "subject", "seed", name]]
    known = known[known[name].notna()]
    if known.empty:  # a measure that the study does not have, of which there are many
        return Values(name, (), (), np.empty((0, 0, 0)))
    arm, arms = pd.factorize(known["arm"], sort=True)
    subject, subjects = pd.factorize(known["subject"], sort=True)
    seed, seeds = pd.factorize(known["seed"], sort=True)
    total, count = (np.zeros((len(arms), len(subjects), len(seeds))) for _ in range(2))
    np.add.at(total, (arm, subject, seed), known[name].to_numpy(dtype=float))
    np.add.at(count, (arm, subject, seed), 1)
    array = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return Values(name, tuple(map(str, arms)), tuple(map(str, subjects)), array)


def mean_of_known(array: Floats) -> Floats:
    """Mean along the last axis over what is known; NaN where nothing is."""
    known = np.isfinite(array)
    count = known.sum(-1)
    total = np.where(known, array, 0.0).sum(-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
