"""The figure of early rungs: how far the order of runs on the way agrees with that at their end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure as Canvas

from study.report.figures.canvas import Figure, Skipped, new_canvas
from study.report.figures.style import COLUMN, PAGE, PALETTE
from study.report.measures import measure
from study.report.rungs import PHASES, Rung
from study.statistics.paired import Estimate

KEY = "early-rungs"
_MARKS = {"search": "o", "confirm": "s"}


def draw_rungs(ax: Any, found: Sequence[Rung], of: str) -> None:
    """Draws one line a phase: `of` ("tau" or "lost") against the share of training, with intervals."""
    for k, phase in enumerate(PHASES):
        own = [one for one in found if one.phase == phase]
        known = [(one.share, getattr(one, of)) for one in own if getattr(one, of).value is not None]
        if not known:
            continue
        shares = [share + (0.008 if phase == "confirm" else 0.0) for share, _ in known]
        estimates: list[Estimate] = [estimate for _, estimate in known]
        ax.plot(
            shares,
            [one.value for one in estimates],
            color=PALETTE[k],
            marker=_MARKS[phase],
            label=PHASES[phase],
            zorder=3,
        )
        for share, one in zip(shares, estimates, strict=True):
            if one.low is not None:
                ax.plot(
                    [share, share], [one.low, one.high], color=PALETTE[k], linewidth=1.6, alpha=0.6, zorder=2
                )
    ax.set_xlim(0, 1)
    ax.set_xlabel("Share of training")


def rungs_figure(found: Sequence[Rung], name: str) -> Figure | Skipped:
    """Rank correlation with the end, and what is lost by keeping the best of an early place."""
    if not found:
        return Skipped(
            KEY,
            "no three runs on one subject were evaluated before their end; `evaluation.at` (for the search "
            "`evaluation.search.at`, or a `search.scheduler`) adds places",
        )

    def draw(stacked: bool = False) -> Canvas:
        canvas = new_canvas(COLUMN, 4.2) if stacked else new_canvas(PAGE, 2.3)
        left, right = canvas.subplots(2, 1) if stacked else canvas.subplots(1, 2)
        draw_rungs(left, found, "tau")
        left.axhline(0, color="#8c8c8c", linewidth=0.7, zorder=1)
        left.set_ylim(min(0.0, *(one.tau.low or one.tau.value or 0.0 for one in found)) - 0.05, 1.05)
        left.set_ylabel("Kendall's τ with the end")
        draw_rungs(right, found, "lost")
        right.set_ylim(bottom=0)
        right.set_ylabel(f"Lost {measure(name).words}")
        handles, labels = left.get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside lower center", ncols=2)
        return canvas

    sure = (
        " Bars: Student's 95 % interval over subjects."
        if any(one.tau.low is not None for one in found)
        else ""
    )
    return Figure(
        KEY,
        "Whether early values predict the end. First: rank correlation of the order of runs on the way with that of "
        "their end (1: the same order, 0: nothing in common). Second: what is lost at the end by keeping the run that "
        f"was best on the way.{sure}",
        "Line plots of rank correlation with the end and of lost quality against the share of training.",
        draw,
        stacked=lambda: draw(stacked=True),
    )
