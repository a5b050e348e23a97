"""Anytime curves: quality and what is behind it by share of training, and quality by what it cost until then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure as Canvas

from study.report.analysis import Analysis
from study.report.anytime import Courses, Point, compute_courses, images_words
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
from study.report.formatting import listing, number, scale_for
from study.report.measures import TOTAL_FLOPS, TOTAL_SECONDS, measure
from study.report.prepared import Rows
from study.report.tables import estimate_text

_FEWEST = 2  # evaluations, the end included, that make a course
_SMALL, _LARGE = 2.0, 4.5  # points: marks
_ONE_LINE = 3  # panels that stand side by side


def draw_courses(
    ax: Any, data: Courses, styles: dict[str, ArmStyle], places: dict[str, list[float | None]]
) -> None:
    """Draws lines with interval bands over the places of each arm's points; points without a place are left out."""
    for course in data.courses:
        style = styles[course.arm]
        known = [
            (x, point)
            for x, point in zip(places[course.arm], course.points, strict=True)
            if x is not None and point.estimate.value is not None
        ]
        xs, ys = [x for x, _ in known], [point.estimate.value for _, point in known]
        ax.plot(xs, ys, color=style.color, linestyle=style.line, zorder=3)
        for few, size in ((True, _SMALL), (False, _LARGE)):  # marks of places with fewer images are smaller
            on = [k for k, (_, point) in enumerate(known) if _few(point, data.most_images) == few]
            ax.plot(
                [xs[k] for k in on], [ys[k] for k in on], color=style.color, linestyle="", marker=style.marker,
                markersize=size, markerfacecolor=style.face, zorder=3,
            )  # fmt: skip
        bands = [(x, p.estimate.low, p.estimate.high) for x, p in known if p.estimate.low is not None]
        if len(bands) > 1:
            at, lows, highs = zip(*bands, strict=True)
            ax.fill_between(at, lows, highs, color=style.color, alpha=0.10, linewidth=0, zorder=2)
    if data.base is not None:
        style = styles[data.base[0]]
        ax.axhline(data.base[1], color=style.color, linewidth=1, linestyle=style.line, zorder=1)
    ax.set_ylabel(measure(data.measure).title)


def _few(point: Point, most: int | None) -> bool:
    """Whether a place rests on fewer images than others."""
    return most is not None and point.images is not None and point.images < most


def _marks(data: Sequence[Courses]) -> str:
    """The caption's sentence on places with fewer images."""
    words = images_words(data)
    return f" {words} (small marks)." if words else ""


def _bands(data: Sequence[Courses]) -> str:
    """The caption's words on bands, where there are any."""
    known = any(p.estimate.low is not None for courses in data for c in courses.courses for p in c.points)
    return ", Student's 95 % intervals over subjects as bands" if known else ""


def known_courses(rows: Rows, analysis: Analysis) -> tuple[Courses, ...]:
    """The courses in quality and in each measure behind it that runs were evaluated by on the way."""
    names = dict.fromkeys((analysis.primary, *analysis.axes))
    found = (compute_courses(rows, name, analysis.settings.level) for name in names)
    return tuple(courses for courses in found if courses.courses)


def _arms(data: Sequence[Courses], styles: dict[str, ArmStyle]) -> list[str]:
    shown = {course.arm for courses in data for course in courses.courses}
    shown |= {courses.base[0] for courses in data if courses.base}
    return [arm for arm in styles if arm in shown]


def _too_short(data: Sequence[Courses]) -> str | None:
    """Why there is no course to draw."""
    if not data:
        return "no evaluation of a confirm run by step"
    longest = max(sum(p.share > 0 for p in c.points) for courses in data for c in courses.courses)
    if longest < _FEWEST:
        return "runs were evaluated at their end only (set evaluation.at to see courses)"
    return None


