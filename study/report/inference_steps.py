"""Quality against inference steps: what runs' images are worth in fewer or more solver steps than they are judged by.

Runs measure it where the study file lists `evaluation.inference_steps`; the values are curves of their own, whose steps
are those of the solver and not of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from study.report.measures import bounded, measure
from study.report.prepared import Rows, section
from study.report.tables import (
    Cell,
    Column,
    Table,
    assemble,
    count_cell,
    score_cell,
    score_decimals,
    text_cell,
)
from study.statistics.paired import Estimate, mean_interval
from trainables.evaluation.metrics_table import AT_INFERENCE_STEPS

CURVES = "inference/"  # how the names of such curves begin
MEASURES = AT_INFERENCE_STEPS

WORDS = (
    "At its end each confirm run drew a part of its images again in other numbers of solver steps: the same prompts, "
    "the same noise, the same scales. These values judge nothing: results are of the number of steps that "
    "`evaluation.num_inference_steps` says, and of more images.",
)


@dataclass(frozen=True)
class StepCurve:
    """One arm's values of a measure.

    Attributes:
        runs: Complete confirm runs that were measured.
        estimates: Mean over subjects with its interval, by the number of solver steps; in increasing order.
    """

    arm: str
    runs: int
    estimates: dict[int, Estimate]


@dataclass(frozen=True)
class StepCurves:
    """The curves of all arms in one measure."""

    measure: str
    arms: tuple[StepCurve, ...]

    @property
    def steps(self) -> tuple[int, ...]:
        """All numbers of solver steps that any arm was measured at."""
        return tuple(sorted({steps for curve in self.arms for steps in curve.estimates}))


def at_inference_steps(rows: Rows, measure: str, steps: int) -> pd.DataFrame:
    """Returns the complete confirm runs (columns arm, subject, seed) with a measure as it is in so many steps."""
    own = rows.curves[(rows.curves["metric"] == CURVES + measure) & (rows.curves["step"] == steps)]
    runs = rows.confirm[["run_key", "arm", "subject", "seed"]]
    return runs.merge(own[["run_key", "value"]].rename(columns={"value": measure}), on="run_key", how="inner")


def step_curves(rows: Rows, level: float) -> tuple[StepCurves, ...]:
    """Returns the curves of each measure that was measured over complete confirm runs, the base model's included."""
    runs = rows.confirm[["run_key", "arm", "subject"]].astype(str)
    found = []
    for name in MEASURES:
        own = rows.curves[(rows.curves["metric"] == CURVES + name) & rows.curves["value"].notna()]
        values = own[["run_key", "step", "value"]].merge(runs, on="run_key", how="inner")
        curves = tuple(
            _of_arm(arm, values[values["arm"] == arm], level)
            for arm in rows.arms
            if (values["arm"] == arm).any()
        )
        found += [StepCurves(name, curves)] if curves else []
    return tuple(found)


def _of_arm(arm: str, values: pd.DataFrame, level: float) -> StepCurve:
    estimates = {
        steps: mean_interval(at["value"].to_numpy(dtype=float), at["subject"].tolist(), level=level)
        for steps in sorted({int(step) for step in values["step"]})
        for at in (values[values["step"] == steps],)
    }
    return StepCurve(arm, values["run_key"].nunique(), estimates)


def judged_at(rows: Rows) -> int | None:
    """The number of solver steps that results are judged by; None where the study file is not known."""
    stated = section(rows.meta, "spec", "evaluation").get("num_inference_steps")
    return stated if isinstance(stated, int) else None


def step_tables(found: Sequence[StepCurves]) -> tuple[Table, ...]:
    """A table for each measure: arm x number of solver steps."""
    return tuple(_table(curves) for curves in found)


def _table(curves: StepCurves) -> Table:
    about, short = measure(curves.measure), curves.measure.removesuffix("_scaled").replace("_", "-")
    columns: list[tuple[Column, list[Cell]]] = [
        (Column("arm", "Arm"), [text_cell(curve.arm) for curve in curves.arms]),
        (Column("runs", "Runs", numeric=True), [count_cell(curve.runs) for curve in curves.arms]),
    ]
    for steps in curves.steps:
        estimates = [
            bounded(curves.measure, curve.estimates.get(steps, Estimate(None))) for curve in curves.arms
        ]
        decimals = score_decimals(estimates)
        title = f"{steps} step{'s' * (steps > 1)}"
        head = Column(f"steps_{steps}", title, "", about.direction, numeric=True, has_interval=True)
        columns.append((head, [score_cell(estimate, decimals) for estimate in estimates]))
    note = "Means over subjects of complete confirm runs; Student's 95 % intervals over subjects, from 3 on."
    return assemble(f"inference-{short}", f"{about.title} by number of solver steps.", columns, (note,))
