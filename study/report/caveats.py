"""What a reader of the verdict is to beware of: few subjects, uneven searches, runs that are missing."""

from __future__ import annotations

from study.power import MIN_SUBJECTS
from study.report.accounts import Budget
from study.report.analysis import Analysis, ArmResult
from study.report.formatting import listing, number, plural
from study.report.rows import Rows
from study.report.searches import repeats_of, search_warnings

UNEVEN = 2.0  # times as many trials a dimension: what is still called alike


def n_words(result: ArmResult) -> str:
    """E.g. "n = 4 runs on 2 subjects"; the untrained model has no runs of its own."""
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
    found += _incomplete(analysis)
    uneven = {result.n for result in analysis.arms if result.n and not result.is_base}
    if len(uneven) > 1:
        found.append(
            "Arms have different numbers of complete confirm runs; paired comparisons use common pairs only."
        )
    found += _shared_searches(rows, best)
    if "peak_memory_kind" in rows.confirm and (rows.confirm["peak_memory_kind"] == "resident_set").any():
        found.append(
            "Peak memory is the resident set of a worker on a CPU, which holds the base model and libraries "
            "too; it tells little "
            "of memory on a GPU."
        )
    return found


def _shared_searches(rows: Rows, best: ArmResult | None) -> list[str]:
    """What the intervals hold of the search's own chance: all of it only with a search for each subject."""
    searches, subjects = repeats_of(rows), len(best.subjects) if best is not None else 0
    if subjects < MIN_SUBJECTS or not len(rows.search) or searches >= subjects:
        return []
    if searches == 1:
        return [
            "Each arm was searched once: intervals and verdicts are those of one tuned configuration of each arm, and "
            "the search's own chance is not in them."
        ]
    return [
        f"Each arm was searched {searches} times for {subjects} subjects, and subjects that share a choice share its "
        "luck: intervals and verdicts are those of the chosen configurations, and hold little of the search's own "
        "chance. With a search for each subject (search.repeats) they hold all of it."
    ]


def uneven_budgets(budgets: tuple[Budget, ...], untrained: set[str]) -> list[str]:
    """A warning where arms had different numbers of search trials."""
    trials = {budget.arm: budget.trials for budget in budgets if budget.arm not in untrained}
    if len(set(trials.values())) < 2:
        return []
    return [
        "Search budgets differ: "
        + listing(f"{arm} had {plural(count, 'trial')}" for arm, count in trials.items())
        + "."
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
    if not missing:
        return []
    arms = listing(dict.fromkeys(e.arm for e in missing))
    return [
        f"{plural(len(missing), 'confirm run')} of {arms} did not complete and are missing from the means "
        f"(listed below)."
    ]
