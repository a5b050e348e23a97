"""Quality and the fidelities behind it against the number of solver steps, a line an arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure as Canvas

from study.report.figures.canvas import Figure, legend_below, legend_columns, legend_height, new_canvas
from study.report.figures.style import COLUMN, PAGE, ArmStyle, axis_label
from study.report.formatting import listing
from study.report.inference_steps import StepCurves
from study.report.measures import bounded, measure


def draw_curves(ax: Any, curves: StepCurves, styles: dict[str, ArmStyle], judged_at: int | None) -> None:
    """Draws a line an arm with its interval as a band, and where results are judged as a vertical line."""
    for curve in curves.arms:
        style = styles[curve.arm]
        known = {
            steps: bounded(curves.measure, estimate)
            for steps, estimate in curve.estimates.items()
            if estimate.value is not None
        }
        ax.plot(
            list(known), [estimate.value for estimate in known.values()], color=style.color, linestyle=style.line,
            marker=style.marker, markersize=4, markerfacecolor=style.face, zorder=3,
        )  # fmt: skip
        bands = {steps: (e.low, e.high) for steps, e in known.items() if e.low is not None}
        if len(bands) > 1:
            lows, highs = zip(*bands.values(), strict=True)
            ax.fill_between(list(bands), lows, highs, color=style.color, alpha=0.10, linewidth=0, zorder=2)
    if judged_at is not None:
        ax.axvline(judged_at, color="#9a9a9a", linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    ax.set_xlabel("Solver steps")


def inference_figure(
    found: Sequence[StepCurves], styles: dict[str, ArmStyle], judged_at: int | None
) -> Figure:
    """A panel for each measure."""
    arms = [arm for arm in styles if any(arm == curve.arm for curves in found for curve in curves.arms)]

    def draw(stacked: bool = False) -> Canvas:
        width, lines = (COLUMN, len(found)) if stacked else (PAGE, 1)
        columns = legend_columns(styles, arms, width)
        canvas = new_canvas(width, 2.1 * lines + legend_height(len(arms), columns))
        panels = canvas.subplots(lines, len(found) // lines, squeeze=False).flat
        for ax, curves in zip(panels, found, strict=True):
            draw_curves(ax, curves, styles, judged_at)
            ax.set_ylabel(axis_label(measure(curves.measure).title, 3 if stacked else len(found)))
        legend_below(canvas, styles, arms, columns)
        return canvas

    titles = listing(measure(curves.measure).title.lower() for curves in found)
    banded = any(e.low is not None for c in found for curve in c.arms for e in curve.estimates.values())
    bands = ", Student's 95 % intervals over subjects as bands" if banded else ""
    judged = (
        "" if judged_at is None else f" The vertical line: the {judged_at} steps that results are judged by."
    )
    return Figure(
        "inference-steps",
        f"{titles[:1].upper()}{titles[1:]} against the number of solver steps over the confirm runs: means{bands}. "
        f"The same images of each run at every number, from the same noise.{judged}",
        f"Line plots of {titles} against the number of solver steps, one line an arm.",
        draw,
        stacked=lambda: draw(stacked=True),
    )
