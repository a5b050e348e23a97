"""Everything that the report says, computed once as plain values; tables, figures and words only draw it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from study.report.accounts import Budget, Exclusion, budget_of, chosen_configurations, find_exclusions
from study.report.measures import ALL, QUALITY, measure
from study.report.randomness import stream
from study.report.rows import BASE, Rows, distinct
from study.report.statistics import (
    RESAMPLES,
    Estimate,
    groups_of,
    holm,
    iqm,
    mean_interval,
    probability_of_improvement,
    sign_flip_test,
    wilcoxon_test,
)

SIGNIFICANCE = 0.05
_SCHEDULE_WORDS = re.compile(r"(?i)(?<![a-z])(cosine|constant|cos|const)(?![a-z])")


@dataclass(frozen=True)
class Settings:
    """Settings of the statistics, printed in the report and the manifest."""

    seed: int = 0
    level: float = 0.95
    resamples: int = RESAMPLES
    significance: float = SIGNIFICANCE


DEFAULTS = Settings()


@dataclass(frozen=True)
class ArmResult:
    """One arm over its complete confirm runs.

    Attributes:
        estimates: By name of the measure; measures without any value have an Estimate of None.
        n: Complete confirm runs; `planned` counts those that failed too.
        subjects, seeds: What they were run on.
        quality_iqm: Interquartile mean of the primary measure, beside its mean.
    """

    arm: str
    method: str
    estimates: dict[str, Estimate]
    n: int
    planned: int
    subjects: tuple[str, ...]
    seeds: tuple[int, ...]
    quality_iqm: float | None

    @property
    def is_base(self) -> bool:
        """Whether this arm is the untrained model."""
        return self.method == BASE

    @property
    def n_text(self) -> str:
        """E.g. "4 (2 × 2)": runs, and subjects by seeds where every pair was run."""
        if self.n == len(self.subjects) * len(self.seeds):
            return f"{self.n} ({len(self.subjects)} × {len(self.seeds)})"
        return str(self.n)


@dataclass(frozen=True)
class Comparison:
    """Two arms on the same subjects and seeds; differences are first minus second.

    Attributes:
        difference: Mean paired difference with its interval; `difference.n` is the number of pairs.
        p, p_wilcoxon: Two-sided; sign-flip over the pairs, and Wilcoxon's signed ranks.
        p_holm: `p`, adjusted over the family that the comparison belongs to.
        improvement: Probability that a run of the first beats one of the second on the same subject.
    """

    first: str
    second: str
    measure: str
    difference: Estimate
    p: float | None
    p_wilcoxon: float | None
    p_holm: float | None
    improvement: float | None

    @property
    def established(self) -> bool:
        """Whether a difference is shown: its interval excludes 0 and its adjusted p is below 5 %."""
        d = self.difference
        if d.low is None or d.high is None or self.p_holm is None:
            return False
        return (d.low > 0 or d.high < 0) and self.p_holm < SIGNIFICANCE


@dataclass(frozen=True)
class ScheduleEffect:
    """A cosine arm against the constant arm that differs from it in nothing but the schedule, for several measures."""

    method: str
    cosine: str
    constant: str
    comparisons: dict[str, Comparison]


@dataclass(frozen=True)
class Analysis:
    """All that is computed from the confirm runs and the accounts.

    Attributes:
        primary: The measure that arms are ranked by: quality, or subject fidelity where no run has a quality.
        best: The arm with the highest mean; the base model only where nothing else has a result.
        against_best: The best arm against every other trained arm. against_base: every trained arm against the
            untrained model. pairs: all pairs of trained arms. Each is one family of Holm's adjustment.
    """

    settings: Settings
    primary: str
    arms: tuple[ArmResult, ...]
    best: str | None
    against_best: tuple[Comparison, ...]
    against_base: tuple[Comparison, ...]
    pairs: tuple[Comparison, ...]
    schedules: tuple[ScheduleEffect, ...]
    budgets: tuple[Budget, ...]
    exclusions: tuple[Exclusion, ...]
    chosen: dict[str, dict[str, Any]]

    def arm(self, name: str) -> ArmResult:
        """The result of one arm."""
        return next(result for result in self.arms if result.arm == name)


def analyse(rows: Rows, settings: Settings = DEFAULTS) -> Analysis:
    """Computes the comparison. The search's own scores never enter it."""
    confirm = rows.confirm[
        ["arm", "subject", "seed", *ALL]
    ]  # few columns: selecting rows of a wide frame is slow
    primary = QUALITY
    if not confirm[QUALITY].notna().any() and confirm["subject_fidelity"].notna().any():
        primary = "subject_fidelity"
    arms = tuple(_arm_result(rows, confirm, arm, primary, settings) for arm in rows.arms)
    sign = 1 if measure(primary).direction == "max" else -1
    scored = [result for result in arms if result.estimates[primary].value is not None]
    trained = [result for result in scored if not result.is_base]
    sign = 1 if measure(primary).direction == "max" else -1
    ranked = sorted(trained or scored, key=lambda r: -sign * (r.estimates[primary].value or 0.0))
    best = ranked[0].arm if ranked else None
    names = [result.arm for result in trained]
    base = [result.arm for result in scored if result.is_base][:1]

    def compare(pairs: Sequence[tuple[str, str]]) -> tuple[Comparison, ...]:
        return compare_family(confirm, pairs, primary, settings)

    return Analysis(
        settings=settings,
        primary=primary,
        arms=arms,
        best=best,
        against_best=compare([(best, other) for other in names if best and other != best]),
        against_base=compare([(arm, base[0]) for arm in names if base]),
        pairs=compare(list(combinations(names, 2))),
        schedules=_schedules(rows, confirm, primary, settings),
        budgets=tuple(budget_of(rows.frame, arm) for arm in rows.arms),
        exclusions=find_exclusions(rows),
        chosen=chosen_configurations(rows),
    )


