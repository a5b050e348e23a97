"""What a reader of the verdict is to beware of: few subjects, uneven searches, runs that are missing."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

import pandas as pd

from study.report.analysis import Analysis, ArmResult
from study.report.budgets import Budget, choices_of, default_choices
from study.report.constraints import constraint_warnings
from study.report.design import confirm_design
from study.report.factors import factors_of
from study.report.formatting import fixed, listing, number, plural
from study.report.measures import QUALITY, measure
from study.report.prepared import Rows, section
from study.report.searches import repeats_of, search_warnings
from study.statistics.power import MIN_SUBJECTS, OWN_SPREAD_FROM, typical_deviation
from trainables.evaluation.checks import ENOUGH_IMAGES

SMALL_SEARCH = 8  # trials; below it a search draws at random after the default
EDGE = 0.95  # of the budget: a length that is as long as it may be
UNEVEN = 2.0  # times as many trials a dimension: what is still called alike
CLOCK = (
    1.25  # seconds a step of the same configuration: the largest over the smallest that is still called alike
)


def n_words(result: ArmResult) -> str:
    """E.g. "n = 4 runs on 2 subjects"; the untrained model's seeds are averaged, and n counts its subjects."""
    if result.is_base:
        return f"n = {plural(len(result.subjects), 'subject')}"
    return f"n = {plural(result.n, 'run')} on {plural(len(result.subjects), 'subject')}"


def warnings_of(rows: Rows, analysis: Analysis) -> list[str]:
    """Everything that a reader of the verdict is to beware of."""
    found = []
    best = analysis.arm(analysis.best) if analysis.best else None
    if best is not None and len(best.subjects) < MIN_SUBJECTS:
        found.append(
            f"No intervals: {n_words(best)}. Runs of one subject say nothing about subjects in general, and "
            f"{MIN_SUBJECTS} subjects are the fewest that an interval can be made from. Values are what was seen "
            "on these subjects, and no more."
        )
    found += uneven_budgets(analysis.budgets, {result.arm for result in analysis.arms if result.is_base})
    found += uneven_dimensions(analysis.budgets)
    found += search_warnings(rows)
    found += _small_searches(rows, analysis)
    found += _at_the_edge(rows, analysis)
    found += constraint_warnings(rows)
    found += _incomplete(analysis)
    uneven = {result.n for result in analysis.arms if result.n and not result.is_base}
    if len(uneven) > 1:
        found.append(
            "Arms have different numbers of complete confirm runs; paired comparisons use common pairs only."
        )
    found += reckoned_words(analysis)
    found += _shared_searches(rows, best)
    found += _mixed_factors(rows, analysis)
    found += _few_images(rows)
    found += _uneven_clocks(rows)
    if "peak_memory_kind" in rows.confirm and (rows.confirm["peak_memory_kind"] == "resident_set").any():
        found.append(
            "Peak memory is the resident set of a worker on a CPU, which holds the base model and libraries "
            "too; it tells little "
            "of memory on a GPU."
        )
    return found


def spread_words(analysis: Analysis) -> str:
    """The spread over subjects that numbers of subjects are reckoned with, e.g. "the spread that it showed"."""
    pair = max(analysis.pairs, key=lambda c: c.difference.n_subjects, default=None)
    if pair is None or pair.difference.n_subjects >= OWN_SPREAD_FROM:
        return "the spread that it showed"
    few = f"since fewer than {OWN_SPREAD_FROM} subjects show little of it"
    if analysis.primary != QUALITY:
        return f"the spread of all pairs together, {few}"
    seeds = round(pair.difference.n / max(1, pair.difference.n_subjects))
    usual = f"(standard deviation {fixed(typical_deviation(seeds), 2)})"
    if pair.difference.n_subjects < 2:
        return f"the usual spread {usual}, since one subject shows none"
    return f"the larger of two spreads, that of all pairs together and the usual one {usual}, {few}"


def reckoned_words(analysis: Analysis) -> list[str]:
    """What numbers of subjects that would decide a pair rest on."""
    if not any(c.needed is not None for c in analysis.against_best):
        return []
    return [
        "Numbers of subjects that would decide a pair are no forecast. They are reckoned for 80 % power, with the "
        f"difference as it was seen and {spread_words(analysis)}. The lead of the best arm was picked as the largest, "
        "and such a lead is too large on average; if the true one is smaller, it takes more subjects."
    ]


