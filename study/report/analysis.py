"""Everything that the report says, computed once as plain values; tables, figures and words only draw it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from study.report.measures import ALL, QUALITY, measure
from study.report.randomness import stream
from study.report.rows import BASE, Rows, distinct, value_or_none
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
    """A cosine arm against the constant arm that differs from it in nothing but the schedule, for several
    measures.
    """

    method: str
    cosine: str
    constant: str
    comparisons: dict[str, Comparison]


@dataclass(frozen=True)
class Budget:
    """What an arm's tuning and its confirm runs took, failed and stopped runs included."""

    arm: str
    trials: int
    complete: int
    pruned: int
    failed: int
    search_runs: int
    search_train_seconds: float | None
    search_device_seconds: float | None
    confirm_runs: int
    confirm_device_seconds: float | None


@dataclass(frozen=True)
class Exclusion:
    """A run that no number of the comparison contains, and why."""

    run_key: str
    arm: str
    phase: str
    state: str
    reason: str


@dataclass(frozen=True)
class Analysis:
    """All that is computed from the confirm runs and the accounts."""

    settings: Settings
    primary: str
    arms: tuple[ArmResult, ...]
    best: str | None
    against_best: tuple[Comparison, ...]
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
    confirm = rows.confirm
    primary = QUALITY
    if not confirm[QUALITY].notna().any() and confirm["subject_fidelity"].notna().any():
        primary = "subject_fidelity"
    arms = tuple(_arm_result(rows, confirm, arm, primary, settings) for arm in rows.arms)
    sign = 1 if measure(primary).direction == "max" else -1
    scored = [(sign * result.estimates[primary].value, result) for result in arms if _has(result, primary)]  # type: ignore[operator]
    best = max(scored, key=lambda item: item[0])[1].arm if scored else None
    others = [result.arm for _, result in scored if result.arm != best]
    against_best = (
        compare_family(confirm, [(best, other) for other in others], primary, settings) if best else ()
    )
    trained = [result.arm for _, result in scored if not result.is_base]
    pairs = compare_family(confirm, list(combinations(trained, 2)), primary, settings)
    return Analysis(
        settings=settings,
        primary=primary,
        arms=arms,
        best=best,
        against_best=against_best,
        pairs=pairs,
        schedules=_schedules(rows, confirm, primary, settings),
        budgets=tuple(_budget(rows.frame, arm) for arm in rows.arms),
        exclusions=_exclusions(rows),
        chosen=chosen_configurations(rows),
    )


def _has(result: ArmResult, name: str) -> bool:
    return result.estimates[name].value is not None


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
    """Pairs (method, cosine arm, constant arm): same method, and names equal but for the word of the schedule.

    Where names tell nothing, a method with exactly one arm of each schedule makes a pair. An arm whose
    schedule was
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


def _total(frame: pd.DataFrame, name: str) -> float | None:
    return float(frame[name].sum()) if frame[name].notna().any() else None


def _budget(frame: pd.DataFrame, arm: str) -> Budget:
    own = frame[frame["arm"] == arm]
    search, confirm = own[own["phase"] == "search"], own[own["phase"] == "confirm"]
    states = search.groupby("trial")["state"].agg(set)
    failed = sum("FAIL" in s for s in states)
    pruned = sum("PRUNED" in s and "FAIL" not in s for s in states)
    complete = sum(s == {"COMPLETE"} for s in states)
    return Budget(
        arm=arm,
        trials=len(states),
        complete=complete,
        pruned=pruned,
        failed=failed,
        search_runs=len(search),
        search_train_seconds=_total(search, "train_seconds"),
        search_device_seconds=_total(search, "device_seconds"),
        confirm_runs=len(confirm),
        confirm_device_seconds=_total(confirm, "device_seconds"),
    )


def _exclusions(rows: Rows) -> tuple[Exclusion, ...]:
    found = []
    for row in rows.frame.to_dict("records"):
        state, key = row["state"], row["run_key"] or _key(row)
        message = " -- ".join(
            str(row[c]) for c in ("reason", "message") if isinstance(row[c], str) and row[c]
        )
        if state == "FAIL":
            found.append(Exclusion(key, row["arm"], row["phase"], state, message or "no reason was recorded"))
        elif state == "RUNNING":
            found.append(
                Exclusion(key, row["arm"], row["phase"], state, "had not ended when the report was made")
            )
        elif state == "PRUNED":
            reason = message or "stopped early by the scheduler, on less than the full budget"
            found.append(Exclusion(key, row["arm"], row["phase"], state, reason))
        elif row["phase"] == "confirm" and value_or_none(row[QUALITY]) is None:
            found.append(
                Exclusion(
                    key, row["arm"], row["phase"], state, "quality is missing; its other measures count"
                )
            )
    return tuple(found)


def _key(row: Mapping[Any, Any]) -> str:
    return f"{row['phase']}/{row['arm']}/{row['trial']:04d}-{row['subject']}-s{row['seed']}"


def chosen_configurations(rows: Rows) -> dict[str, dict[str, Any]]:
    """The configuration that each arm's confirm runs had: what is common to all of them."""
    found: dict[str, dict[str, Any]] = {}
    columns = ["trial", "learning_rate", "lr_scheduler", "max_train_steps"]
    columns += sorted(c for c in rows.frame.columns if c.startswith("param."))
    for arm in rows.trained_arms:
        own = rows.frame[(rows.frame["phase"] == "confirm") & (rows.frame["arm"] == arm)]
        if len(own):
            values = {c.removeprefix("param."): distinct(own[c].dropna()) for c in columns}
            found[arm] = {name: v[0] if len(v) == 1 else v for name, v in values.items() if v}
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