def _arm_result(rows: Rows, confirm: pd.DataFrame, arm: str, primary: str, settings: Settings) -> ArmResult:
    own = confirm[confirm["arm"] == arm]
    planned = rows.frame[(rows.frame["phase"] == "confirm") & (rows.frame["arm"] == arm)]
    estimates = {
        name: mean_interval(
            own[name].to_numpy(dtype=float),
            own["subject"].tolist(),
            rng=stream(settings.seed, "arm", arm, name),
            level=settings.level,
            resamples=settings.resamples,
        )
        for name in ALL
    }
    return ArmResult(
        arm=arm,
        method=rows.methods.get(arm, ""),
        estimates=estimates,
        n=len(own),
        planned=len(planned),
        subjects=tuple(distinct(own["subject"])),
        seeds=tuple(int(seed) for seed in distinct(own["seed"])),
        quality_iqm=iqm(own[primary].to_numpy(dtype=float)),
    )


def paired(confirm: pd.DataFrame, first: str, second: str, name: str) -> tuple[np.ndarray, list[str]]:
    """Differences (first - second) of the runs with the same subject and seed, with their subjects."""

    def by_pair(arm: str) -> pd.Series:
        own = confirm[(confirm["arm"] == arm) & confirm[name].notna()]
        return own.groupby(["subject", "seed"])[name].mean()

    difference = (by_pair(first) - by_pair(second)).dropna()
    return difference.to_numpy(dtype=float), [
        str(subject) for subject in difference.index.get_level_values(0)
    ]


def compare_family(
    confirm: pd.DataFrame, pairs: Sequence[tuple[str, str]], name: str, settings: Settings
) -> tuple[Comparison, ...]:
    """Compares pairs of arms on one measure, with Holm's adjustment over the whole family."""
    found = []
    confirm = confirm[["arm", "subject", "seed", name]]
    for first, second in pairs:
        values, subjects = paired(confirm, first, second, name)
        one, two = (confirm[confirm["arm"] == arm] for arm in (first, second))
        rng = stream(settings.seed, "pair", first, second, name)
        difference = mean_interval(
            values, subjects, rng=rng, level=settings.level, resamples=settings.resamples
        )
        enough = len(values) > 1
        chance = probability_of_improvement(
            one[name], two[name], one["subject"].tolist(), two["subject"].tolist()
        )
        if chance is not None and measure(name).direction == "min":
            chance = 1 - chance
        p = sign_flip_test(values, rng=rng) if enough else None
        found.append(
            Comparison(
                first, second, name, difference, p, wilcoxon_test(values) if enough else None, None, chance
            )
        )
    adjusted = holm([comparison.p for comparison in found])
    return tuple(
        Comparison(c.first, c.second, c.measure, c.difference, c.p, c.p_wilcoxon, p, c.improvement)
        for c, p in zip(found, adjusted, strict=True)
    )


def _schedules(
    rows: Rows, confirm: pd.DataFrame, primary: str, settings: Settings
) -> tuple[ScheduleEffect, ...]:
    pairs = schedule_pairs(rows)
    names = list(dict.fromkeys((primary, "subject_fidelity", "prompt_fidelity", "train_seconds")))
    families = {
        name: compare_family(confirm, [(cosine, constant) for _, cosine, constant in pairs], name, settings)
        for name in names
    }
    return tuple(
        ScheduleEffect(method, cosine, constant, {name: families[name][k] for name in names})
        for k, (method, cosine, constant) in enumerate(pairs)
    )


def schedule_pairs(rows: Rows) -> list[tuple[str, str, str]]:
    """Pairs (method, cosine arm, constant arm): same method, names equal but for the word of the schedule.

    Where names tell nothing, a method with exactly one arm of each schedule makes a pair. An arm whose schedule was
    itself searched belongs to no pair.
    """
    schedule_of: dict[str, str] = {}
    for arm in rows.trained_arms:
        own = rows.frame[rows.frame["arm"] == arm]["lr_scheduler"].dropna().astype(str).unique()
        if len(own) == 1 and own[0] in ("cosine", "constant"):
            schedule_of[arm] = own[0]

    def stem(arm: str) -> str:
        return re.sub(r"[-_. ]+", "-", _SCHEDULE_WORDS.sub("", arm)).strip("-")

    found = []
    for method in dict.fromkeys(rows.methods[arm] for arm in schedule_of):
        of_method = [arm for arm in schedule_of if rows.methods[arm] == method]
        cosine = [arm for arm in of_method if schedule_of[arm] == "cosine"]
        constant = [arm for arm in of_method if schedule_of[arm] == "constant"]
        pairs = [(a, b) for a in cosine for b in constant if stem(a) == stem(b)]
        if not pairs and len(cosine) == len(constant) == 1:
            pairs = [(cosine[0], constant[0])]
        found += [(method, a, b) for a, b in pairs]
    return found


def smallest_p(comparisons: Sequence[Comparison]) -> float | None:
    """Smallest p that the largest number of pairs among the comparisons could give, before adjustment."""
    pairs = max((c.difference.n for c in comparisons), default=0)
    return 2.0 ** (1 - pairs) if pairs > 1 else None


def spread_within(values: Sequence[float], subjects: Sequence[str]) -> float | None:
    """Pooled standard deviation of runs of one subject (over seeds), or None with one seed each."""
    groups = [g for g in groups_of(list(values), list(subjects)) if g.size > 1]
    if not groups:
        return None
    squares = sum(float(((g - g.mean()) ** 2).sum()) for g in groups)
    return float(np.sqrt(squares / sum(g.size - 1 for g in groups)))