def _shared_searches(rows: Rows, best: ArmResult | None) -> list[str]:
    """What intervals, or values without any, hold of the search's own chance: all of it only with a search for each
    subject.
    """
    searches, subjects = repeats_of(rows), len(best.subjects) if best is not None else 0
    if not subjects or not len(rows.search) or searches >= subjects:
        return []
    what = "intervals and verdicts" if subjects >= MIN_SUBJECTS else "values"
    if searches == 1:
        return [
            f"Each arm was searched once: {what} are those of one tuned configuration of each arm, and "
            "the search's own chance is not in them."
        ]
    return [
        f"Each arm was searched {searches} times for {subjects} subjects, and subjects that share a choice share its "
        f"luck: {what} are those of the chosen configurations, and hold little of the search's own "
        "chance. With a search for each subject (search.repeats) they hold all of it."
    ]


def _uneven_clocks(rows: Rows) -> list[str]:
    """Whether runs of one arm with the same configuration took unlike times a step."""
    runs = rows.frame[rows.frame["state"] == "COMPLETE"]
    steps = (
        runs["train_steps"].fillna(pd.to_numeric(runs["max_train_steps"], errors="coerce")).astype("float64")
    )
    pace = (runs["train_seconds"] / steps.where(steps > 0)).dropna()
    pace = pace[pace > 0]
    groups = pace.groupby([runs.loc[pace.index, "arm"], runs.loc[pace.index, "trial"]])
    ratio = (groups.max() / groups.min()).max() if len(pace) else 1.0
    if ratio <= CLOCK:
        return []
    return [
        f"Runs of one configuration differ by a factor of up to {number(float(ratio), digits=2)} in seconds a step: "
        "wall times were taken beside other runs on the machine. FLOPs do not depend on it."
    ]


def _mixed_factors(rows: Rows, analysis: Analysis) -> list[str]:
    """Whether the two arms with the highest means differ in more than one factor."""
    sign = measure(analysis.primary).sign
    known = [r for r in analysis.arms if not r.is_base and r.estimates[analysis.primary].value is not None]
    first_two = sorted(known, key=lambda r: -sign * (r.estimates[analysis.primary].value or 0.0))[:2]
    factors = {found.arm: found for found in factors_of(rows)}
    if len(first_two) < 2 or not {r.arm for r in first_two} <= set(factors):
        return []
    one, two = (factors[result.arm] for result in first_two)
    differences = one.differences(two)
    if len(differences) < 2:
        return []
    return [
        f"{one.arm} and the next arm, {two.arm}, differ in {len(differences)} factors: {listing(differences)}. The "
        "difference between them is not the effect of one of these."
    ]


def _few_images(rows: Rows) -> list[str]:
    """Whether confirm runs were judged on fewer images than they are to be."""
    design = confirm_design(rows)
    if design is None or design.images is None or design.images >= ENOUGH_IMAGES:
        return []
    return [
        f"Confirm runs were judged on {plural(design.images, 'image')} of the subject, fewer than {ENOUGH_IMAGES}: the "
        "noise of evaluation is large."
    ]


def uneven_budgets(budgets: tuple[Budget, ...], untrained: set[str]) -> list[str]:
    """Warnings where arms had different numbers of search trials (unless the study deals a method's trials out over its
    arms, which is the design), and where methods had, all their arms together.
    """
    known = [budget for budget in budgets if budget.arm not in untrained]
    found = []
    trials = {budget.arm: budget.trials for budget in known}
    if len(set(trials.values())) > 1 and not any(budget.dealt_out for budget in known):
        shares = listing(f"{arm} had {plural(count, 'trial')}" for arm, count in trials.items())
        found.append(f"Search budgets differ: {shares}.")
    arms: dict[str, list[Budget]] = {}
    for budget in known:
        arms.setdefault(budget.method, []).append(budget)
    if len({own[0].method_trials for own in arms.values()}) < 2 or (found and len(arms) == len(known)):
        return found  # of methods with one arm each all is said
    shares = listing(
        f"{method} had {plural(own[0].method_trials, 'trial')} ({', '.join(b.arm for b in own)})"
        for method, own in arms.items()
    )
    return [
        *found,
        f"Search budgets of the methods differ: {shares}. The best arm of a method with more trials is the best of "
        "more attempts; `search.trials_per_method` deals out equal numbers.",
    ]


