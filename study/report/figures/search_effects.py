"""Figures of what a search's trials predict: effects of hyperparameters, and the path from default to chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine

from study.report.ablation import Path
from study.report.figures.canvas import Figure, Skipped, new_canvas
from study.report.figures.style import COLUMN, PAGE, ArmStyle, shorten
from study.report.measures import measure
from study.report.search_effects import Surrogate, effects_of
from study.statistics.paired import Estimate

_LETTERS = 32  # of a line's label
_ROOM = (
    0.015  # of the width, at the left: small letters are wider in print than where the layout measures them
)


@dataclass(frozen=True)
class Bar:
    """A line of a panel; `open`: measured, not predicted."""

    label: str
    estimate: Estimate
    open: bool = False


def draw_bars(ax: Any, bars: Sequence[Bar], style: ArmStyle) -> None:
    """Draws marks with intervals, the first on top, and a line at 0."""
    ax.axvline(0, color="#8c8c8c", linewidth=0.7, zorder=1)
    for place, bar in enumerate(bars):
        value, low, high = bar.estimate.value, bar.estimate.low, bar.estimate.high
        if low is not None:
            ax.plot([low, high], [place, place], color=style.color, linewidth=1.6, alpha=0.6, zorder=2)
        face = "white" if bar.open else style.color
        ax.plot(
            [value],
            [place],
            marker="D" if bar.open else "o",
            color=style.color,
            markerfacecolor=face,
            zorder=3,
        )
    ax.set_yticks(range(len(bars)), [shorten(bar.label, _LETTERS) for bar in bars])
    ax.set_ylim(len(bars) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=5)


def _panels(
    panels: dict[str, list[Bar]], styles: dict[str, ArmStyle], label: str, stacked: bool = False
) -> Callable[[], Canvas]:
    """Draws two panels beside each other, or all below each other, on one horizontal axis."""
    columns = 1 if stacked else min(2, len(panels))
    width, room = (COLUMN, 2 * _ROOM) if stacked else (PAGE, _ROOM)
    arms = list(panels)
    tallest = [max(len(panels[arm]) for arm in arms[k : k + columns]) for k in range(0, len(arms), columns)]

    def draw() -> Canvas:
        canvas = new_canvas(width, 0.4 + sum(0.33 + 0.16 * count for count in tallest))
        engine = canvas.get_layout_engine()
        assert isinstance(engine, ConstrainedLayoutEngine)
        engine.set(rect=(room, 0, 1 - room, 1))
        found = canvas.subplots(
            math.ceil(len(arms) / columns),
            columns,
            squeeze=False,
            sharex=True,
            height_ratios=[n + 1 for n in tallest],
        )
        for k, ax in enumerate(found.flat):
            if k >= len(arms):
                ax.set_visible(False)
                continue
            draw_bars(ax, panels[arms[k]], styles[arms[k]])
            ax.set_title(styles[arms[k]].label, loc="left", fontsize=7, color=styles[arms[k]].color)
            ax.tick_params(axis="y", labelsize=6)
            if k + columns >= len(arms):
                ax.tick_params(labelbottom=True)
        canvas.supxlabel(label, fontsize=8)
        return canvas

    return draw


_PREDICTED = "Predicted from the search's trials, not measured"


def effects_figure(found: Sequence[Surrogate], styles: dict[str, ArmStyle], name: str) -> Figure | Skipped:
    """One panel an arm: predicted change of the score from each field's default to other values."""
    panels = {
        one.arm: [Bar(f"{effect.field} {effect.second}", effect.change) for effect in effects_of(one)]
        for one in found
    }
    panels = {arm: bars for arm, bars in panels.items() if bars}
    if not panels:
        reasons = dict.fromkeys(one.skipped or "nothing varied" for one in found)
        return Skipped("hyperparameter-effects", "; ".join(reasons) or "nothing was searched")
    return Figure(
        "hyperparameter-effects",
        f"Effects of hyperparameters on {measure(name).words}, one panel an arm: change from the default (or the "
        f"middle of what was tried) to the value at the left, other fields as they are. {_PREDICTED}; bars: 95 % "
        "intervals over the search's subjects, where there are three.",
        f"Dot plots of predicted changes of {measure(name).words} by hyperparameter.",
        _panels(panels, styles, f"Δ {measure(name).words}"),
        stacked=_panels(panels, styles, f"Δ {measure(name).words}", stacked=True),
    )


def ablation_figure(found: Sequence[Path], styles: dict[str, ArmStyle], name: str) -> Figure | Skipped:
    """One panel an arm: from the default, one field after the other, to the chosen configuration."""
    panels = {}
    for path in found:
        if path.steps:
            bars = [
                Bar("default", Estimate(0.0)),
                *(Bar(f"+ {step.field}", step.reached) for step in path.steps),
            ]
            measured = [Bar("measured", path.measured, True)] if path.measured.value is not None else []
            panels[path.arm] = bars + measured
    if not panels:
        reasons = dict.fromkeys(path.skipped or "the default was chosen" for path in found)
        return Skipped("ablation", "; ".join(reasons) or "nothing was searched")
    return Figure(
        "ablation",
        f"From default to chosen configuration, one field at a time, one panel an arm: change of {measure(name).words} "
        f"up to and with each field. {_PREDICTED}; bars: 95 % intervals over the search's subjects. Open: measured by "
        "the search itself, which is too large, since the best of its noisy scores was chosen.",
        f"Dot plots of predicted {measure(name).words} along the path from default to chosen configuration.",
        _panels(panels, styles, f"Δ {measure(name).words} from the default"),
        stacked=_panels(panels, styles, f"Δ {measure(name).words} from the default", stacked=True),
    )
