"""The tables of the report, from the analysis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from study.power import MIN_SUBJECTS, MOST_SUBJECTS
from study.report.accounts import Budget
from study.report.analysis import Analysis, ArmResult
from study.report.comparisons import Comparison
from study.report.formatting import (
    MISSING,
    PLAIN,
    Scale,
    decimals_for,
    fixed,
    interval,
    p_value,
    scale_for,
)
from study.report.measures import FIDELITIES, MAIN_COSTS, MORE_COSTS, MORE_QUALITY, QUALITY, SCALED, measure
from study.report.statistics import Estimate
from study.report.tables import (
    Cell,
    Column,
    Table,
    assemble,
    common_decimals,
    estimate_cell,
    estimate_column,
    number_cell,
    text_cell,
)
from study.report.tuning import Importance

_INTERVAL = (
    "Means over subjects; Student's 95 % intervals over subjects, from 3 on; complete confirm runs only."
)
_TITLES = {SCALED[0]: "subject fidelity", SCALED[1]: "prompt fidelity"}
_RANKS = (
    "Bold: best mean of the trained arms; the second best is marked too. Neither means that a difference is "
    "established."
)
_N = "n: runs (subjects × seeds); the untrained base model has no seeds."


Pair = tuple[Column, list[Cell]]


def _texts(key: str, title: str, values: Sequence[object]) -> Pair:
    return Column(key, title), [text_cell(value) for value in values]


def _counts(key: str, title: str, values: Sequence[int]) -> Pair:
    return Column(key, title, numeric=True), [Cell(str(value), value=value) for value in values]


def _p_values(key: str, title: str, values: Sequence[float | None]) -> Pair:
    return Column(key, title, numeric=True), [Cell(p_value(p), value=p) for p in values]


def _names(arms: Sequence[ArmResult]) -> list[Pair]:
    return [
        _texts("arm", "Arm", [result.arm for result in arms]),
        (Column("n", "n", numeric=True), [Cell(result.n_text, value=result.n) for result in arms]),
    ]


def _measures(arms: Sequence[ArmResult], names: Sequence[str]) -> list[Pair]:
    """A column a measure that any arm has. The untrained base model is the reference and wins no prize."""
    found = []
    for name in names:
        estimates = [result.estimates[name] for result in arms]
        known = [estimate.value for estimate in estimates if estimate.value is not None]
        if not known or (name in MORE_COSTS and not any(known)):
            continue
        about = measure(name)
        ranked = [not result.is_base for result in arms]
        found.append(estimate_column(name, about.title, about.unit, about.direction, estimates, ranked))
    return found


def _few(arms: Sequence[ArmResult]) -> tuple[str, ...]:
    few = any(0 < len(result.subjects) < MIN_SUBJECTS for result in arms)
    return (f"No interval: fewer than {MIN_SUBJECTS} subjects.",) if few else ()


def arms_table(analysis: Analysis) -> Table:
    """The main table: arms by quality, both fidelities and each cost."""
    columns = _names(analysis.arms) + _measures(analysis.arms, (QUALITY, *FIDELITIES, *MAIN_COSTS))
    return assemble(
        "arms", "Arms by quality and cost.", columns,
        (_INTERVAL, _N, _RANKS, *_few(analysis.arms)),
    )  # fmt: skip


def details_table(analysis: Analysis) -> Table:
    """Further measures of the arms."""
    columns = _names(analysis.arms) + _measures(analysis.arms, (*MORE_QUALITY, *MORE_COSTS))
    iqms = [result.quality_iqm for result in analysis.arms]
    title = f"{measure(analysis.primary).title} (IQM)"
    columns.insert(2, (Column("iqm", title, numeric=True), [number_cell(value) for value in iqms]))
    return assemble(
        "details",
        "Further measures.",
        columns,
        (_INTERVAL, "IQM: interquartile mean, robust against single bad runs."),
    )


def _difference_columns(comparisons: Sequence[Comparison], name: str) -> list[Pair]:
    """The paired differences in one measure, or in several of the same scale (no name)."""
    about = measure(name)
    estimates = [comparison.difference for comparison in comparisons]
    limits = [abs(limit) for e in estimates for limit in (e.value, e.low, e.high) if limit is not None]
    scale = scale_for(about.unit, [max(limits, default=None)])
    key, title = f"{name}_difference".lstrip("_"), f"Δ {about.title.lower()}".strip()
    return [
        (
            Column(key, title, scale.unit, numeric=True, has_interval=True),
            [signed(estimate, scale, common_decimals(estimates, scale)) for estimate in estimates],
        )
    ]


def signed(estimate: Estimate, scale: Scale = PLAIN, decimals: int | None = None) -> Cell:
    """A cell with a difference: its sign is always shown."""
    cell = estimate_cell(estimate, scale, decimals)
    if estimate.value is not None and estimate.value > 0 and cell.text != MISSING:
        return Cell(f"+{cell.text}", cell.detail, cell.value, cell.low, cell.high)
    return cell


def comparison_table(
    key: str, caption: str, comparisons: Sequence[Comparison], notes: Sequence[str] = ()
) -> Table:
    """Pairs of arms: difference with both intervals, p, verdict, and what would decide the pair."""
    names = [c.measure for c in comparisons]
    several = len(set(names)) > 1
    columns = [
        *_arms_of(comparisons),
        *([_texts("measure", "Measure", [_TITLES.get(n, measure(n).title) for n in names])] if several else []),
        _counts("subjects", "subjects", [c.difference.n_subjects for c in comparisons]),
        *_difference_columns(comparisons, QUALITY if not names else "" if several else names[0]),
        (
            Column("simultaneous", "simultaneous", numeric=True, has_interval=True),
            [_interval_cell(c.simultaneous) for c in comparisons],
        ),
        _p_values("p", "p", [c.p for c in comparisons]),
        _p_values("p_holm", "p (Holm)", [c.p_holm for c in comparisons]),
        _texts("verdict", "Verdict", [c.outcome for c in comparisons]),
        _needed(comparisons),
    ]  # fmt: skip
    return assemble(key, caption, columns, notes)


def _arms_of(comparisons: Sequence[Comparison]) -> list[Pair]:
    return [
        _texts("first", "Arm", [c.first for c in comparisons]),
        _texts("second", "against", [c.second for c in comparisons]),
    ]


def _interval_cell(estimate: Estimate) -> Cell:
    """An interval alone; its middle stands in another column."""
    if not estimate.half_width:
        return Cell(MISSING)
    decimals = decimals_for(estimate.value or 0.0, estimate.half_width)
    text = interval(estimate.low, estimate.high, decimals)
    return Cell(text, "", estimate.value, estimate.low, estimate.high)


def _needed(comparisons: Sequence[Comparison]) -> Pair:
    """Subjects that would decide a pair; empty where it is decided."""

    def cell(c: Comparison) -> Cell:
        if c.outcome != "not enough" or c.difference.value is None:
            return Cell(MISSING)
        if c.subjects_needed is None:
            return Cell(f"> {MOST_SUBJECTS}")
        return Cell(str(c.subjects_needed), value=c.subjects_needed)

    return Column("subjects_needed", "to decide", numeric=True), [cell(c) for c in comparisons]


def effects_table(analysis: Analysis) -> Table:
    """All pairs once more: effect sizes, probability of improvement, equivalence, and the check by bootstrap."""
    pairs = analysis.pairs
    effects, chances = [c.effect for c in pairs], [c.improvement for c in pairs]
    columns = [
        *_arms_of(pairs),
        (Column("effect", "d", numeric=True, has_interval=True), [signed(e) for e in effects]),
        (
            Column("probability_of_improvement", "P(better)", numeric=True, has_interval=True),
            [_chance_cell(e) for e in chances],
        ),
        _p_values("p_equivalent", "p (equivalent)", [c.p_equivalent for c in pairs]),
        (
            Column("bootstrap_t", "Δ by bootstrap-t", numeric=True, has_interval=True),
            [signed(c.check) for c in pairs],
        ),
    ]
    note = (
        "d: mean of the subjects' differences in their standard deviations. P(better): chance that a run is better "
        "than one of the other arm on the same subject; interval of Clopper and Pearson over subjects. p (equivalent): "
        f"two one-sided t tests against ±{analysis.margin:g}, Holm's adjustment over all pairs. Bootstrap-t: a "
        "check of Student's interval, from 5 subjects on; wide with few."
    )
    return assemble("effects", "All pairs of trained arms: size of the effect.", columns, (note,))


def ranking_table(analysis: Analysis) -> Table:
    """How stable the order of the trained arms is."""
    rows = analysis.standings

    def shares(key: str, title: str, values: Sequence[float | None]) -> Pair:
        return Column(key, title, numeric=True), [
            Cell(MISSING) if v is None else Cell(fixed(v, 2), value=v) for v in values
        ]

    columns = [
        _texts("arm", "Arm", [s.arm for s in rows]),
        (
            Column("rank", "Rank", numeric=True, has_interval=True),
            [estimate_cell(Estimate(s.rank, s.rank_low, s.rank_high), decimals=1) for s in rows],
        ),
        shares("best", "Best", [s.best for s in rows]),
        shares("on_front", "On the front", [s.on_front for s in rows]),
        shares("on_front_with_search", "with search", [s.on_front_with_search for s in rows]),
    ]
    note = (
        f"Over resamples of the subjects, the same for every arm. Rank: mean and 95 % of the resamples. Best: share "
        f"with the highest mean {measure(analysis.primary).title.lower()}. On the front: share in which no arm is both "
        "better and trained in less time; with search: the arm's whole search counts as training time. Shares of few "
        "subjects are too sure of themselves: the tests above are not."
    )
    return assemble("ranking", "Stability of the order of arms.", columns, (note,))


def _chance_cell(chance: Estimate) -> Cell:
    if chance.value is None:
        return Cell(MISSING)
    detail = interval(chance.low, chance.high, 2)
    return Cell(fixed(chance.value, 2), detail, chance.value, chance.low, chance.high)


def test_note(analysis: Analysis) -> str:
    """How the comparisons of all pairs are to be read."""
    return (
        "Differences of runs with the same subject and seed, averaged within each subject. Interval beside the "
        "difference: Student's, of this pair alone; simultaneous: for all pairs together (Bonferroni). p: two-sided "
        "paired t test over subjects; Holm's adjustment over all pairs of trained arms. Verdict: better or worse if "
        f"the adjusted p is below 0.05, equivalent if the difference is shown to lie within "
        f"±{analysis.margin:g}; not enough: neither is shown, and to decide: number of subjects that would show "
        "it in 80 % of studies if difference and spread are as they were seen."
    )


BASE_NOTE = (
    "Subject and prompt fidelity, rescaled (base model 0 and 1) and not clipped: quality is clipped at the base's 0, "
    "and could only be above it. Holm's adjustment over the rows of this table, a family of its own. The base has no "
    "seeds: one value a subject."
)


def schedules_table(analysis: Analysis) -> Table:
    """Cosine minus constant, one line a pair of arms."""
    effects = analysis.schedules
    columns: list[Pair] = [
        _texts("method", "Method", [e.method for e in effects]),
        _texts("cosine", "Cosine arm", [e.cosine for e in effects]),
        _texts("constant", "Constant arm", [e.constant for e in effects]),
    ]
    primary = [e.comparisons[analysis.primary] for e in effects]
    columns.append(
        (
            Column("subjects", "subjects", numeric=True),
            [Cell(str(c.difference.n_subjects), value=c.difference.n_subjects) for c in primary],
        )
    )
    for name in effects[0].comparisons if effects else (analysis.primary,):
        columns += _difference_columns([e.comparisons[name] for e in effects], name)
    columns += [
        _p_values("p", "p", [c.p for c in primary]),
        _p_values("p_holm", "p (Holm)", [c.p_holm for c in primary]),
        _texts("verdict", "Cosine is", [c.outcome for c in primary]),
    ]  # fmt: skip
    note = f"p and verdict are for {measure(analysis.primary).title.lower()}. {test_note(analysis)}"
    return assemble("cosine-vs-constant", "Cosine minus constant schedule, paired.", columns, (note,))


def budget_table(budgets: Sequence[Budget]) -> Table:
    """What each arm's tuning got: the proof of equal budgets."""

    def seconds(key: str, title: str, values: Sequence[float | None]) -> Pair:
        scale = scale_for("s", values)
        return Column(key, title, scale.unit, numeric=True), [number_cell(value, scale) for value in values]

    columns = [
        _texts("arm", "Arm", [b.arm for b in budgets]),
        _counts("trials", "Trials", [b.trials for b in budgets]),
        _counts("complete", "complete", [b.complete for b in budgets]),
        _counts("pruned", "stopped early", [b.pruned for b in budgets]),
        _counts("failed", "failed", [b.failed for b in budgets]),
        _counts("search_runs", "Search runs", [b.search_runs for b in budgets]),
        seconds("search_train_seconds", "Search training", [b.search_train_seconds for b in budgets]),
        seconds("search_device_seconds", "Search device time", [b.search_device_seconds for b in budgets]),
        _counts("confirm_runs", "Confirm runs", [b.confirm_runs for b in budgets]),
        seconds("confirm_device_seconds", "Confirm device time", [b.confirm_device_seconds for b in budgets]),
    ]
    return assemble("budget", "Search budget of each arm, failed and stopped runs included.", columns)


