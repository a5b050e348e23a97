"""Everything that the report says, computed once as plain values; tables, figures and words only draw it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import pandas as pd

from study.report.budgets import Budget, Exclusion, budget_of, chosen_configurations, find_exclusions
from study.report.choice import Choice, compare_choices
from study.report.comparisons import (
    MARGIN,
    Comparison,
    Settings,
    compare,
    compare_families,
    planning_deviation,
)
from study.report.factor_effects import FactorEffect, crossed_arms, effect_of, factor_effects
from study.report.factors import differing_fields
from study.report.measures import (
    ALL,
    CLASS_KEPT,
    FIDELITIES,
    SCALED,
    SUBJECT_PROMPT,
    TOTAL_FLOPS,
    TOTAL_SECONDS,
    TUNED_FLOPS,
    TUNED_SECONDS,
    measure,
)
from study.report.pairing import Values, values_of
from study.report.prepared import Rows, distinct, section, value_or_none
from study.report.ranking import Standing, standings
from study.spec.crossing import Crossed
from study.statistics.paired import Estimate, estimate_of, iqm
from study.statistics.power import MIN_SUBJECTS, smallest_effect
from trainables.evaluation.metrics_table import QUALITY
from trainables.methods.registry import BASE

_SCHEDULE_WORDS = re.compile(r"(?i)(?<![a-z])(cosine|constant|cos|const)(?![a-z])")
DEFAULTS = Settings()


@dataclass(frozen=True)
class ArmResult:
    """One arm over its complete confirm runs.

    Attributes:
        estimates: By name of the measure; measures without any value have an Estimate of None.
        n: Complete confirm runs; of the untrained model, whose seeds differ in evaluation noise only and are averaged,
            its subjects.
        subjects, seeds: What they were run on.
        quality_iqm: Interquartile mean of the primary measure, beside its mean.
    """

    arm: str
    method: str
    estimates: dict[str, Estimate]
    n: int
    subjects: tuple[str, ...]
    seeds: tuple[int, ...]
    quality_iqm: float | None

    @property
    def is_base(self) -> bool:
        """Whether this arm is the untrained model."""
        return self.method == BASE

    @property
    def n_text(self) -> str:
        """E.g. "4 (2 × 2)": runs, and subjects by seeds where every pair was run; of the base "2 (2 × 2)"."""
        if self.is_base or self.n == len(self.subjects) * len(self.seeds):
            return f"{self.n} ({len(self.subjects)} × {len(self.seeds)})"
        return str(self.n)


@dataclass(frozen=True)
class ScheduleEffect:
    """A cosine arm against the constant arm of the same method, for several measures.

    The study fixes nothing but the schedule differently, but each arm was tuned by its own search, so that what is
    compared is two tuned configurations.

    Attributes:
        differs: Fields in which these differ beside the schedule.
        searched: Whether the arms were searched.
    """

    method: str
    cosine: str
    constant: str
    comparisons: dict[str, Comparison]
    differs: tuple[str, ...] = ()
    searched: bool = False


@dataclass(frozen=True)
class Analysis:
    """All that is computed from the confirm runs and the accounts.

    Attributes:
        primary: The measure that arms are ranked by: quality, or subject fidelity where no run has a quality.
        axes: The measures behind it that are known: subject, prompt (scaled where they are) and class kept.
        cost: The time that counts: training with class images, or training alone where class images are unknown.
        choice: The ranking under quality and under subject and prompt alone; None where one of them is unknown.
        pairs_subject_prompt: All pairs of trained arms by subject and prompt alone, likewise.
        margin: Differences of the primary measure within it count as equivalent; None where that is not quality, of
            which the study file's margin is.
        best: The arm with the highest mean; the base model only where nothing else has a result.
        pairs: All pairs of trained arms, from which every verdict is read off: Holm's adjustment over all of them, who
            share its level with `factor_effects` where there are any.
        against_base: Every trained arm against the untrained model, in subject and in prompt fidelity: a family of
            its own.
        standings: How stable the order of the trained arms is.
        factor_effects: What each crossed factor does, over all arms.
        detectable: Smallest difference that a study of this size finds with 80 % power, for the spread that it saw.
    """

    settings: Settings
    primary: str
    axes: tuple[str, ...]
    cost: str
    margin: float | None
    arms: tuple[ArmResult, ...]
    best: str | None
    pairs: tuple[Comparison, ...]
    choice: Choice | None
    pairs_subject_prompt: tuple[Comparison, ...]
    against_base: tuple[Comparison, ...]
    standings: tuple[Standing, ...]
    detectable: float | None
    schedules: tuple[ScheduleEffect, ...]
    factor_effects: tuple[FactorEffect, ...]
    budgets: tuple[Budget, ...]
    exclusions: tuple[Exclusion, ...]
    chosen: dict[str, dict[str, Any]]

    @property
    def flops(self) -> str:
        """The FLOPs that count beside `cost`: with class images, or training alone where those are unknown."""
        return _flops_beside(self.cost)

    @property
    def family(self) -> str:
        """What Holm's adjustment of the primary measure is over, e.g. "all pairs of trained arms"."""
        shared = ", and the factors, half of the level each" if self.factor_effects else ""
        return f"all pairs of trained arms{shared}"

    @property
    def subjects(self) -> int:
        """On how many subjects the best-covered pair of trained arms is compared."""
        return max((c.difference.n_subjects for c in self.pairs), default=0)

    def arm(self, name: str) -> ArmResult:
        """The result of one arm."""
        return next(result for result in self.arms if result.arm == name)

    @property
    def against_best(self) -> tuple[Comparison, ...]:
        """The best arm against every other trained arm, read off from the family of all pairs."""
        if self.best is None:
            return ()
        return tuple(
            c if c.first == self.best else c.reversed()
            for c in self.pairs
            if self.best in (c.first, c.second)
        )


