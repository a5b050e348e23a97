"""Figures of the comparison: intervals of the arms, differences to the best, cosine against constant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure as Canvas

from study.report.analysis import Analysis, paired
from study.report.comparisons import Comparison, Outcome
from study.report.figures.canvas import Figure, Skipped, new_canvas
from study.report.figures.spots import mark_spot
from study.report.figures.style import COLUMN, PAGE, ArmStyle, axis_label, room_for
from study.report.formatting import listing, plural
from study.report.measures import bounded, measure
from study.report.prepared import Rows
from study.report.tables import difference_text, estimate_text
from study.statistics.paired import Estimate


@dataclass(frozen=True)
class IntervalRow:
    """One arm on one axis: its estimate of a measure and its single runs."""

    arm: str
    measure: str
    estimate: Estimate
    runs: tuple[float, ...]


@dataclass(frozen=True)
class ForestRow:
    """One paired difference: its estimate, alone and with the family's interval, and the pairs' own differences."""

    label: str
    arm: str
    comparison: Comparison
    pairs: tuple[float, ...]

    @property
    def estimate(self) -> Estimate:
        return self.comparison.difference

    @property
    def simultaneous(self) -> Estimate:
        return self.comparison.simultaneous

    @property
    def outcome(self) -> Outcome:
        return self.comparison.outcome


def compute_intervals(rows: Rows, analysis: Analysis, name: str) -> tuple[IntervalRow, ...]:
    """Estimates of one measure for all arms that have any."""
    confirm = rows.confirm
    found = []
    for result in analysis.arms:
        estimate = bounded(name, result.estimates[name])
        if estimate.value is not None:
            runs = confirm.loc[confirm["arm"] == result.arm, name].dropna()
            found.append(IntervalRow(result.arm, name, estimate, tuple(float(value) for value in runs)))
    return tuple(found)


def draw_intervals(ax: Any, data: tuple[IntervalRow, ...], styles: dict[str, ArmStyle], label: str) -> None:
    """Draws one line an arm, the first on top: interval, mean, and single runs as small dots."""
    for place, row in enumerate(data):
        style = styles[row.arm]
        ax.scatter(
            row.runs,
            [place + 0.26] * len(row.runs),
            s=7,
            color=style.color,
            alpha=room_for(len(row.runs), 0.45, 0.15),
            linewidths=0,
            zorder=2,
        )
        if row.estimate.low is not None:
            ax.plot(
                [row.estimate.low, row.estimate.high],
                [place, place],
                color=style.color,
                linewidth=2,
                zorder=3,
            )
        ax.plot(
            [row.estimate.value],
            [place],
            marker=style.marker,
            color=style.color,
            markerfacecolor=style.face,
            zorder=4,
        )
        if row.estimate.value is not None:
            told = (measure(row.measure).title, estimate_text(row.estimate, row.measure))
            mark_spot(ax, row.estimate.value, place, row.arm, [told])
    ax.set_yticks(range(len(data)), [styles[row.arm].label for row in data])
    ax.set_ylim(len(data) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=4)
    ax.set_xlabel(label)


def intervals_figure(rows: Rows, analysis: Analysis, styles: dict[str, ArmStyle]) -> Figure | Skipped:
    """Intervals of quality and of what is behind it."""
    names = [analysis.primary, *(name for name in analysis.axes if name != analysis.primary)]
    data = {name: compute_intervals(rows, analysis, name) for name in names}
    data = {name: found for name, found in data.items() if found}
    if not data:
        return Skipped("intervals", "no complete confirm run")
    known = any(row.estimate.low is not None for found in data.values() for row in found)
    bars = ", Student's 95 % interval (bar)" if known else ""
    first = [row.arm for row in next(iter(data.values()))]

    def draw(stacked: bool = False) -> Canvas:
        height = max(1.6, 0.75 + 0.27 * max(len(found) for found in data.values()))
        width, lines = (COLUMN, len(data)) if stacked else (PAGE, 1)
        canvas = new_canvas(width, height * lines)
        panels = canvas.subplots(lines, len(data) // lines, squeeze=False).flat
        for k, (ax, (name, found)) in enumerate(zip(panels, data.items(), strict=True)):
            label = axis_label(measure(name).on_axis, 3 if stacked else len(data))
            draw_intervals(ax, found, styles, label)
            if k and not stacked and [row.arm for row in found] == first:
                ax.set_yticklabels([])
        return canvas

    return Figure(
        "intervals",
        f"Quality and what is behind it, over the confirm runs: mean over subjects (large mark){bars}, and single runs "
        "(small dots).",
        f"Dot plot of {listing(measure(name).words for name in data)} with intervals, one line an arm.",
        draw,
        stacked=lambda: draw(stacked=True),
    )


def draw_forest(
    ax: Any,
    data: tuple[ForestRow, ...],
    styles: dict[str, ArmStyle],
    label: str,
    margin: float | None = None,
) -> None:
    """Draws paired differences around a line at 0; established ones are filled, equivalent ones are squares."""
    ax.axvline(0, color="#333333", linewidth=0.8, zorder=1)
    if margin is not None:
        ax.axvspan(-margin, margin, color="#333333", alpha=0.07, linewidth=0, zorder=0)
    for place, row in enumerate(data):
        color = styles[row.arm].color if row.arm in styles else "#333333"
        alpha = room_for(len(row.pairs), 0.45, 0.15)
        ax.scatter(
            row.pairs, [place + 0.26] * len(row.pairs), s=7, color=color, alpha=alpha, linewidths=0, zorder=2
        )
        if row.estimate.low is not None:
            ax.plot([row.estimate.low, row.estimate.high], [place, place], color=color, linewidth=2, zorder=3)
        if row.simultaneous.low is not None:
            wide = [row.simultaneous.low, row.simultaneous.high]
            ax.plot(wide, [place, place], color=color, linewidth=0.8, zorder=2)
        face = color if row.outcome in ("better", "worse") else "white"
        mark = "s" if row.outcome == "equivalent" else "o"
        ax.plot([row.estimate.value], [place], marker=mark, color=color, markerfacecolor=face, zorder=4)
        if row.estimate.value is not None:
            told = [(f"Δ {measure(row.comparison.measure).title}", difference_text(row.comparison))]
            if row.comparison.p is not None:
                told.append(("Verdict", row.outcome))
            names = f"{row.comparison.first} minus {row.comparison.second}"
            mark_spot(ax, row.estimate.value, place, names, told)
    ax.set_yticks(range(len(data)), [row.label for row in data])
    ax.set_ylim(len(data) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel(label)


def forest_row(rows: Rows, comparison: Comparison, label: str, arm: str) -> ForestRow:
    """The row of one comparison."""
    pairs = paired(rows.confirm, comparison.first, comparison.second, comparison.measure)
    return ForestRow(label, arm, comparison, pairs)


def differences_figure(rows: Rows, analysis: Analysis, styles: dict[str, ArmStyle]) -> Figure | Skipped:
    """How far the arm with the highest mean is ahead of every other."""
    known = [c for c in analysis.against_best if c.difference.value is not None]
    if not known or analysis.best is None:
        return Skipped(
            "differences", "needs two trained arms with confirm runs on the same subjects and seeds"
        )
    data = tuple(forest_row(rows, c, styles[c.second].label, c.second) for c in known)
    best, title = analysis.best, measure(analysis.primary).title

    def draw() -> Canvas:
        canvas = new_canvas(COLUMN, max(1.4, 0.95 + 0.27 * len(data)))
        label = f"Δ {measure(analysis.primary).words}\n(best arm minus this)"
        draw_forest(canvas.subplots(), data, styles, label, analysis.margin)
        return canvas

    beside = " and factors" if analysis.factor_effects else ""
    return Figure(
        "differences",
        f"{title} of {best} minus that of every other trained arm on the same subject and seed: mean over "
        f"subjects{_bars(known, f'of the pair (thick) and of all pairs{beside} together (thin)')}, single pairs "
        "(small dots)."
        f"{_verdict_marks(known, ' (Holm-adjusted p < 0.05)')}",
        "Forest plot of paired differences between the arm with the highest mean and the others.",
        draw,
        wide=False,
    )


def _bars(comparisons: Sequence[Comparison], which: str) -> str:
    """The caption's words on intervals, where there are any."""
    known = any(c.difference.low is not None for c in comparisons)
    return f", Student's 95 % interval {which}" if known else ""