def chosen_table(chosen: dict[str, dict[str, Any]]) -> Table:
    """The configuration that was confirmed: one line a field, one column an arm."""
    first = ["trial", "learning_rate", "lr_scheduler", "max_train_steps"]
    names = list(dict.fromkeys([*first, *sorted({name for config in chosen.values() for name in config})]))
    names = [name for name in names if any(name in config for config in chosen.values())]
    columns = [_texts("field", "Field", names)]
    for arm, config in chosen.items():
        columns.append((Column(arm, arm), [_config_cell(config.get(name)) for name in names]))
    return assemble("chosen", "Configuration of each arm's confirm runs, chosen by its search.", columns)


def _config_cell(value: Any) -> Cell:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        return Cell(str(int(value)), value=value)
    if isinstance(value, float):
        return Cell(f"{value:.3g}", value=value)
    if isinstance(value, list):
        return Cell(", ".join(str(item) for item in value))
    return text_cell(value)


def importance_table(importances: Sequence[Importance]) -> Table:
    """Importance of each searched parameter, with the reason where it cannot be told."""
    arms, names, shares, ps, correlations, trials, remarks = [], [], [], [], [], [], []
    for item in importances:
        for p in item.parameters:
            arms.append(text_cell(item.arm))
            names.append(text_cell(p.name))
            shares.append(number_cell(p.share, digits=2))
            ps.append(Cell(p_value(p.p), value=p.p))
            correlations.append(number_cell(p.correlation, digits=2))
            trials.append(Cell(str(item.trials), value=item.trials))
            remarks.append(text_cell(item.warning or ""))
        if not item.parameters:
            arms.append(text_cell(item.arm))
            for cells in (names, shares, ps, correlations):
                cells.append(Cell(MISSING))
            trials.append(Cell(str(item.trials), value=item.trials))
            remarks.append(text_cell(f"skipped: {item.skipped}"))
    columns = [
        (Column("arm", "Arm"), arms),
        (Column("parameter", "Parameter"), names),
        (Column("share", "Share explained", numeric=True), shares),
        (Column("p", "p", numeric=True), ps),
        (Column("rank_correlation", "Rank correlation", numeric=True), correlations),
        (Column("trials", "Trials", numeric=True), trials),
        (Column("remark", "Remark"), remarks),
    ]
    return assemble("importance", "Importance of hyperparameters in the search.", columns)


def exclusions_table(analysis: Analysis) -> Table:
    """Runs that no compared number contains."""
    rows = analysis.exclusions
    columns = [
        _texts("run", "Run", [e.run_key for e in rows]),
        _texts("phase", "Phase", [e.phase for e in rows]),
        _texts("state", "State", [e.state for e in rows]),
        _texts("node", "Node", [e.node for e in rows]),
        _texts("attempt", "Attempt", [e.attempt for e in rows]),
        _texts("reason", "Reason", [e.reason for e in rows]),
    ]
    return assemble("exclusions", "Runs that did not complete, or whose quality is missing.", columns)


def measures_table() -> Table:
    """What each measure is."""
    names = (QUALITY, *FIDELITIES, *MORE_QUALITY, *MAIN_COSTS, *MORE_COSTS)
    about = [measure(name) for name in names]
    columns = [
        _texts("name", "Column", [m.name for m in about]),
        _texts("title", "Measure", [m.title for m in about]),
        (
            Column("better", "Better"),
            [text_cell("higher" if m.direction == "max" else "lower") for m in about],
        ),
        _texts("description", "Meaning", [m.description for m in about]),
    ]
    return assemble("measures", "Measures.", columns)
