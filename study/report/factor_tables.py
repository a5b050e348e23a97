"""Factor effects as a table and in words."""

from __future__ import annotations

from study.report.analysis import Analysis, ScheduleEffect
from study.report.comparisons import Comparison
from study.report.effect_tables import size_columns, two_tests
from study.report.factor_effects import FactorEffect
from study.report.formatting import listing, plural
from study.report.measures import SUBJECT_PROMPT, measure
from study.report.results_tables import (
    Pair,
    difference_columns,
    needed_column,
    p_values,
    signed,
    simultaneous_column,
    texts,
)
from study.report.tables import Table, assemble
from study.statistics.power import MIN_SUBJECTS


def factor_effects_table(analysis: Analysis) -> Table:
    """One line a factor: the difference of its levels in the primary measure and in what is behind it."""
    effects = analysis.factor_effects
    primary = [effect.comparisons[analysis.primary] for effect in effects]
    columns: list[Pair] = [
        texts("factor", "Factor", [effect.factor for effect in effects]),
        texts("levels", "Levels", [f"{effect.first} minus {effect.second}" for effect in effects]),
        texts("pairs", "Pairs of arms", [str(len(effect.arms)) for effect in effects]),
    ]
    columns += [
        *difference_columns(primary, analysis.primary),
        simultaneous_column(primary),
        p_values("p", "p", [c.p for c in primary]),
        p_values("p_holm", "p (Holm)", [c.p_holm for c in primary]),
        texts("verdict", "Verdict", [c.outcome for c in primary]),
        needed_column(primary),
        *size_columns(primary),
    ]
    for name in effects[0].comparisons:
        if name != analysis.primary:
            columns += difference_columns([effect.comparisons[name] for effect in effects], name)
    note = (
        "For each subject the mean difference of all pairs of arms that differ in this factor and in nothing else that "
        "the study file states; every arm was tuned by its own search, so that they may differ in what was searched, "
        "and in defaults that are others beside another level. Student's interval and t test over subjects, "
        f"Holm's adjustment for {measure(analysis.primary).title.lower()}: factors and pairs of arms share one level, "
        "half of it each, and what one half does not need goes to the other; simultaneous: the interval that holds "
        "together with those of all factors and pairs (Bonferroni). d: mean of the subjects' differences in their "
        "standard deviations. P(better): chance that a run at the first level is better than one at the second on the "
        f"same subject. p (equivalent): {two_tests(analysis)}. A factor may act otherwise beside another level of the "
        "other factors: see the pairs."
    )
    return assemble("factor-effects", "What each factor does, over all arms.", columns, (note,))


def factor_headline(analysis: Analysis) -> str:
    """What the factors are shown to do, for the headline: it takes fewer subjects than a verdict on single arms."""
    shown = []
    for effect in analysis.factor_effects:
        comparison = effect.comparisons[analysis.primary]
        name = f"{effect.factor[0].lower()}{effect.factor[1:]}"
        if comparison.outcome == "equivalent":
            shown.append(
                f"{name}, {effect.first} or {effect.second}, makes no difference above {analysis.margin:g}"
                f"{_otherwise(analysis, effect, '(', ')')}"
            )
        elif comparison.established:
            ahead, behind = effect.first, effect.second
            if comparison.outcome == "worse":
                ahead, behind = behind, ahead
            shown.append(
                f"{name}: {ahead} is better than {behind} "
                f"({_difference(comparison)}{_otherwise(analysis, effect, '; ', '')})"
            )
    return f" Over all arms: {'; '.join(shown)}." if shown else ""


def factor_words(analysis: Analysis) -> list[str]:
    """A sentence for each factor."""
    return [_sentence(analysis, effect) for effect in analysis.factor_effects]


def schedule_words(analysis: Analysis) -> list[str]:
    """A sentence for each pair of a cosine and a constant arm."""
    found = []
    for effect in analysis.schedules:
        comparison = effect.comparisons[analysis.primary]
        d = comparison.difference
        if d.value is None:
            continue
        several = sum(other.method == effect.method for other in analysis.schedules) > 1
        arms = f" ({effect.cosine} minus {effect.constant})" if several else ""
        found.append(
            f"Cosine minus constant for {effect.method}{arms}: {_difference(comparison)} over "
            f"{plural(d.n_subjects, 'subject')} ({outcome_words(comparison)}){_tuned_apart(effect)}."
        )
    return found


def _tuned_apart(effect: ScheduleEffect) -> str:
    """What else the two configurations differ in."""
    tuned = "each tuned by its own search" if effect.searched else ""
    differs = f"they also differ in {listing(effect.differs)}" if effect.differs else ""
    return "".join(f"; {part}" for part in (tuned, differs) if part)


def outcome_words(comparison: Comparison) -> str:
    """The verdict in a sentence; what too few subjects were seen for was not even tested."""
    if comparison.outcome != "not enough":
        return comparison.outcome
    return "not decided" if comparison.difference.n_subjects >= MIN_SUBJECTS else "not tested"


def _sentence(analysis: Analysis, effect: FactorEffect) -> str:
    comparison = effect.comparisons[analysis.primary]
    d = comparison.difference
    if d.value is None:
        return (
            f"{effect.factor}, {effect.first} minus {effect.second}: not known, since some arm has no run on a subject "
            "and seed of all others."
        )
    return (
        f"{effect.factor}, {effect.first} minus {effect.second}, over {plural(len(effect.arms), 'pair')} of arms that "
        f"the study file sets apart in nothing else: {_difference(comparison)} in "
        f"{measure(analysis.primary).title.lower()} on {plural(d.n_subjects, 'subject')} "
        f"({outcome_words(comparison)}){_blind(effect)}; each arm tuned by its own search"
        + (f", so that they also differ in {listing(effect.differs)}." if effect.differs else ".")
    )


def _otherwise(analysis: Analysis, effect: FactorEffect, before: str, after: str) -> str:
    """What subject and prompt alone say of a factor, where that is something else: e.g. " (not decided by ...)"."""
    blind = effect.comparisons.get(SUBJECT_PROMPT)
    if blind is None or blind.outcome == effect.comparisons[analysis.primary].outcome:
        return ""
    said = f"{outcome_words(blind)} by subject and prompt alone"
    return f"{' ' if before == '(' else ''}{before}{said}{after}"


def _blind(effect: FactorEffect) -> str:
    """The same difference by subject and prompt alone, where it is known."""
    blind = effect.comparisons.get(SUBJECT_PROMPT)
    if blind is None or blind.difference.value is None:
        return ""
    said = outcome_words(blind)
    return f", {_difference(blind)} by subject and prompt alone ({said})"


def _difference(comparison: Comparison) -> str:
    """E.g. "+0.04 [0.01, 0.06]"."""
    cell = signed(comparison.difference, score=True)
    return f"{cell.text} {cell.detail}".strip()
