"""Factor effects as a table and in words."""

from __future__ import annotations

from study.report.analysis import Analysis
from study.report.factor_effects import FactorEffect
from study.report.formatting import plural
from study.report.measures import measure
from study.report.results_tables import Pair, difference_columns, needed_column, p_values, texts
from study.report.tables import Table, assemble


def factor_effects_table(analysis: Analysis) -> Table:
    """One line a factor: the difference of its levels in the primary measure and in what is behind it."""
    effects = analysis.factor_effects
    primary = [effect.comparisons[analysis.primary] for effect in effects]
    columns: list[Pair] = [
        texts("factor", "Factor", [effect.factor for effect in effects]),
        texts("levels", "Levels", [f"{effect.first} minus {effect.second}" for effect in effects]),
        texts("pairs", "Pairs of arms", [str(len(effect.arms)) for effect in effects]),
    ]
    for name in effects[0].comparisons:
        columns += difference_columns([effect.comparisons[name] for effect in effects], name)
    columns += [
        p_values("p", "p", [c.p for c in primary]),
        p_values("p_holm", "p (Holm)", [c.p_holm for c in primary]),
        texts("verdict", "Verdict", [c.outcome for c in primary]),
        needed_column(primary),
    ]
    note = (
        "For each subject the mean difference of all pairs of arms that differ in this factor and in nothing else that "
        "the study file states; every arm was tuned by its own search. Student's interval and t test over subjects, "
        f"Holm's adjustment over the factors for {measure(analysis.primary).title.lower()}: a family of its own beside "
        "that of all pairs of arms, since the factors follow from the study file and not from results. A factor may "
        "act otherwise beside another level of the other factors: see the pairs."
    )
    return assemble("factor-effects", "What each factor does, over all arms.", columns, (note,))


def factor_words(analysis: Analysis) -> list[str]:
    """A sentence for each factor."""
    return [_sentence(analysis, effect) for effect in analysis.factor_effects]


def _sentence(analysis: Analysis, effect: FactorEffect) -> str:
    comparison = effect.comparisons[analysis.primary]
    d = comparison.difference
    words = {"not enough": "not decided"}
    known = "" if d.value is None else f"{d.value:+.2f}"
    if d.low is not None and d.high is not None:
        known += f" [{d.low:.2f}, {d.high:.2f}]"
    return (
        f"{effect.factor}, {effect.first} minus {effect.second}, over {plural(len(effect.arms), 'pair')} of arms that "
        f"differ in nothing else: {known} in {measure(analysis.primary).title.lower()} on "
        f"{plural(d.n_subjects, 'subject')} ({words.get(comparison.outcome, comparison.outcome)})."
    )