def curves_figure(data: Sequence[Courses], styles: dict[str, ArmStyle]) -> Figure | Skipped:
    """Quality and what is behind it against the share of training."""
    if reason := _too_short(data):
        return Skipped("curves", reason)
    arms = _arms(data, styles)

    def draw(stacked: bool = False) -> Canvas:
        width = COLUMN if stacked else PAGE
        columns = legend_columns(styles, arms, width)
        lines, across = (len(data), 1) if stacked else (1, len(data)) if len(data) <= _ONE_LINE else (2, 2)
        canvas = new_canvas(width, 0.15 + 1.8 * lines + legend_height(len(arms), columns))
        panels = canvas.subplots(lines, across, squeeze=False).flat
        for k, (ax, courses) in enumerate(zip(panels, data, strict=True)):
            places: dict[str, list[float | None]] = {
                c.arm: [100 * p.share for p in c.points] for c in courses.courses
            }
            draw_courses(ax, courses, styles, places)
            if k + across >= len(data):
                ax.set_xlabel("Share of training (%)")
        level = next((c.base[0] for c in data if c.base), None)
        legend_below(canvas, styles, arms, columns, level=level)
        return canvas

    return Figure(
        "curves",
        "Quality and what is behind it against the share of training over the confirm runs: means"
        f"{_bands(data)}. Training starts from the base model, at 0 %. "
        f"Dotted: the base model.{_marks(data)}",
        f"Line plots of {listing(measure(c.measure).title.lower() for c in data)} against the share of training, one "
        "line an arm.",
        draw,
        stacked=lambda: draw(stacked=True),
    )


def anytime_figure(
    data: Sequence[Courses], analysis: Analysis, styles: dict[str, ArmStyle]
) -> Figure | Skipped:
    """Quality against time and FLOPs spent until then."""
    if reason := _too_short(data):
        return Skipped("anytime", reason)
    courses = data[0]
    paid = analysis.cost == TOTAL_SECONDS
    axes: dict[str, dict[str, list[float | None]]] = {
        TOTAL_SECONDS if paid else "train_seconds": {
            c.arm: [p.seconds for p in c.points] for c in courses.courses
        },
        TOTAL_FLOPS if paid else "train_flops": {c.arm: [p.flops for p in c.points] for c in courses.courses},
    }
    axes = {name: places for name, places in axes.items() if any(any(xs) for xs in places.values())}
    if not axes:
        return Skipped("anytime", "the cost of the runs is not known")
    arms = _arms([courses], styles)

    def draw(stacked: bool = False) -> Canvas:
        width, lines = (COLUMN, len(axes)) if stacked else (PAGE, 1)
        columns = legend_columns(styles, arms, width)
        canvas = new_canvas(width, 2.15 * lines + legend_height(len(arms), columns))
        panels = canvas.subplots(lines, len(axes) // lines, squeeze=False, sharey=True).flat
        for k, (ax, (name, places)) in enumerate(zip(panels, axes.items(), strict=True)):
            # Of the largest alone, so that the axis is linear: courses begin at 0.
            scale = cost_axis(ax, name, [max(x for xs in places.values() for x in xs if x)])
            shown = {arm: [None if x is None else x / scale.factor for x in xs] for arm, xs in places.items()}
            draw_courses(ax, courses, styles, shown)
            _mark_costs(ax, courses, name, places, scale.factor)
            if k and not stacked:
                ax.set_ylabel("")
        legend_below(canvas, styles, arms, columns, level=courses.base[0] if courses.base else None)
        return canvas

    title = measure(courses.measure).title
    images = " Class images are made before the first step." if paid else ""
    return Figure(
        "anytime",
        f"{title} against what a run has cost until then, over the confirm runs: means"
        f"{_bands([courses])}.{images}{_marks([courses])}",
        f"Line plots of {title.lower()} against time and floating-point operations, one line an arm.",
        draw,
        stacked=lambda: draw(stacked=True),
    )


def _mark_costs(
    ax: Any, courses: Courses, name: str, places: dict[str, list[float | None]], factor: float
) -> None:
    """Says of each point what was spent until then and what was reached."""
    for course in courses.courses:
        for spent, point in zip(places[course.arm], course.points, strict=True):
            reached = point.estimate
            if spent is None or reached.value is None:
                continue
            scale = scale_for(measure(name).unit, [spent])
            cost = f"{number(spent, scale)} {scale.unit}".strip()
            told = [(measure(courses.measure).title, estimate_text(reached, courses.measure)),
                    (measure(name).title, cost), ("Share of training", f"{100 * point.share:.0f} %")]  # fmt: skip
            mark_spot(ax, spent / factor, reached.value, course.arm, told)
