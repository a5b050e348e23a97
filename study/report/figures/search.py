"""Figures of the search: best so far per trial, and the importance of hyperparameters."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from study.report.figures.canvas import Figure, Skipped, new_canvas
from study.report.figures.style import PAGE, ArmStyle, shorten
from study.report.measures import measure
from study.report.tuning import History, Importance


def draw_history(ax: Any, history: History, style: ArmStyle) -> None:
    """Draws best so far as a line, trials as dots, and trials without a score as crosses at the bottom."""
    numbers = [k + 1 for k in range(len(history.trials))]
    known = [(k, best) for k, best in zip(numbers, history.best, strict=True) if best is not None]
    if known:
        xs, ys = zip(*known, strict=True)
        ax.step(xs, ys, where="post", color=style.color, linestyle=style.line, zorder=3)
    scored = [(k, score) for k, score in zip(numbers, history.scores, strict=True) if score is not None]
    if scored:
        xs, ys = zip(*scored, strict=True)
        ax.scatter(
            xs,
            ys,
            s=14,
            marker=style.marker,
            facecolor=style.face,
            edgecolor=style.color,
            linewidth=0.8,
            zorder=4,
        )
    lost = [k for k, state in zip(numbers, history.states, strict=True) if state in ("FAIL", "PRUNED")]
    if lost:
        ax.scatter(
            lost, [0.03] * len(lost), marker="x", s=16, color="#a01010", linewidth=0.9,
            transform=ax.get_xaxis_transform(), clip_on=False, zorder=5,
        )  # fmt: skip
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlim(0.5, max(2, len(numbers)) + 0.5)


def history_figure(data: tuple[History, ...], styles: dict[str, ArmStyle]) -> Figure | Skipped:
    """One small panel an arm, on common axes."""
    if not any(score is not None for history in data for score in history.scores):
        return Skipped("search-history", "the search has no complete trial")
    lines = math.ceil(len(data) / 4)
    columns = math.ceil(len(data) / lines)

    def draw() -> Canvas:
        canvas = new_canvas(PAGE, 0.35 + 1.35 * lines)
        panels = canvas.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        for k, ax in enumerate(panels.flat):
            if k >= len(data):
                ax.set_visible(False)
                continue
            draw_history(ax, data[k], styles[data[k].arm])
            style = styles[data[k].arm]
            ax.set_title(style.label, loc="left", fontsize=7, color=style.color)
            if k + columns >= len(data):
                ax.set_xlabel("Trial")
                ax.tick_params(labelbottom=True)
            if k % columns == 0:
                ax.set_ylabel(measure(data[k].measure).title)
        return canvas

    lost = any(state in ("FAIL", "PRUNED") for history in data for state in history.states)
    return Figure(
        "search-history",
        "The search: score of each trial (marks) and best so far (line), one panel an arm."
        + (" Red crosses: trials that failed or were stopped early." if lost else "")
        + " The best score of a search is optimistic and is not a result.",
        "Line plots of the best score so far against the number of trials, one panel an arm.",
        draw,
    )


def draw_importance(ax: Any, data: Importance, style: ArmStyle) -> None:
    """Draws one bar a parameter; pale where chance alone explains as much (p >= 0.05)."""
    for place, item in enumerate(data.parameters):
        ax.barh(place, item.share, height=0.6, color=style.color, alpha=1.0 if item.p < 0.05 else 0.35)
    ax.set_yticks(range(len(data.parameters)), [shorten(item.name, 24) for item in data.parameters])
    ax.set_ylim(len(data.parameters) - 0.4, -0.6)
    ax.set_xlim(0, 1)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)


def importance_figure(data: tuple[Importance, ...], styles: dict[str, ArmStyle]) -> Figure | Skipped:
    """One panel an arm whose search had enough trials."""
    known = [importance for importance in data if importance.parameters]
    if not known:
        reasons = dict.fromkeys(item.skipped or "nothing varied" for item in data)
        return Skipped("importance", "; ".join(reasons) or "nothing was searched")
    columns = min(len(known), 2)
    lines = math.ceil(len(known) / columns)
    tallest = max(len(importance.parameters) for importance in known)

    def draw() -> Canvas:
        canvas = new_canvas(PAGE, 0.4 + lines * (0.35 + 0.17 * tallest))
        panels = canvas.subplots(lines, columns, squeeze=False, sharex=True)
        for k, ax in enumerate(panels.flat):
            if k >= len(known):
                ax.set_visible(False)
                continue
            draw_importance(ax, known[k], styles[known[k].arm])
            ax.set_title(f"{styles[known[k].arm].label} ({known[k].trials} trials)", loc="left", fontsize=7)
            if k + columns >= len(known):
                ax.set_xlabel("Share of variance explained")
                ax.tick_params(labelbottom=True)
        return canvas

    return Figure(
        "importance",
        "Importance of hyperparameters in the search, one panel an arm. Pale: not told from chance "
        "(permutation p ≥ 0.05).",
        "Bar charts of the share of variance that each hyperparameter explains.",
        draw,
    )
