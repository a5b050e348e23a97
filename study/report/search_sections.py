"""The sections on the search: its budget and choices, what its trials predict, and what early values tell."""

from __future__ import annotations

from collections.abc import Sequence

from study.report import ablation, rungs, search_tables
from study.report.analysis import Analysis
from study.report.budgets import default_choices
from study.report.comparisons import Settings
from study.report.content import Section, known
from study.report.figures import early_rungs, search, search_effects
from study.report.figures.style import ArmStyle
from study.report.formatting import listing
from study.report.prepared import Rows
from study.report.search_effects import surrogates
from study.report.search_history import METHOD, History, histories, importances
from study.report.searches import budget_words, default_trials, repeats_of, repeats_words, search_objective


def search_section(
    rows: Rows, analysis: Analysis, styles: dict[str, ArmStyle], settings: Settings
) -> Section | None:
    """What the search was given, what it chose, and what mattered in it."""
    data, weights = histories(rows), importances(rows, settings.seed)
    defaults = any(default_trials(rows, arm) for arm in rows.trained_arms)
    if not data and not analysis.chosen:
        return None
    found = [search_tables.budget_table(analysis.budgets)]
    if analysis.chosen:
        found += search_tables.chosen_tables(analysis.chosen, default_choices(rows, analysis.chosen))
    if weights:
        found.append(search_tables.importance_table(weights))
    paragraphs = (
        f"{_searches(rows)} by {search_objective(rows).words}. Its scores are shown to judge the search; none of them "
        "is a result.",
        *_never_met(rows, data),
        *repeats_words(rows),
        *budget_words(rows),
    )
    return Section(
        "search",
        "The search",
        paragraphs,
        (search.history_figure(data, styles, defaults), search.importance_figure(weights, styles)),
        tuple(found),
        (f"Importance: {METHOD}",) if weights else (),
    )


def effects_section(rows: Rows, styles: dict[str, ArmStyle], level: float) -> Section | None:
    """What the trials predict of each hyperparameter, and of the way from default to chosen."""
    if not (found := surrogates(rows)):
        return None
    name, paths = search_objective(rows).metric, ablation.paths(rows, found, level)
    figures = (
        search_effects.effects_figure(found, styles, name),
        search_effects.ablation_figure(paths, styles, name),
    )
    shown = known(ablation.effects_table(found, name), ablation.ablation_table(paths, name))
    return Section("effects", "Hyperparameters", ablation.skipped_words(paths), figures, shown)


def rungs_section(rows: Rows, level: float) -> Section:
    """Whether early values predict the end."""
    name, found = search_objective(rows).metric, rungs.compute_rungs(rows, level)
    figures, shown = (early_rungs.rungs_figure(found, name),), known(rungs.rungs_table(found, name))
    return Section("early-rungs", "Early values and the end", rungs.rung_words(rows, found), figures, shown)


def _searches(rows: Rows) -> str:
    if repeats_of(rows) == 1:
        return "The search chose one configuration of each arm"
    return f"Each of {repeats_of(rows)} searches chose one configuration of each arm"


def _never_met(rows: Rows, data: Sequence[History]) -> tuple[str, ...]:
    """Which searches found nothing that meets the objective's constraints."""
    if not search_objective(rows).constraints:
        return ()
    arms = dict.fromkeys(history.arm for history in data if not any(history.feasible))
    if not arms:
        return ()
    return (
        f"In a search of {listing(arms)} no trial met the constraint, so that the one that missed it least was taken.",
    )