def _verdict_marks(comparisons: Sequence[Comparison], how: str = "") -> str:
    """The caption's sentences on the marks of verdicts that can occur: none without a test."""
    if not any(c.p is not None for c in comparisons):
        return " Grey: the margin of equivalence. Nothing was tested."
    text = f" Filled: the difference is established{how}."
    if any(c.p_equivalent is not None for c in comparisons):
        text += " Square: equivalent, within the grey margin."
    return text


def schedules_figure(rows: Rows, analysis: Analysis, styles: dict[str, ArmStyle]) -> Figure | Skipped:
    """Cosine minus constant, paired, for each pair of arms."""
    known = [e for e in analysis.schedules if e.comparisons[analysis.primary].difference.value is not None]
    if not known:
        return Skipped(
            "cosine-vs-constant",
            "needs confirm runs of a cosine and a constant arm of one method on the same subjects and seeds",
        )
    subjects = max(e.comparisons[analysis.primary].difference.n_subjects for e in known)
    names = [name for name in (analysis.primary, *analysis.axes) if name in known[0].comparisons]
    names = list(dict.fromkeys(names))
    shown = [e.comparisons[name] for e in known for name in names]
    tuned = " Each arm was tuned by its own search." if any(e.searched for e in known) else ""

    def draw(stacked: bool = False) -> Canvas:
        width, lines = (COLUMN, len(names)) if stacked else (PAGE, 1)
        canvas = new_canvas(width, max(1.3, 0.75 + 0.27 * len(known)) * lines)
        panels = canvas.subplots(lines, len(names) // lines, squeeze=False).flat
        for k, (ax, name) in enumerate(zip(panels, names, strict=True)):
            data = tuple(forest_row(rows, e.comparisons[name], label(e), e.cosine) for e in known)
            margin = analysis.margin if name == analysis.primary else None
            title = axis_label(f"Δ {measure(name).title.lower()}", 3 if stacked else len(names))
            draw_forest(ax, data, styles, title, margin)
            ax.locator_params(axis="x", nbins=3)
            if k and not stacked:
                ax.set_yticklabels([])
        return canvas

    beside = " and factors" if analysis.factor_effects else ""

    def label(effect: Any) -> str:
        several = sum(e.method == effect.method for e in known) > 1
        return styles[effect.cosine].label if several else str(effect.method)

    return Figure(
        "cosine-vs-constant",
        f"Cosine minus constant schedule on the same subject and seed (n = {plural(subjects, 'subject')}): "
        f"mean over subjects{_bars(shown, f'(thin: together with all pairs of arms{beside}, or all methods)')}, single "
        f"pairs (small dots). Right of 0: cosine is higher.{_verdict_marks(shown)}{tuned}",
        "Forest plot of the paired differences between cosine and constant learning-rate schedules.",
        draw,
        stacked=lambda: draw(stacked=True),
    )
