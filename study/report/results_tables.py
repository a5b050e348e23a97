"""The tables of the report, from the analysis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from study.report.analysis import Analysis, ArmResult, Budget, Comparison
from study.report.formatting import MISSING, PLAIN, Scale, fixed, p_value, scale_for
from study.report.measures import FIDELITIES, MAIN_COSTS, MORE_COSTS, MORE_QUALITY, QUALITY, measure
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

_INTERVAL = "Means over subjects with 95 % bootstrap intervals; complete confirm runs only."
_RANKS = (
    "Bold: best mean of the trained arms; the second best is marked too. Neither means that a difference is "
    "established."
)
_N = "n: runs (subjects × seeds)."


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


def _alone(arms: Sequence[ArmResult]) -> tuple[str, ...]:
    single = any(result.n == 1 for result in arms)
    return ("No interval: a single run.",) if single else ()


def arms_table(analysis: Analysis) -> Table:
    """The main table: arms by quality, both fidelities and each cost."""
    columns = _names(analysis.arms) + _measures(analysis.arms, (QUALITY, *FIDELITIES, *MAIN_COSTS))
    return assemble(
        "arms", "Arms by quality and cost.", columns,
        (_INTERVAL, _N, _RANKS, *_alone(analysis.arms)),
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
    about = measure(name)
    estimates = [comparison.difference for comparison in comparisons]
    limits = [abs(limit) for e in estimates for limit in (e.value, e.low, e.high) if limit is not None]
    scale = scale_for(about.unit, [max(limits, default=None)])
    key = f"{name}_difference"
    return [
        (
            Column(key, f"Δ {about.title.lower()}", scale.unit, numeric=True, has_interval=True),
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
    """Pairs of arms: paired difference, p, Holm's p, probability of improvement."""
    columns = [
        _texts("first", "Arm", [c.first for c in comparisons]),
        _texts("second", "against", [c.second for c in comparisons]),
        _counts("pairs", "pairs", [c.difference.n for c in comparisons]),
        *_difference_columns(comparisons, comparisons[0].measure if comparisons else QUALITY),
        _p_values("p", "p", [c.p for c in comparisons]),
        _p_values("p_wilcoxon", "p (Wilcoxon)", [c.p_wilcoxon for c in comparisons]),
        _p_values("p_holm", "p (Holm)", [c.p_holm for c in comparisons]),
        (
            Column("probability_of_improvement", "P(better)", numeric=True),
            [_chance_cell(c.improvement) for c in comparisons],
        ),
        (
            Column("established", "Established"),
            [Cell("yes" if c.established else "no", value=int(c.established)) for c in comparisons],
        ),
    ]  # fmt: skip
    return assemble(key, caption, columns, notes)


def _chance_cell(chance: float | None) -> Cell:
    return Cell(MISSING) if chance is None else Cell(fixed(chance, 2), value=chance)


TEST_NOTE = (
    "Differences of runs with the same subject and seed. p: two-sided sign-flip permutation test over the "
    "pairs; Holm's "
    "adjustment over the rows of this table. Established: the interval excludes 0 and the adjusted p is "
    "below 0.05."
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
            Column("pairs", "pairs", numeric=True),
            [Cell(str(c.difference.n), value=c.difference.n) for c in primary],
        )
    )
    for name in effects[0].comparisons if effects else (analysis.primary,):
        columns += _difference_columns([e.comparisons[name] for e in effects], name)
    columns += [
        _p_values("p", "p", [c.p for c in primary]),
        _p_values("p_wilcoxon", "p (Wilcoxon)", [c.p_wilcoxon for c in primary]),
        _p_values("p_holm", "p (Holm)", [c.p_holm for c in primary]),
    ]  # fmt: skip
    note = f"p values are for {measure(analysis.primary).title.lower()}. {TEST_NOTE}"
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
