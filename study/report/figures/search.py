"""Figures of the search: best so far per trial, and the importance of hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from study.report.figures.canvas import Figure, Skipped, new_canvas
from study.report.figures.style import COLUMN, LINES, PAGE, ArmStyle, room_for, shorten
from study.report.measures import measure
from study.report.search_history import History, Importance


def draw_history(ax: Any, searches: Sequence[History], style: ArmStyle) -> None:
    """Draws each search of an arm: best so far as a line, trials as dots, small and pale where they miss a constraint,
    and trials without a score as crosses at the bottom.
    """
    longest = 2
    for k, history in enumerate(searches):
        numbers = history.places
        longest = max(longest, len(numbers))
        known = [(n, best) for n, best in zip(numbers, history.best, strict=True) if best is not None]
        line = style.line if len(searches) == 1 else LINES[k % len(LINES)]
        if known:
            xs, ys = zip(*known, strict=True)
            ax.step(xs, ys, where="post", color=style.color, linestyle=line, zorder=3)
        for met in (True, False):
            _draw_scores(ax, history, style, met)
        lost = [n for n, state in zip(numbers, history.states, strict=True) if state in ("FAIL", "PRUNED")]
        if lost:
            ax.scatter(
                lost, [0.03] * len(lost), marker="x", s=16, color="#a01010", linewidth=0.9,
                transform=ax.get_xaxis_transform(), clip_on=False, zorder=5,
            )  # fmt: skip
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlim(-0.5, longest - 0.5)


def _draw_scores(ax: Any, history: History, style: ArmStyle, met: bool) -> None:
    """Draws the scores of the trials that met the constraints, or of those that did not."""
    shown = [
        (n, score)
        for n, score, feasible in zip(history.places, history.scores, history.feasible, strict=True)
        if score is not None and feasible == met
    ]
    if shown:
        xs, ys = zip(*shown, strict=True)
        marker, face = (style.marker, style.face) if met else ("_", style.color)
        size = room_for(len(history.scores), 14, 5) if met else 26
        ax.scatter(
            xs, ys, s=size, marker=marker, facecolor=face, edgecolor=style.color if met else None,
            alpha=1.0 if met else 0.55, linewidth=0.8 if met else 1.2, zorder=4,
        )  # fmt: skip


def history_figure(
    data: tuple[History, ...], styles: dict[str, ArmStyle], defaults: bool = False
) -> Figure | Skipped:
    """One small panel an arm, on common axes; `defaults`: whether each search began with the default."""
    if not any(score is not None for history in data for score in history.scores):
        return Skipped("search-history", "the search has no complete trial")
    searches: dict[str, list[History]] = {}
    for history in data:
        searches.setdefault(history.arm, []).append(history)
    arms = list(searches)
    several = max(map(len, searches.values())) > 1

    def draw(stacked: bool = False) -> Canvas:
        lines = math.ceil(len(arms) / (2 if stacked else 4))
        columns = math.ceil(len(arms) / lines)
        canvas = new_canvas(COLUMN if stacked else PAGE, 0.35 + 1.35 * lines)
        panels = canvas.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        longest = max(max(history.places) + 1 for history in data)
        for k, ax in enumerate(panels.flat):
            if k >= len(arms):
                ax.set_visible(False)
                continue
            style = styles[arms[k]]
            draw_history(ax, searches[arms[k]], style)
            ax.set_xlim(-0.5, max(2, longest) - 0.5)  # the panels share it
            ax.set_title(style.label, loc="left", fontsize=7, color=style.color)
            if k + columns >= len(arms):
                ax.tick_params(labelbottom=True)
            if k // columns == lines - 1:  # one over an empty place would push the last line of panels away
                ax.set_xlabel("Trial of its search" if several else "Trial")
            if k % columns == 0:
                ax.set_ylabel(measure(data[0].measure).title.replace(" (", "\n("))
        return canvas

    lost = any(state in ("FAIL", "PRUNED") for history in data for state in history.states)
    missed = any(
        score is not None and not met
        for history in data
        for score, met in zip(history.scores, history.feasible, strict=True)
    )
    return Figure(
        "search-history",
        "The search: score of each trial (marks) and best so far (line), one panel an arm; trials count from "
        + (
            "0 in each search (in the names of runs they go on)."
            if several
            else "0, as in the names of runs."
        )
        + (" Trial 0 is the default." if defaults else "")
        + (" One line a search: an arm was searched several times, independently." if several else "")
        + (" Dashes: trials that miss the objective's constraint, which cannot be best." if missed else "")
        + (" Red crosses: trials that failed or were stopped early." if lost else "")
        + " The best score of a search is optimistic and is not a result.",
        "Line plots of the best score so far against the number of trials, one panel an arm.",
        draw,
        stacked=lambda: draw(stacked=True),
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
    tallest = max(len(importance.parameters) for importance in known)

    def draw(stacked: bool = False) -> Canvas:
        columns = 1 if stacked else min(len(known), 2)
        lines = math.ceil(len(known) / columns)
        canvas = new_canvas(COLUMN if stacked else PAGE, 0.4 + lines * (0.35 + 0.17 * tallest))
        panels = canvas.subplots(lines, columns, squeeze=False, sharex=True)
        for k, ax in enumerate(panels.flat):
            if k >= len(known):
                ax.set_visible(False)
                continue
            draw_importance(ax, known[k], styles[known[k].arm])
            # In few words: a title that is longer than its panel is cut off.
            ax.set_title(f"{styles[known[k].arm].label} ({known[k].trials} trials)", loc="left", fontsize=7)
            if k + columns >= len(known):
                ax.tick_params(labelbottom=True)
            if k // columns == lines - 1:
                ax.set_xlabel("Share of variance explained")
        return canvas

    return Figure(
        "importance",
        "Importance of hyperparameters in the search, one panel an arm. Pale: not told from chance "
        "(permutation p ≥ 0.05).",
        "Bar charts of the share of variance that each hyperparameter explains.",
        draw,
        stacked=lambda: draw(stacked=True),
    )
