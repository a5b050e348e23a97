"""The tables of the search: what it was given, what it chose, and what mattered in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from study.report.budgets import Budget
from study.report.formatting import MISSING, p_value, scale_for
from study.report.results_tables import Pair, counts, texts
from study.report.search_history import Importance
from study.report.tables import Cell, Column, Table, assemble, number_cell, text_cell


def budget_table(budgets: Sequence[Budget]) -> Table:
    """What each arm's tuning got: the proof of equal budgets."""

    def seconds(key: str, title: str, values: Sequence[float | None]) -> Pair:
        scale = scale_for("s", values)
        return Column(key, title, scale.unit, numeric=True), [number_cell(value, scale) for value in values]

    repeated = any(b.searches > 1 for b in budgets)
    shared = any(b.method_trials != b.trials for b in budgets)
    columns = [
        texts("arm", "Arm", [b.arm for b in budgets]),
        *(
            [counts("searches", "Searches", [b.searches if b.trials else 0 for b in budgets])]
            if repeated
            else []
        ),
        counts("trials", "Trials", [b.trials for b in budgets]),
        *(
            [counts("method_trials", "Trials of the method", [b.method_trials for b in budgets])]
            if shared
            else []
        ),
        counts("dimensions", "Dimensions", [b.dimensions for b in budgets]),
        (
            Column("trials_per_dimension", "Trials per dimension", numeric=True),
            [number_cell(b.trials_per_dimension, digits=2) for b in budgets],
        ),
        counts("complete", "complete", [b.complete for b in budgets]),
        counts("pruned", "stopped early", [b.pruned for b in budgets]),
        counts("failed", "failed", [b.failed for b in budgets]),
        counts("search_runs", "Search runs", [b.search_runs for b in budgets]),
        seconds("search_train_seconds", "Search training", [b.search_train_seconds for b in budgets]),
        seconds("search_device_seconds", "Search device time", [b.search_device_seconds for b in budgets]),
        counts("confirm_runs", "Confirm runs", [b.confirm_runs for b in budgets]),
        seconds("confirm_device_seconds", "Confirm device time", [b.confirm_device_seconds for b in budgets]),
    ]
    notes = ["Dimensions: fields that were searched. Trials per dimension: of one search."]
    if shared:
        notes.append(
            "Trials of the method: of all its arms together; methods that differ in their defaults alone, as `lora` "
            "and `dreambooth_lora`, are one."
        )
    if any(b.dealt_out for b in budgets):
        notes.append(
            "A method's trials are dealt out over its arms (`search.trials_per_method`): methods have equal budgets, "
            "and arms what their number leaves them."
        )
    return assemble("budget", "Search budget of each arm, failed and stopped runs included.", columns, notes)


_FIRST = ("trial", "learning_rate", "lr_scheduler", "max_train_steps")
_CHOSEN = "Configuration of each arm's confirm runs, chosen by its search."
_OF_TRIALS = "Trials count from 0, as in the names of runs."
_NO_EFFECT = "Fields that have no effect in an arm are left out."


def chosen_tables(chosen: Mapping[str, Mapping[str, Any]], defaults: Collection[str] = ()) -> list[Table]:
    """The configurations that were confirmed.

    One line a field and one column an arm. Where arms have several searches, what their choices differ in has one line
    a search, and what they share a table of its own.

    Args:
        chosen: By arm, or by "arm (search 1)" and so on (`chosen_configurations`).
        defaults: Names in `chosen` whose configuration is the default, with which each search begins.
    """
    places = {name: _arm_and_search(name) for name in chosen}
    if not any(search for _, search in places.values()):
        return [_fields_table("chosen", _CHOSEN, chosen, defaults)]
    by_arm: dict[str, list[Mapping[str, Any]]] = {}
    for name, (arm, _) in places.items():
        by_arm.setdefault(arm, []).append(chosen[name])
    names = _fields(chosen)
    varied = [name for name in names if name == "trial" or any(map(partial(_differs, name), by_arm.values()))]
    columns = [
        texts("arm", "Arm", [arm for arm, _ in places.values()]),
        texts("search", "Search", [search or MISSING for _, search in places.values()]),
        *(
            (Column(name, name), [_chosen_cell(name, chosen[of], of in defaults) for of in chosen])
            for name in varied
        ),
    ]
    notes = (_OF_TRIALS, "--: has no effect in the arm, or is no field of its method.")
    fixed = {
        arm: {name: value for name, value in own[0].items() if name not in varied}
        for arm, own in by_arm.items()
    }
    shared = "What the configurations of an arm have in common."
    return [assemble("chosen", _CHOSEN, columns, notes), _fields_table("fixed", shared, fixed)]


def _fields_table(
    key: str, caption: str, chosen: Mapping[str, Mapping[str, Any]], defaults: Collection[str] = ()
) -> Table:
    names = _fields(chosen)
    columns = [texts("field", "Field", names)]
    for arm, config in chosen.items():
        columns.append((Column(arm, arm), [_chosen_cell(name, config, arm in defaults) for name in names]))
    note = f"{_OF_TRIALS} {_NO_EFFECT}" if "trial" in names else _NO_EFFECT
    return assemble(key, caption, columns, (note,))


def _fields(chosen: Mapping[str, Mapping[str, Any]]) -> list[str]:
    known = {name for config in chosen.values() for name in config}
    return [name for name in dict.fromkeys([*_FIRST, *sorted(known)]) if name in known]


def _arm_and_search(name: str) -> tuple[str, str]:
    """Returns the parts of a name such as "arm (search 2)"; the second is empty where there is none."""
    arm, _, search = name.partition(" (search ")
    return arm, search.removesuffix(")")


def _differs(name: str, configurations: Sequence[Mapping[str, Any]]) -> bool:
    return any(config.get(name) != configurations[0].get(name) for config in configurations)


def _chosen_cell(name: str, config: Mapping[str, Any], is_default: bool) -> Cell:
    cell = _config_cell(config.get(name))
    return Cell(f"{cell.text} (default)", value=cell.value) if name == "trial" and is_default else cell


def _config_cell(value: Any) -> Cell:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        return Cell(str(int(value)), value=value)
    if isinstance(value, float):
        return Cell(f"{value:.3g}", value=value)
    if isinstance(value, list):
        return Cell(", ".join(_config_cell(item).text for item in value))
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
            trials.append(Cell(item.count_text, value=item.trials))
            remarks.append(text_cell(item.warning or ""))
        if not item.parameters:
            arms.append(text_cell(item.arm))
            for cells in (names, shares, ps, correlations):
                cells.append(Cell(MISSING))
            trials.append(Cell(item.count_text, value=item.trials))
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
