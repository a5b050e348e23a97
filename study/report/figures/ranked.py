"""The ranked interval plot: arms by their means, with a bracket over those that cannot be told apart from the best."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from matplotlib.figure import Figure as Canvas

from study.report.analysis import Analysis
from study.report.figures.canvas import Figure, Skipped, new_canvas
from study.report.figures.spots import mark_spot
from study.report.figures.style import COLUMN, ArmStyle, axis_label
from study.report.formatting import listing
from study.report.measures import measure
from study.report.order import RELATION_WORDS, Place, places
from study.report.tables import difference_text, estimate_text

_LINE = 0.24  # inches an arm
_BRACKET = 1.09  # of the axes' width: where the bracket stands
_INK = "#333333"


def draw_ranked(ax: Any, data: Sequence[Place], styles: dict[str, ArmStyle], name: str) -> None:
    """Draws one line an arm, the best first: interval and mean of the measure `name`, and the bracket at the right."""
    for k, place in enumerate(data):
        style, estimate = styles[place.arm], place.estimate
        if estimate.value is None:
            continue
        if estimate.low is not None and estimate.high is not None:
            ax.plot([estimate.low, estimate.high], [k, k], color=style.color, linewidth=2, zorder=3)
        ax.plot(
            [estimate.value],
            [k],
            marker=style.marker,
            color=style.color,
            markerfacecolor=style.face,
            zorder=4,
        )
        mark_spot(ax, estimate.value, k, place.arm, _values(place, name))
    trained = sum(place.relation != "untrained" for place in data)
    if 0 < trained < len(data):
        ax.axhline(trained - 0.5, color="#c4c4c4", linewidth=0.6, zorder=1)
    draw_bracket(ax, data)
    ax.set_yticks(range(len(data)), [styles[place.arm].label for place in data])
    ax.set_ylim(len(data) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=4)
    ax.set_xlabel(axis_label(measure(name).on_axis, 3))


def draw_bracket(ax: Any, data: Sequence[Place]) -> None:
    """Draws the bracket right of the axes: full lines beside its arms, dots where one that was told apart lies between.

    Equivalent arms bear a sign of their own. Nothing is drawn where the best is alone.
    """
    alike = [k for k, place in enumerate(data) if place.alike]
    if len(alike) < 2:
        return
    across = ax.get_yaxis_transform()  # x in the axes' width, y in lines
    look = {"color": _INK, "linewidth": 1.0, "transform": across, "clip_on": False, "solid_capstyle": "butt"}
    first, last = alike[0] - 0.3, alike[-1] + 0.3
    gaps = [(begin + 0.3, end - 0.3) for begin, end in pairwise(alike) if end - begin > 1]
    begins, ends = [first, *(end for _, end in gaps)], [*(begin for begin, _ in gaps), last]
    for line in zip(begins, ends, strict=True):
        ax.plot([_BRACKET] * 2, line, **look)
    for line in gaps:
        ax.plot([_BRACKET] * 2, line, linestyle=(0, (1, 1.5)), **look)
    for tip in (first, last):
        ax.plot([_BRACKET - 0.02, _BRACKET], [tip, tip], **look)
    for k in alike:
        if data[k].relation == "equivalent":
            ax.text(
                _BRACKET - 0.035, k, "≈", transform=across, ha="right", va="center", fontsize=8, color=_INK
            )
    ax.text(
        _BRACKET + 0.025, (first + last) / 2, _bracket_words(data), transform=across, rotation=270, ha="left",
        va="center", fontsize=6.5, color=_INK, linespacing=1.1,
    )  # fmt: skip


def _bracket_words(data: Sequence[Place]) -> str:
    tested = any(place.comparison is not None and place.comparison.p is not None for place in data)
    return "not told apart\nfrom the best" if tested else "nothing\nwas tested"


def _values(place: Place, name: str) -> tuple[tuple[str, str], ...]:
    """What is shown of an arm: its mean, and how it stands to the best."""
    found = [(measure(name).title, estimate_text(place.estimate, name))]
    if place.comparison is not None and place.comparison.difference.value is not None:
        found.append(("Minus the best", difference_text(place.comparison)))
    return (*found, ("Verdict", RELATION_WORDS[place.relation]))


def ranked_figure(analysis: Analysis, styles: dict[str, ArmStyle]) -> Figure | Skipped:
    """The one figure for readers who skim."""
    data = places(analysis)
    if not any(place.relation != "untrained" for place in data):
        return Skipped("ranked", "no complete confirm run of a trained arm")
    name = analysis.primary

    def draw() -> Canvas:
        canvas = new_canvas(COLUMN, 0.6 + _LINE * max(3, len(data)))
        draw_ranked(canvas.subplots(), data, styles, name)
        return canvas

    title = measure(name).title
    known = any(place.estimate.low is not None for place in data)
    bars = " with Student's 95 % intervals" if known else ""
    base = ", and the untrained base model below them" if data[-1].relation == "untrained" else ""
    return Figure(
        "ranked",
        f"{title} of the trained arms, best first: means over subjects{bars}{base}.{_caption(data, analysis)}",
        f"Ranked dot plot of {measure(name).words}, one line an arm, with a bracket over the arms that cannot be told "
        "apart from the best.",
        draw,
        wide=False,
    )


def _caption(data: Sequence[Place], analysis: Analysis) -> str:
    """What the bracket says, or why there is none."""
    trained = [place for place in data if place.relation != "untrained"]
    if len(trained) < 2:
        return ""
    if not any(place.comparison is not None and place.comparison.p is not None for place in trained):
        return " Nothing was tested."
    how = f"paired by subject and seed, Holm-adjusted over {analysis.family}"
    if ahead := [place.arm for place in trained if place.relation == "better"]:
        return (
            f" The first is behind {listing(ahead)} on the subjects that both have ({how}): missing runs order the "
            "means."
        )
    if sum(place.alike for place in trained) < 2:
        return f" The first is told apart from every other: {how}."
    text = (
        f" Bracket: the arms that are not told apart from the first, {how}; since arms are paired, overlap of their "
        "intervals does not show this."
    )
    if any(place.relation == "equivalent" for place in trained):
        text += f" ≈: equivalent within ±{analysis.margin:g}."
    return text