def uneven_dimensions(budgets: tuple[Budget, ...]) -> list[str]:
    """A warning where some arm had more than `UNEVEN` times as many trials a searched dimension as another."""
    known = {b.arm: b.trials_per_dimension for b in budgets if b.trials_per_dimension}
    if not known or max(known.values()) <= UNEVEN * min(known.values()):
        return []
    low, high = min(known, key=lambda arm: known[arm]), max(known, key=lambda arm: known[arm])
    return [
        f"Trials per searched dimension differ by more than a factor of {UNEVEN:g}: {low} had "
        f"{number(known[low], digits=2)}, {high} {number(known[high], digits=2)}. The arm with fewer was tuned less "
        "thoroughly."
    ]


def _incomplete(analysis: Analysis) -> list[str]:
    missing = [
        e for e in analysis.exclusions if e.phase == "confirm" and e.state in ("FAIL", "RUNNING", "PRUNED")
    ]
    blank = [e for e in analysis.exclusions if e.phase == "confirm" and e.state == "COMPLETE"]
    kinds = {
        "did not complete and are missing from the means": missing,
        "came without a quality and are missing from the means of quality, though n counts them": blank,
    }
    return [
        f"{plural(len(runs), 'confirm run')} of {listing(dict.fromkeys(e.arm for e in runs))} {what} (listed below)."
        for what, runs in kinds.items()
        if runs
    ]


def _small_searches(rows: Rows, analysis: Analysis) -> list[str]:
    """Says how often small searches chose what they began with: then defaults are compared, and not methods."""
    small = [b for b in analysis.budgets if b.searches and 0 < b.trials / b.searches < SMALL_SEARCH]
    if not small:
        return []
    defaults, shares = default_choices(rows, analysis.chosen), []
    for budget in small:
        own = choices_of(budget.arm, analysis.chosen)
        shares.append((budget.arm, len(defaults.intersection(own)), len(own)))
    sizes = sorted({round(b.trials / b.searches) for b in small})
    trials = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    told = listing(f"{arm} {chosen} of {of}" for arm, chosen, of in shares)
    tested = analysis.subjects >= MIN_SUBJECTS
    held = "the arm's interval holds hardly any chance of tuning, and " if tested else ""
    return [
        f"Searches were small: {trials} trials each, the first of them the arm's default. The default was chosen in "
        f"{sum(s[1] for s in shares)} of {sum(s[2] for s in shares)} searches ({told}). Where it nearly always is, "
        f"{held}what is compared is that default with what other searches drew: with more trials the others may gain "
        "more."
    ]


def _at_the_edge(rows: Rows, analysis: Analysis) -> list[str]:
    """Says which arms were tuned to the end of the budget: what they would do with more is not known."""
    budget = section(rows.meta, "spec", "budget")
    if not budget.get("tuned_from"):
        return []
    taken: dict[str, list[float]] = {}
    for arm in rows.trained_arms:
        lengths = [_share(analysis.chosen[name], budget) for name in choices_of(arm, analysis.chosen)]
        if lengths and None not in lengths:
            taken[arm] = [share for share in lengths if share is not None]
    edge = {arm: own for arm, own in taken.items() if median(own) >= EDGE}
    if not edge or len(edge) == len(taken):
        return []
    told = listing(f"{arm} in {sum(s >= EDGE for s in own)} of {len(own)}" for arm, own in edge.items())
    return [
        f"Most searches of some arms chose to train for (nearly) as long as the budget allows: {told}. With a larger "
        "budget these arms may gain more than the others."
    ]


def _share(chosen: Mapping[str, Any], budget: Mapping[str, Any]) -> float | None:
    """What a chosen configuration takes of the budget; None where its length was not tuned."""
    share, steps = chosen.get("budget_share"), chosen.get("max_train_steps")
    if isinstance(share, int | float):
        return float(share)
    most = budget.get("max_train_steps")
    return float(steps) / float(most) if most and isinstance(steps, int | float) else None
