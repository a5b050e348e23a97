"""Fronts: quality against each cost, and the plane of the two fidelities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from study.report.analysis import Analysis, ArmResult
from study.report.figures.canvas import (
    Figure,
    Skipped,
    cost_axis,
    legend_below,
    legend_columns,
    legend_height,
    new_canvas,
)
from study.report.figures.spots import mark_spot
from study.report.figures.style import COLUMN, PAGE, ArmStyle
from study.report.measures import ARROWS, TOTAL_SECONDS, TUNED_SECONDS, bounded, measure
from study.report.tables import estimate_text
from study.statistics.paired import Estimate, pareto_front


@dataclass(frozen=True)
class FrontPoint:
    """One arm on a plane of two measures."""

    arm: str
    x: Estimate
    y: Estimate
    on_front: bool


@dataclass(frozen=True)
class Front:
    """Arms on a plane of two measures, in the order of x, with the base model apart.

    The base model does not train: it has no place on a cost axis, and is drawn as the level that training starts
    from.
    """

    x: str
    y: str
    points: tuple[FrontPoint, ...]
    base: ArmResult | None


def interval_words(analysis: Analysis) -> str:
    """E.g. " with Student's 95 % intervals over subjects", where an arm has any."""
    known = any(e.low is not None for result in analysis.arms for e in result.estimates.values())
    return " with Student's 95 % intervals over subjects" if known else ""


def compute_front(analysis: Analysis, x: str, y: str, with_base: bool = False) -> Front:
    """Which arms no other arm beats on both measures (by their means; overlaps of intervals are not judged)."""
    base = next((r for r in analysis.arms if r.is_base and r.estimates[y].value is not None), None)
    known = [
        result
        for result in analysis.arms
        if result.estimates[x].value is not None
        and result.estimates[y].value is not None
        and (with_base or not result.is_base)
    ]
    values = [[r.estimates[x].value, r.estimates[y].value] for r in known]
    front = pareto_front(
        np.array(values, dtype=float).reshape(-1, 2), (measure(x).direction, measure(y).direction)
    )
    points = [
        FrontPoint(r.arm, bounded(x, r.estimates[x]), bounded(y, r.estimates[y]), bool(on))
        for r, on in zip(known, front, strict=True)
    ]
    points.sort(key=lambda point: (point.x.value, point.y.value, point.arm))
    return Front(x, y, tuple(points), None if with_base else base)


def _with_arrow(label: str, name: str) -> str:
    return f"{label}\u00a0{ARROWS.get(measure(name).direction, '')}".rstrip("\u00a0")


def draw_front(ax: Any, front: Front, styles: dict[str, ArmStyle]) -> None:
    """Draws points with both intervals and the front as a staircase."""
    scale = cost_axis(ax, front.x, [p.x.value for p in front.points if p.x.value is not None])
    ax.set_xlabel(_with_arrow(ax.get_xlabel(), front.x))
    factor = scale.factor
    stairs = [p for p in front.points if p.on_front]
    if len(stairs) > 1:
        xs = [p.x.value / factor for p in stairs if p.x.value is not None]
        ys = [p.y.value for p in stairs]
        where = "post" if measure(front.x).direction == "min" else "pre"
        ax.step(xs, ys, where=where, color="#8c8c8c", linewidth=1, linestyle=(0, (3, 2)), zorder=1)
    for p in front.points:
        style, x = styles[p.arm], (p.x.value or 0.0) / factor
        if p.y.low is not None:
            ax.plot([x, x], [p.y.low, p.y.high], color=style.color, linewidth=1, alpha=0.55, zorder=2)
        if p.x.low is not None and p.x.high is not None:
            xs = [p.x.low / factor, p.x.high / factor]
            ax.plot(xs, [p.y.value] * 2, color=style.color, linewidth=1, alpha=0.55, zorder=2)
        size = 6.5 if p.on_front else 5
        ax.plot(
            [x],
            [p.y.value],
            style.marker,
            color=style.color,
            markerfacecolor=style.face,
            markersize=size,
            zorder=3,
        )
        mark_spot(ax, x, p.y.value or 0.0, p.arm, _spot_values(front, p))
    if front.base is not None and front.base.estimates[front.y].value is not None:
        style = styles[front.base.arm]
        ax.axhline(
            front.base.estimates[front.y].value,
            color=style.color,
            linewidth=1,
            linestyle=style.line,
            zorder=1,
        )
    about = measure(front.y)
    ax.set_ylabel(_with_arrow(f"{about.title} ({about.unit})" if about.unit else about.title, front.y))
    ax.margins(x=0.1, y=0.12)


def _spot_values(front: Front, p: FrontPoint) -> list[tuple[str, str]]:
    """What is shown of a point: both means with their intervals, and whether it is on the front."""
    found = [(measure(name).title, estimate_text(e, name)) for name, e in ((front.y, p.y), (front.x, p.x))]
    return [*found, ("On", "the Pareto front")] if p.on_front else found


def legend_arms(front: Front, styles: dict[str, ArmStyle]) -> list[str]:
    shown = {p.arm for p in front.points} | ({front.base.arm} if front.base else set())
    return [arm for arm in styles if arm in shown]


def one_panel(key: str, front: Front, styles: dict[str, ArmStyle], caption: str, alt: str) -> Figure:
    arms = legend_arms(front, styles)
    columns = legend_columns(styles, arms, COLUMN)

    def draw() -> Canvas:
        canvas = new_canvas(COLUMN, 2.3 + legend_height(len(arms), columns))
        draw_front(canvas.subplots(), front, styles)
        legend_below(canvas, styles, arms, columns, lines=False, level=front.base.arm if front.base else None)
        return canvas

    return Figure(key, caption, alt, draw, wide=False)


def quality_cost_figure(analysis: Analysis, styles: dict[str, ArmStyle]) -> Figure | Skipped:
    """The main front: quality against training seconds."""
    front = compute_front(analysis, analysis.cost, analysis.primary)
    if not front.points:
        return Skipped("pareto-quality-cost", "no complete confirm run with quality and training time")
    title = measure(analysis.primary).title
    paid = ", class images charged in full" if analysis.cost == TOTAL_SECONDS else ""
    shares = any(standing.on_front is not None for standing in analysis.standings)
    sure = "; how sure that is stands in the table of stability" if shares else ""
    level = " Horizontal line: the base model, untrained." if front.base is not None else ""
    return one_panel(
        "pareto-quality-cost",
        front,
        styles,
        f"{title} against training time{paid}, means{interval_words(analysis)}. "
        f"Dashed stairs: the Pareto front (large marks), arms that no other arm beats on both by their means{sure}."
        f"{level}",
        f"Scatter plot of {measure(analysis.primary).words} against training time with the Pareto front.",
    )


def tuning_figure(analysis: Analysis, styles: dict[str, ArmStyle]) -> Figure | Skipped:
    """The same with the training of the search in it."""
    front = compute_front(analysis, TUNED_SECONDS, analysis.primary)
    if not front.points:
        return Skipped("pareto-tuning", "the cost of the search, or that of class images, is not known")
    title = measure(analysis.primary).title
    return one_panel(
        "pareto-tuning",
        front,
        styles,
        f"{title} against the time of training alone: that of one search of the arm and of one run, class images "
        "included, without the evaluation that the search needs. Marks and lines as in the figure without the search.",
        f"Scatter plot of {title.lower()} against the training time of search and run with the Pareto front.",
    )


def fidelity_figure(analysis: Analysis, styles: dict[str, ArmStyle]) -> Figure | Skipped:
    """The plane on which personalisation trades: prompt against subject fidelity."""
    front = compute_front(analysis, analysis.axes[0], analysis.axes[1], with_base=True)
    if not front.points:
        return Skipped("pareto-fidelities", "no complete confirm run with both fidelities")
    return one_panel(
        "pareto-fidelities",
        front,
        styles,
        f"Prompt fidelity against subject fidelity, means{interval_words(analysis)}. "
        "Up and right is better; dashed stairs: the Pareto front.",
        "Scatter plot of prompt fidelity against subject fidelity with the Pareto front.",
    )


def costs_figure(analysis: Analysis, styles: dict[str, ArmStyle]) -> Figure | Skipped:
    """Quality against the other costs, small multiples."""
    names = (analysis.flops, "peak_memory_bytes", "trainable_parameters", "artifact_bytes")
    return cost_panels("pareto-costs", analysis, styles, names)


def cost_panels(
    key: str, analysis: Analysis, styles: dict[str, ArmStyle], names: Sequence[str]
) -> Figure | Skipped:
    """The primary measure against some costs, side by side."""
    fronts = [compute_front(analysis, name, analysis.primary) for name in names]
    fronts = [front for front in fronts if front.points]
    if not fronts:
        return Skipped(key, "no complete confirm run with quality and a cost")
    arms = list(dict.fromkeys(arm for front in fronts for arm in legend_arms(front, styles)))
    arms = [arm for arm in styles if arm in arms]

    def draw(stacked: bool = False) -> Canvas:
        width, lines = (COLUMN, len(fronts)) if stacked else (PAGE, 1)
        columns = legend_columns(styles, arms, width)
        canvas = new_canvas(width, 1.9 * lines + legend_height(len(arms), columns))
        panels = canvas.subplots(lines, len(fronts) // lines, squeeze=False, sharey=not stacked).flat
        for k, (ax, front) in enumerate(zip(panels, fronts, strict=True)):
            draw_front(ax, front, styles)
            if k and not stacked:
                ax.set_ylabel("")
        level = fronts[0].base.arm if fronts[0].base else None
        legend_below(canvas, styles, arms, columns, lines=False, level=level)
        return canvas

    return Figure(
        key,
        f"{measure(analysis.primary).title} against further costs, each with its Pareto front.",
        "Small scatter plots of quality against floating-point operations, memory, trained parameters and "
        "size on disk.",
        draw,
        stacked=lambda: draw(stacked=True),
    )