def _flops_beside(cost: str) -> str:
    return TOTAL_FLOPS if cost == TOTAL_SECONDS else "train_flops"


def analyse(rows: Rows, settings: Settings = DEFAULTS) -> Analysis:
    """Computes the comparison. The search's own scores never enter it."""
    # Few columns: selecting rows of a wide frame is slow.
    confirm = rows.confirm[["arm", "subject", "seed", *ALL]]
    primary = QUALITY
    if not confirm[QUALITY].notna().any() and confirm["subject_fidelity"].notna().any():
        primary = "subject_fidelity"
    tables = {name: values_of(confirm, name) for name in ALL}
    budgets = tuple(budget_of(rows, arm) for arm in rows.arms)
    arms = tuple(_arm_result(rows, confirm, tables, budget, primary, settings) for budget in budgets)
    sign = measure(primary).sign
    scored = [result for result in arms if result.estimates[primary].value is not None]
    trained = [result for result in scored if not result.is_base]
    ranked = sorted(trained or scored, key=lambda r: -sign * (r.estimates[primary].value or 0.0))
    names = [result.arm for result in trained]
    stated = settings.margin if settings.margin is not None else margin_of(rows)
    margin = stated if primary == QUALITY else None  # it is one of quality
    known = {name for name in ALL if any(result.estimates[name].value is not None for result in arms)}
    axes = (*(SCALED if known >= set(SCALED) else FIDELITIES), *({CLASS_KEPT} & known))
    crossed = crossed_arms(rows)
    pairs, effects = _pairs_and_effects(tables[primary], names, crossed, margin, settings)
    compared: dict[str, tuple[Comparison, ...]] = {primary: effects}
    blind: tuple[Comparison, ...] = ()
    if primary == QUALITY and tables[SUBJECT_PROMPT].arms:  # unknown in older data
        blind, compared[SUBJECT_PROMPT] = _pairs_and_effects(
            tables[SUBJECT_PROMPT], names, crossed, margin, settings
        )
    paid = any(result.estimates[TOTAL_SECONDS].value is not None for result in trained)
    cost = TOTAL_SECONDS if paid else "train_seconds"
    compared |= {
        name: compare([effect_of(tables[name], one) for one in crossed], None, settings)
        for name in (*axes, cost, _flops_beside(cost))
        if tables[name].arms and name not in compared
    }
    choice = compare_choices({result.arm: result.estimates for result in trained}, pairs, blind)
    return Analysis(
        settings=settings,
        primary=primary,
        axes=axes,
        cost=cost,
        margin=margin,
        arms=arms,
        best=ranked[0].arm if ranked else None,
        pairs=pairs,
        choice=choice if primary == QUALITY else None,
        pairs_subject_prompt=blind,
        against_base=_against_base(tables, scored, settings),
        standings=standings(tables[primary], tables[cost], _search_seconds(budgets, cost), names, settings),
        detectable=detectable_difference(tables[primary], pairs),
        schedules=_schedules(rows, tables, pairs, (primary, *axes), settings),
        factor_effects=factor_effects(rows, crossed, compared),
        budgets=budgets,
        exclusions=find_exclusions(rows),
        chosen=chosen_configurations(rows),
    )


def _pairs_and_effects(
    values: Values,
    arms: Sequence[str],
    crossed: Sequence[Crossed],
    margin: float | None,
    settings: Settings,
) -> tuple[tuple[Comparison, ...], tuple[Comparison, ...]]:
    """All pairs of arms, and what the factors do, in one measure: two families that share one level."""
    pairs = [values.contrast(*pair) for pair in combinations(arms, 2)]
    found, effects = compare_families([pairs, [effect_of(values, one) for one in crossed]], margin, settings)
    return found, effects


