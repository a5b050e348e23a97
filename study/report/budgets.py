"""What the study did and did not count: budgets, excluded runs, the configurations that were confirmed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from study.report.costs import SearchCost, search_cost
from study.report.factors import is_idle, searched_fields
from study.report.prepared import Rows, distinct, section, value_or_none
from study.report.searches import default_trials, repeat_of, repeats_of
from study.spec.sections import code_of
from trainables.evaluation.metrics_table import QUALITY


@dataclass(frozen=True)
class Budget:
    """What an arm's tuning and its confirm runs took, failed and stopped runs included.

    Attributes:
        searches: Independent searches (`search.repeats`).
        trials: Of all of them. dimensions: Fields that were searched.
        method: What counts as its method (`study.spec.sections.code_of`): methods that differ in their defaults alone
            are one.
        method_trials: Of all searches of all arms of that method together.
        dealt_out: Whether the study file gives trials by method (`search.trials_per_method`), which are dealt out over
            its arms; else each arm has its own number.
        search: What one search took on the whole, and what a confirm run takes if class images are shared.
    """

    arm: str
    method: str
    searches: int
    trials: int
    method_trials: int
    dealt_out: bool
    dimensions: int
    complete: int
    pruned: int
    failed: int
    search_runs: int
    search_train_seconds: float | None
    search_device_seconds: float | None
    confirm_runs: int
    confirm_device_seconds: float | None
    search: SearchCost

    @property
    def trials_per_dimension(self) -> float | None:
        """Of one search; None where nothing varied."""
        return self.trials / self.searches / self.dimensions if self.dimensions else None


@dataclass(frozen=True)
class Exclusion:
    """A run that no number of the comparison contains, why, and where which attempt at it ran last."""

    run_key: str
    arm: str
    phase: str
    state: str
    reason: str
    node: str
    attempt: str


def _total(frame: pd.DataFrame, name: str) -> float | None:
    return float(frame[name].sum()) if frame[name].notna().any() else None


def budget_of(rows: Rows, arm: str) -> Budget:
    """Adds up what one arm used."""
    own = rows.frame[rows.frame["arm"] == arm]
    searches = repeats_of(rows)
    search, confirm = own[own["phase"] == "search"], own[own["phase"] == "confirm"]
    states = search.groupby("trial")["state"].agg(set)
    failed = sum("FAIL" in s for s in states)
    pruned = sum("PRUNED" in s and "FAIL" not in s for s in states)
    complete = sum(s == {"COMPLETE"} for s in states)
    return Budget(
        arm=arm,
        method=_code(rows, arm),
        searches=searches,
        trials=len(states),
        method_trials=_method_trials(rows, arm),
        dealt_out=section(rows.meta, "spec", "search").get("trials_per_method") is not None,
        dimensions=len(searched_fields(rows, arm)),
        complete=complete,
        pruned=pruned,
        failed=failed,
        search_runs=len(search),
        search_train_seconds=_total(search, "train_seconds"),
        search_device_seconds=_total(search, "device_seconds"),
        confirm_runs=len(confirm),
        confirm_device_seconds=_total(confirm, "device_seconds"),
        search=search_cost(rows, arm, searches),
    )


def _code(rows: Rows, arm: str) -> str:
    """What counts as an arm's method; the study file tells that of an arm without runs."""
    stated = section(rows.meta, "spec", "arms", arm).get("method")
    return code_of(rows.methods.get(arm) or str(stated or arm))


def _method_trials(rows: Rows, arm: str) -> int:
    """Trials of all arms of an arm's method together."""
    alike = [other for other in rows.arms if _code(rows, other) == _code(rows, arm)]
    own = rows.search[rows.search["arm"].isin(alike)]
    return len(own[["arm", "trial"]].drop_duplicates())


def find_exclusions(rows: Rows) -> tuple[Exclusion, ...]:
    """Lists every run that did not complete, and confirm runs without a quality."""
    found = []
    for row in rows.frame.to_dict("records"):
        reason = _exclusion(row)
        if reason is not None:
            node = row["host"] if isinstance(row["host"], str) and row["host"] else "--"
            attempt = "--" if pd.isna(row["attempts"]) else str(int(row["attempts"]))
            key = row["run_key"] or _key(row)
            found.append(Exclusion(key, row["arm"], row["phase"], row["state"], reason, node, attempt))
    return tuple(found)


def _exclusion(row: Mapping[Any, Any]) -> str | None:
    """Why a run is in no compared number, None if it is."""
    said = [str(row[c]) for c in ("reason", "message") if isinstance(row[c], str) and row[c]]
    message = " -- ".join(said)
    if row["state"] == "FAIL":
        return message or "no reason was recorded"
    if row["state"] == "RUNNING":
        return "had not ended when the report was made"
    if row["state"] == "PRUNED":
        return message or "stopped early by the scheduler, on less than the full budget"
    if row["phase"] == "confirm" and value_or_none(row[QUALITY]) is None:
        return "quality is missing; its other measures count"
    return None


def _key(row: Mapping[Any, Any]) -> str:
    return f"{row['phase']}/{row['arm']}/{row['trial']:04d}-{row['subject']}-s{row['seed']}"


def default_choices(rows: Rows, chosen: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Which of the confirmed configurations are defaults: those of the trials with which searches begin."""
    found = set()
    for arm in rows.trained_arms:
        defaults = default_trials(rows, arm)
        found |= {name for name in choices_of(arm, chosen) if chosen[name].get("trial") in defaults}
    return found


def choices_of(arm: str, chosen: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns what the confirmed configurations of an arm are called: one for each of its searches."""
    return [name for name in chosen if name == arm or name.startswith(f"{arm} (search ")]


def chosen_configurations(rows: Rows) -> dict[str, dict[str, Any]]:
    """The configuration that each arm's confirm runs had: what is common to all of them, without fields that have no
    effect (a prior's weight without a prior).

    Where an arm was searched several times, each search has its own, under "arm (search 1)" and so on.
    """
    found: dict[str, dict[str, Any]] = {}
    columns = ["trial", "learning_rate", "lr_scheduler", "max_train_steps"]
    columns += sorted(c for c in rows.frame.columns if c.startswith("param."))
    for arm in rows.trained_arms:
        confirm = rows.frame[(rows.frame["phase"] == "confirm") & (rows.frame["arm"] == arm)]
        searched = (rows.search["arm"] == arm).any()
        for repeat, own in confirm.groupby(repeat_of(rows, arm).loc[confirm.index]):
            name = f"{arm} (search {repeat + 1})" if repeats_of(rows) > 1 and searched else arm
            values = {c.removeprefix("param."): distinct(own[c].dropna()) for c in columns}
            found[name] = {
                field: v[0] if len(v) == 1 else v
                for field, v in values.items()
                if v and not is_idle(rows, arm, field)
            }
    return found
