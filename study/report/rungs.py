"""Whether what a run scores early tells what it scores at its end: the order of runs at each place against the last.

In the search, runs of one arm's search on one subject are put in order, as a scheduler that stops trials early does; in
the confirm phase, the arms on one subject and seed, which tells whether shorter runs would have found the same order.
Only runs that reached their end count, so that trials which were stopped are missing: of those nobody knows the end.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from study.report.design import confirm_design
from study.report.formatting import fixed, listing
from study.report.measures import measure
from study.report.prepared import Rows
from study.report.results_tables import signed, texts
from study.report.searches import repeat_of, search_objective
from study.report.tables import Column, Table, assemble, count_cell, number_cell, score_cell
from study.statistics.paired import Estimate, mean_interval

LEAST = 3  # runs that an order is of
PHASES = {"search": "trials of a search", "confirm": "arms, confirm runs"}


@dataclass(frozen=True)
class Rung:
    """One place on the way, of one phase.

    Attributes:
        phase: As in `PHASES`.
        share: Of the runs' training, 0..1 (mean).
        orders: How many orders were compared, each of `runs` runs on average.
        tau: Kendall's rank correlation (tau-b) of the values here with those of the end, over subjects, -1..1.
        lost: What is lost at the end by keeping the best of this place in the place of the best of the end, at least 0.
        same: Share of the orders whose best run here is the best at the end; `by_chance`: without any knowledge.
    """

    phase: str
    share: float
    orders: int
    runs: float
    tau: Estimate
    lost: Estimate
    same: float
    by_chance: float


def compute_rungs(rows: Rows, level: float) -> tuple[Rung, ...]:
    """Every place on the way, of the search and of the confirm phase; none where runs were evaluated at their end
    only.
    """
    return tuple(rung for phase in PHASES for rung in _of_phase(rows, phase, level))


def _of_phase(rows: Rows, phase: str, level: float) -> list[Rung]:
    name = search_objective(rows).metric
    values = _values(rows, phase, name)
    sign = measure(name).sign
    found = []
    for _, own in values.groupby("place"):
        orders = [
            _order(group, sign) for _, group in own.groupby(["order", "subject"]) if len(group) >= LEAST
        ]
        if orders:
            found.append(_rung(phase, float(own["share"].mean()), orders, level))
    return sorted(found, key=lambda rung: rung.share)


def _values(rows: Rows, phase: str, name: str) -> pd.DataFrame:
    """One row a run and place before its end: order, subject, place, share, value, and the value at the end."""
    runs = rows.frame[(rows.frame["phase"] == phase) & (rows.frame["state"] == "COMPLETE")]
    runs = runs[runs["arm"].isin(rows.trained_arms)]
    if phase == "search":
        repeats = pd.concat([repeat_of(rows, arm) for arm in rows.trained_arms] or [pd.Series(dtype="int64")])
        order = runs["arm"] + "/" + repeats.reindex(runs.index).astype(str) + "/" + runs["seed"].astype(str)
    else:
        order = runs["seed"].astype(str)
    about = runs[["run_key", "subject"]].assign(order=order)
    known = (rows.curves["metric"] == name) & rows.curves["value"].notna() & rows.curves["step"].notna()
    values = rows.curves.loc[known, ["run_key", "step", "value"]].merge(about, on="run_key", how="inner")
    values = values.drop_duplicates(["run_key", "step"], keep="last").sort_values(
        ["run_key", "step"], kind="stable"
    )
    by_run = values.groupby("run_key")
    last = by_run["step"].transform("max").clip(lower=1)
    values = values.assign(share=values["step"] / last, end=by_run["value"].transform("last"))
    counts = by_run["step"].count()
    # As in the courses: the k-th evaluation of each run, or, where they differ in number, the share of training.
    place = by_run.cumcount() if counts.nunique() == 1 else values["share"].round(2)
    values = values.assign(place=place)
    return values[(values["share"] > 0) & (values["share"] < 1)]


@dataclass(frozen=True)
class _Order:
    """Of some runs on one subject: how their order at a place and at their end agree."""

    subject: str
    runs: int
    tau: float
    lost: float
    same: float


def _order(group: pd.DataFrame, sign: float) -> _Order:
    here, end = sign * group["value"].to_numpy(dtype=float), sign * group["end"].to_numpy(dtype=float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values that are all alike have no order, and their tau is NaN
        tau = float(stats.kendalltau(here, end).statistic)
    picked = end[here == here.max()]  # of several, each as likely
    lost = float(end.max() - picked.mean())
    return _Order(str(group["subject"].iloc[0]), len(group), tau, lost, float((picked == end.max()).mean()))


def _rung(phase: str, share: float, orders: Sequence[_Order], level: float) -> Rung:
    subjects = [one.subject for one in orders]
    tau = mean_interval(np.array([one.tau for one in orders]), subjects, level=level)
    lost = mean_interval(np.array([one.lost for one in orders]), subjects, level=level)
    return Rung(
        phase,
        share,
        len(orders),
        float(np.mean([one.runs for one in orders])),
        _cut(tau, -1.0, 1.0),
        _cut(lost, 0.0, np.inf),
        float(np.mean([one.same for one in orders])),
        float(np.mean([1 / one.runs for one in orders])),
    )


def _cut(estimate: Estimate, low: float, high: float) -> Estimate:
    """The estimate with its interval cut at what is possible."""
    if estimate.low is None or estimate.high is None:
        return estimate
    return replace(estimate, low=max(low, estimate.low), high=min(high, estimate.high))


# ------------------------------------------------------------------ table and words


def rungs_table(found: Sequence[Rung], name: str) -> Table | None:
    """A line a phase and place; None without any."""
    if not found:
        return None
    about = measure(name)
    columns = [
        texts("orders_of", "Order of", [PHASES[one.phase] for one in found]),
        (
            Column("share", "Share of training", numeric=True),
            [number_cell(one.share, digits=2) for one in found],
        ),
        (Column("orders", "Orders", numeric=True), [count_cell(one.orders) for one in found]),
        (Column("runs", "Runs in each", numeric=True), [number_cell(one.runs, digits=2) for one in found]),
        (
            Column("tau", "Kendall's τ with the end", numeric=True, has_interval=True),
            [signed(one.tau, score=True) for one in found],
        ),
        (Column("same", "Same best", numeric=True), [number_cell(one.same, digits=2) for one in found]),
        (
            Column("by_chance", "By chance", numeric=True),
            [number_cell(one.by_chance, digits=2) for one in found],
        ),
        (
            Column("lost", f"Lost {about.words}", numeric=True, has_interval=True),
            [score_cell(one.lost) for one in found],
        ),
    ]
    note = (
        "Runs on one subject in the order of their values at a place and at their end: of a search's trials, or of the "
        "arms with one seed. τ is 1 where the orders are the same and 0 where they have nothing to do with each other; "
        "mean over subjects with Student's interval, from 3 subjects on, cut at what is possible. Same best: share of "
        "the orders whose best run is the same. Lost: what keeping the best of the place costs at the end. Only runs "
        "that reached their end; both values are noisy, which alone makes τ smaller than 1."
    )
    return assemble("early-rungs", "Whether early values predict the end.", columns, (note,))


def _fewer(between: int | None, at_end: int | None) -> bool:
    return between is not None and at_end is not None and between < at_end


def rung_words(rows: Rows, found: Sequence[Rung]) -> tuple[str, ...]:
    """What the first place says, and why the values there are noisier."""
    if not found:
        return ()
    words = []
    for phase in dict.fromkeys(one.phase for one in found):
        first = next(one for one in found if one.phase == phase)
        who = "a search's trials" if phase == "search" else "the arms"
        if first.tau.value is None:
            continue
        sure = ""
        if first.tau.low is not None and first.tau.high is not None:
            sure = f" [{fixed(first.tau.low, 2)}, {fixed(first.tau.high, 2)}]"
        words.append(
            f"after {100 * first.share:.0f} % of the training the order of {who} agrees with that of the end by "
            f"τ = {fixed(first.tau.value, 2)}{sure}, and the best is the same in {100 * first.same:.0f} % "
            f"(by chance {100 * first.by_chance:.0f} %)"
        )
    if not words:
        return ()
    said = f"{listing(words)}."
    design = confirm_design(rows)
    few = design is not None and _fewer(design.images_between, design.images)
    noisy = " Values on the way rest on fewer images than those of the end." if few else ""
    return (f"{said[0].upper()}{said[1:]}{noisy}",)