def margin_of(rows: Rows) -> float:
    """The margin of equivalence that the study file states (`report.margin`), or its default."""
    found = value_or_none(section(rows.meta, "spec", "report").get("margin"))
    return found if found is not None and found > 0 else MARGIN


def _search_seconds(budgets: Sequence[Budget], cost: str) -> dict[str, float | None]:
    """Training time of one search of each arm, with class images where the runs' own time has them."""
    if cost == TOTAL_SECONDS:
        return {b.arm: b.search.seconds for b in budgets}
    spent = {b.arm: b.search_train_seconds if b.search_runs else 0.0 for b in budgets}
    return {b.arm: None if (s := spent[b.arm]) is None else s / b.searches for b in budgets}


def _arm_result(
    rows: Rows,
    confirm: pd.DataFrame,
    tables: dict[str, Values],
    budget: Budget,
    primary: str,
    settings: Settings,
) -> ArmResult:
    arm = budget.arm
    own = confirm[confirm["arm"] == arm]
    subjects = tuple(distinct(own["subject"]))
    method = rows.methods.get(arm, "")
    estimates = {}
    for name in ALL:
        if arm not in tables[name].arms:
            estimates[name] = Estimate(None, level=settings.level)
            continue
        units = tables[name].means([arm])[0]
        runs = None if method == BASE else int(own[name].notna().sum())
        estimates[name] = estimate_of(units, runs, level=settings.level)
    estimates[TUNED_SECONDS] = _raised(estimates[TOTAL_SECONDS], budget.search.seconds)
    estimates[TUNED_FLOPS] = _raised(estimates[TOTAL_FLOPS], budget.search.flops)
    return ArmResult(
        arm=arm,
        method=method,
        estimates=estimates,
        n=len(subjects) if method == BASE else len(own),
        subjects=subjects,
        seeds=tuple(int(seed) for seed in distinct(own["seed"])),
        quality_iqm=iqm(own[primary].to_numpy(dtype=float)),
    )


def _raised(estimate: Estimate, by: float | None) -> Estimate:
    """An estimate with a constant added; nothing where that is unknown."""
    if by is None or estimate.value is None:
        return Estimate(None, level=estimate.level)
    low, high = (None if limit is None else limit + by for limit in (estimate.low, estimate.high))
    return replace(estimate, value=estimate.value + by, low=low, high=high)


def _against_base(
    tables: dict[str, Values], scored: Sequence[ArmResult], settings: Settings
) -> tuple[Comparison, ...]:
    """Subject and prompt fidelity, rescaled and *not* clipped: a clipped quality can only be above the base's 0.

    Nothing is called equivalent to the base: the study file's margin is one of quality, which is neither.
    """
    base = next((result.arm for result in scored if result.is_base), None)
    if base is None:
        return ()
    names = SCALED if all(base in tables[name].arms for name in SCALED) else FIDELITIES
    contrasts = [
        tables[name].contrast(result.arm, base, seeded=False)
        for name in names
        for result in scored
        if not result.is_base
    ]
    return compare(contrasts, None, settings)


def detectable_difference(values: Values, pairs: Sequence[Comparison]) -> float | None:
    """Smallest difference found with 80 % power by as many subjects, with the spread over subjects that was seen."""
    subjects = max((c.difference.n_subjects for c in pairs), default=0)
    spread = planning_deviation([values.contrast(c.first, c.second).units for c in pairs]) if pairs else None
    if not spread or subjects < MIN_SUBJECTS:
        return None
    return spread * smallest_effect(subjects, pairs[0].alpha)


def paired(confirm: pd.DataFrame, first: str, second: str, name: str) -> tuple[float, ...]:
    """Differences (first - second) of the runs with the same subject and seed."""
    return values_of(confirm, name).contrast(first, second).values


def _schedules(
    rows: Rows,
    tables: dict[str, Values],
    pairs: Sequence[Comparison],
    names: Sequence[str],
    settings: Settings,
) -> tuple[ScheduleEffect, ...]:
    """The primary measure is read off from the family of all pairs; the others are families of their own."""
    known = {(c.first, c.second): c for c in (*pairs, *(c.reversed() for c in pairs))}
    found = [pair for pair in schedule_pairs(rows) if pair[1:] in known]
    primary = names[0]
    families = {primary: [known[pair[1:]] for pair in found]}
    for name in dict.fromkeys((*names, "train_seconds")):
        if name != primary:
            contrasts = [tables[name].contrast(cosine, constant) for _, cosine, constant in found]
            families[name] = list(compare(contrasts, None, settings))
    return tuple(
        ScheduleEffect(
            method,
            cosine,
            constant,
            {name: family[k] for name, family in families.items()},
            tuple(differing_fields(rows, cosine, constant)),
            bool(rows.search["arm"].isin((cosine, constant)).any()),
        )
        for k, (method, cosine, constant) in enumerate(found)
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
