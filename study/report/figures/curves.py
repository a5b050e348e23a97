"""Quality against training steps, over the confirm runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from study.report.analysis import Analysis
from study.report.comparisons import Settings
from study.report.figures.canvas import (
    Figure,
    Skipped,
    legend_below,
    legend_columns,
    legend_height,
    new_canvas,
)
from study.report.figures.style import PAGE, ArmStyle
from study.report.measures import FIDELITIES, measure
from study.report.rows import BASE, Rows
from study.report.statistics import Estimate, mean_interval


@dataclass(frozen=True)
class Curve:
    """One arm's course: an estimate at each step at which it was evaluated."""

    arm: str
    measure: str
    steps: tuple[int, ...]
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True)
class Curves:
    """The courses of all arms on one measure, and the level of the base model."""

    measure: str
    curves: tuple[Curve, ...]
    base: tuple[str, float] | None


def compute_curves(rows: Rows, name: str, settings: Settings) -> Curves:
    """Estimates by step over complete confirm runs; a step at which fewer runs were evaluated has a smaller n."""
    complete = rows.confirm[["run_key", "arm", "subject"]]
    values = rows.curves[
        (rows.curves["metric"] == name) & rows.curves["value"].notna() & rows.curves["step"].notna()
    ]
    values = values[["run_key", "step", "value"]].merge(complete, on="run_key", how="inner")
    values = values.drop_duplicates(["run_key", "step"], keep="last")
    found, base = [], None
    for arm in rows.arms:
        own = values[values["arm"] == arm]
        if own.empty:
            continue
        if rows.methods.get(arm) == BASE:
            base = (arm, float(own.groupby("subject")["value"].mean().mean()))
            continue
        steps = sorted(int(step) for step in own["step"].unique())
        estimates = []
        for step in steps:
            at = own[own["step"] == step]
            estimates.append(
                mean_interval(at["value"].to_numpy(dtype=float), at["subject"].tolist(), level=settings.level)
            )
        found.append(Curve(arm, name, tuple(steps), tuple(estimates)))
    return Curves(name, tuple(found), base)


def draw_curves(ax: Any, data: Curves, styles: dict[str, ArmStyle]) -> None:
    """Draws lines with interval bands; a single evaluation is a point with a bar."""
    for curve in data.curves:
        style = styles[curve.arm]
        values = [estimate.value for estimate in curve.estimates]
        ax.plot(
            curve.steps, values, color=style.color, linestyle=style.line, marker=style.marker, markersize=3.5,
            markerfacecolor=style.face, zorder=3,
        )  # fmt: skip
        known = [
            (s, e.low, e.high) for s, e in zip(curve.steps, curve.estimates, strict=True) if e.low is not None
        ]
        if len(known) > 1:
            steps, lows, highs = zip(*known, strict=True)
            ax.fill_between(steps, lows, highs, color=style.color, alpha=0.10, linewidth=0, zorder=2)
        elif known:
            ax.plot([known[0][0]] * 2, known[0][1:], color=style.color, linewidth=1, zorder=2)
    if data.base is not None:
        style = styles[data.base[0]]
        ax.axhline(data.base[1], color=style.color, linewidth=1, linestyle=style.line, zorder=1)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlabel("Optimizer steps")
    ax.set_ylabel(measure(data.measure).title)


def curves_figure(rows: Rows, analysis: Analysis, styles: dict[str, ArmStyle]) -> Figure | Skipped:
    """Quality and fidelities against steps."""
    names = list(dict.fromkeys((analysis.primary, *FIDELITIES)))
    data = [compute_curves(rows, name, analysis.settings) for name in names]
    data = [curves for curves in data if curves.curves]
    if not data:
        return Skipped("curves", "no evaluation of a confirm run by step")
    if max(len(curve.steps) for curves in data for curve in curves.curves) < 2:
        return Skipped("curves", "runs were evaluated at their end only (set evaluation.at to see courses)")
    shown = {curve.arm for curves in data for curve in curves.curves} | {c.base[0] for c in data if c.base}
    arms = [arm for arm in styles if arm in shown]

    def draw() -> Canvas:
        columns = legend_columns(styles, arms, PAGE)
        canvas = new_canvas(PAGE, 1.95 + legend_height(len(arms), columns))
        panels = canvas.subplots(1, len(data), squeeze=False)[0]
        for ax, curves in zip(panels, data, strict=True):
            draw_curves(ax, curves, styles)
        level = next((c.base[0] for c in data if c.base), None)
        legend_below(canvas, styles, arms, columns, level=level)
        return canvas

    return Figure(
        "curves",
        "Quality and fidelities against training steps over the confirm runs: means, Student's "
        "95 % intervals over subjects as bands (from 3 subjects on). Dotted: the base model.",
        "Line plots of quality, subject fidelity and prompt fidelity against optimizer steps, one line an "
        "arm.",
        draw,
    )
