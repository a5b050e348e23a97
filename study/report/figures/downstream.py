"""Figures of the downstream section: gains, also by ratio, recall by class, confusion, the curve of real images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from study.report.downstream_analysis import COMPARED, Findings, Gain, confusion_of
from study.report.downstream_data import Source
from study.report.downstream_tables import POINTS, TITLES, points_text, scored
from study.report.figures.canvas import Figure, Skipped, new_canvas
from study.report.figures.spots import mark_spot
from study.report.figures.style import BASE_COLOR, COLUMN, MARKERS, PAGE, ArmStyle, arm_labels
from study.report.formatting import fixed, listing
from study.spec.downstream import REAL
from trainables.config.generation import BALANCE

MOST_ROWS = 40  # of the forest plot: more show means of the classifiers alone
_DARK, _CONTROLS = "#111111", "#8a8a8a"
_NUMBERS_IN_CELLS = 8  # classes up to which a confusion matrix bears numbers


def colours(found: Findings, styles: dict[str, ArmStyle]) -> dict[Source, str]:
    """A colour for each source: its generator's; without one dark for `real` and grey for all others."""
    return {
        source: styles[source.generator].color
        if source.generator in styles
        else _DARK
        if source.name == REAL
        else _CONTROLS
        for source in found.phase.sources
    }


# ------------------------------------------------------------------ gains


def gains_figure(found: Findings, styles: dict[str, ArmStyle]) -> Figure | Skipped:
    """Forest plot: what is learnt from, less real images alone."""
    sources = [s for s in found.phase.sources if found.gain(s, "accuracy") and _is_a_rival(s)]
    if not sources:
        return Skipped("downstream-gains", "needs classifiers that learnt from real images alone, and others")
    recipes = list(found.phase.recipes) if len(found.phase.recipes) > 1 else []
    if len(sources) * (1 + len(recipes)) > MOST_ROWS:
        recipes = []
    lines = [(source, recipe) for source in sources for recipe in (None, *recipes)]
    of_source = colours(found, styles)
    labels = arm_labels([source.name for source in sources])

    def draw(stacked: bool = False) -> Canvas:
        width, rows = (COLUMN, len(COMPARED)) if stacked else (PAGE, 1)
        canvas = new_canvas(width, max(1.4, 0.9 + 0.19 * len(lines)) * rows)
        panels = canvas.subplots(rows, len(COMPARED) // rows, squeeze=False).flat
        for k, (ax, score) in enumerate(zip(panels, COMPARED, strict=True)):
            names = []
            ax.axvline(0, color=_DARK, linewidth=0.8, zorder=1)
            margin = 100 * found.phase.margin
            ax.axvspan(-margin, margin, color=_DARK, alpha=0.07, linewidth=0, zorder=0)
            for place, (source, recipe) in enumerate(lines):
                gain = found.gain(source, score, recipe)
                names.append(
                    labels[source.name] if recipe is None else f"{recipe[0]} {_loss(found, recipe)}".strip()
                )
                if gain is not None:
                    _bar(ax, gain, place, of_source[source], main=recipe is None)
            ax.set_yticks(range(len(lines)), names)
            for tick, (_, recipe) in zip(ax.get_yticklabels(), lines, strict=True):
                tick.set_color(_DARK if recipe is None else "#777777")
            ax.set_ylim(len(lines) - 0.4, -0.6)
            ax.grid(axis="y", visible=False)
            ax.tick_params(axis="y", length=0)
            ax.locator_params(axis="x", nbins=5)
            ax.set_xlabel(f"Δ {TITLES[score].lower()} (points)")
            if k and not stacked:
                ax.set_yticklabels([])
        return canvas

    means = (
        "mean of the classifiers, and each by itself (thin, grey names)"
        if recipes
        else "mean of the classifiers"
    )
    return Figure(
        "downstream-gains",
        f"What classifiers learn from, less real images alone, on test images: {means}, with 95 % intervals over test "
        f"images and seeds. Right of 0: better than real images alone. Grey: the margin of equivalence, "
        f"±{100 * found.phase.margin:g} points. Filled: the difference is established; square: equivalent.",
        "Forest plot of differences in accuracy and balanced accuracy to classifiers that learnt from real "
        "images alone.",
        draw,
        stacked=lambda: draw(stacked=True),
    )


def _is_a_rival(source: Source) -> bool:
    """Whether it is to be compared with real images alone: it has all of them."""
    return not source.is_subset and not source.generated_alone


def _loss(found: Findings, recipe: tuple[str, str]) -> str:
    return recipe[1].replace("_", " ") if found.phase.of_losses else ""


def _bar(ax: Any, gain: Gain, place: int, color: str, *, main: bool) -> None:
    estimate = gain.estimate
    if estimate.value is None:
        return
    if estimate.low is not None and estimate.high is not None:
        ends = [estimate.low / POINTS.factor, estimate.high / POINTS.factor]
        ax.plot(ends, [place, place], color=color, linewidth=2 if main else 0.8, zorder=3)
    value = estimate.value / POINTS.factor
    face = color if gain.outcome in ("better", "worse") else "white"
    mark, size = "s" if gain.outcome == "equivalent" else "o", 5 if main else 3
    ax.plot([value], [place], marker=mark, markersize=size, color=color, markerfacecolor=face, zorder=4)
    who = gain.source.name if gain.recipe is None else f"{gain.source.name}, {gain.recipe[0]}"
    told = [(f"Δ {TITLES[gain.score].lower()}", points_text(gain)), ("Verdict", gain.outcome)]
    mark_spot(ax, value, place, f"{who} less {REAL}", told)


def ratios_figure(found: Findings, styles: dict[str, ArmStyle]) -> Figure | Skipped:
    """Gain against the number of generated images for each real one."""
    sources = [s for s in found.generated if found.gain(s, "accuracy")]
    ratios = sorted(
        {str(s.ratio) for s in sources}, key=lambda r: (r == BALANCE, 0.0 if r == BALANCE else float(r))
    )
    if len(ratios) < 2:
        return Skipped("downstream-ratios", "needs two ratios of generated to real images")
    place = {ratio: k for k, ratio in enumerate(ratios)}
    lines = list(dict.fromkeys((str(s.generator), s.filter) for s in sources))

    def draw(stacked: bool = False) -> Canvas:
        canvas = new_canvas(COLUMN, 4.6) if stacked else new_canvas(PAGE, 2.4)
        panels = canvas.subplots(*((len(COMPARED), 1) if stacked else (1, len(COMPARED))))
        for ax, score in zip(panels, COMPARED, strict=True):
            ax.axhline(0, color=_DARK, linewidth=0.8, zorder=1)
            margin = 100 * found.phase.margin
            ax.axhspan(-margin, margin, color=_DARK, alpha=0.07, linewidth=0, zorder=0)
            for k, line in enumerate(lines):
                own = [s for s in sources if (str(s.generator), s.filter) == line]
                _ratio_line(
                    ax, found, own, score, place, styles.get(line[0]), (k - (len(lines) - 1) / 2) * 0.08
                )
            ax.set_xticks(range(len(ratios)), ratios)
            ax.set_xlabel("Generated images for each real one")
            ax.set_ylabel(f"Δ {TITLES[score].lower()} (points)")
            ax.set_xlim(-0.4, len(ratios) - 0.6)
        handles = [
            Line2D([], [], color=_colour(styles.get(name)), marker="o", label=f"{name} {_filtered(kept)}".strip(),
                   linestyle="--" if kept else "-")
            for name, kept in lines
        ]  # fmt: skip
        canvas.legend(
            handles=handles, loc="outside lower center", ncols=min(2 if stacked else 4, len(handles))
        )
        return canvas

    return Figure(
        "downstream-ratios",
        "Gain over real images alone by the number of generated images, mean of the classifiers, with 95 % intervals. "
        "balance: as many of each class as the largest has more. Grey: the margin of equivalence.",
        "Lines of the difference in accuracy and balanced accuracy by the ratio of generated to real images.",
        draw,
        stacked=lambda: draw(stacked=True),
    )


def _filtered(kept: str | None) -> str:
    return f"({kept.replace('_', ' ')})" if kept else ""


def _colour(style: ArmStyle | None) -> str:
    return BASE_COLOR if style is None else style.color


def _ratio_line(
    ax: Any, found: Findings, own: Sequence[Source], score: str, place: dict[str, int], style: ArmStyle | None,
    beside: float,
) -> None:  # fmt: skip
    known = sorted(
        ((place[str(s.ratio)] + beside, gain) for s in own if (gain := found.gain(s, score))),
        key=lambda p: p[0],
    )
    color, line = _colour(style), "--" if own[0].filter else "-"
    numbers = [(x, gain) for x, gain in known if str(gain.source.ratio) != BALANCE]
    values = [(gain.estimate.value or 0.0) / POINTS.factor for _, gain in numbers]
    ax.plot([x for x, _ in numbers], values, color=color, linestyle=line, linewidth=1.2, zorder=3)
    for x, gain in known:
        value = (gain.estimate.value or 0.0) / POINTS.factor
        if gain.estimate.low is not None and gain.estimate.high is not None:
            ends = [gain.estimate.low / POINTS.factor, gain.estimate.high / POINTS.factor]
            ax.plot([x, x], ends, color=color, linewidth=1, zorder=2)
        ax.plot([x], [value], marker="o", markersize=4, color=color, zorder=4)
        mark_spot(ax, x, value, gain.source.name, [(f"Δ {TITLES[score].lower()}", points_text(gain))])


# ------------------------------------------------------------------ classes


def recall_figure(found: Findings, styles: dict[str, ArmStyle]) -> Figure | Skipped:
    """Recall of each class: of the sources without generated images, and of each generator's that validation chose."""
    shown = [s for s in found.phase.sources if s.generator is None and not s.is_subset and s in found.means]
    shown += _best_of_each(found)
    if len(shown) < 2 or not found.phase.classes:
        return Skipped("downstream-recall", "needs two things to learn from")
    classes = found.phase.classes
    of_source = colours(found, styles)

    def draw(stacked: bool = False) -> Canvas:
        canvas = new_canvas(COLUMN if stacked else PAGE, 2.8)
        ax = canvas.subplots()
        width = 0.7 / len(shown)
        for k, source in enumerate(shown):
            mark = MARKERS[k % len(MARKERS)]
            color = of_source[source]
            for number, label in enumerate(classes):
                estimate = found.estimate(found.means[source][f"recall:{number}"])
                x = number + (k - (len(shown) - 1) / 2) * width
                value = 100 * (estimate.value or 0.0)
                if estimate.low is not None and estimate.high is not None:
                    ax.plot(
                        [x, x], [100 * estimate.low, 100 * estimate.high], color=color, linewidth=1, zorder=2
                    )
                face = color if source.generator else "white"
                ax.plot(
                    [x], [value], marker=mark, markersize=4.5, color=color, markerfacecolor=face, zorder=3
                )
                cell = scored(estimate)
                mark_spot(
                    ax,
                    x,
                    value,
                    f"{source.name}, {label}",
                    [("Recall", f"{cell.text} % {cell.detail}".strip())],
                )
        ax.set_xticks(range(len(classes)), list(arm_labels(classes).values()))
        ax.set_ylabel("Recall on test images (%)")
        ax.grid(axis="x", visible=False)
        handles = [
            Line2D([], [], color=of_source[s], marker=MARKERS[k % len(MARKERS)],
                   linestyle="", markerfacecolor=of_source[s] if s.generator else "white", label=s.name)
            for k, s in enumerate(shown)
        ]  # fmt: skip
        canvas.legend(
            handles=handles, loc="outside lower center", ncols=min(2 if stacked else 4, len(handles))
        )
        return canvas

    return Figure(
        "downstream-recall",
        "Recall of each class, mean of the classifiers, with 95 % intervals. Of each generator what was best on "
        "validation images.",
        "Dot plot of the recall of each class by what classifiers learnt from.",
        draw,
        stacked=lambda: draw(stacked=True),
    )


def _best_of_each(found: Findings) -> list[Source]:
    """Of each generator the source that was best on validation images."""
    score, best = f"validation_{found.phase.chosen_by}", []
    for name in dict.fromkeys(source.generator for source in found.generated):
        own = [s for s in found.generated if s.generator == name and s in found.means]
        known = [(value, -k) for k, s in enumerate(own) if (value := found.validation(s, score)) is not None]
        best += [own[-max(known)[1]]] if known else own[:1]
    return best


def confusion_figure(found: Findings) -> Figure | Skipped:
    """Confusion matrices of real images alone, and of what was best on validation images with generated ones."""
    shown = [source for source in (found.real, found.best) if source is not None]
    known = [
        (source, matrix)
        for s in shown
        if (matrix := confusion_of(found.phase, s)) is not None
        for source in [s]
    ]
    if len(known) < 2:
        return Skipped("downstream-confusion", "needs classifiers with and without generated images")
    classes = list(arm_labels(found.phase.classes, 14).values())

    def draw(stacked: bool = False) -> Canvas:
        canvas = new_canvas(COLUMN if stacked else PAGE, 5.8 if stacked else 3.0)
        panels = canvas.subplots(*((2, 1) if stacked else (1, 2)))
        for ax, (source, matrix) in zip(panels, known, strict=True):
            shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
            ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
            if len(classes) <= _NUMBERS_IN_CELLS:
                for (row, column), share in np.ndenumerate(shares):
                    color = "white" if share > 0.55 else _DARK
                    ax.text(
                        column, row, fixed(100 * share, 0), ha="center", va="center", fontsize=7, color=color
                    )
            turned = 90 if max(map(len, classes)) > 4 else 0
            ax.set_xticks(range(len(classes)), classes, rotation=turned)
            ax.set_yticks(range(len(classes)), classes)
            ax.grid(visible=False)
            ax.set(title=source.name, xlabel="Taken for", ylabel="Class")
        return canvas

    return Figure(
        "downstream-confusion",
        f"Test images by class (lines) and by the class that they were taken for (columns), in % of each class, all "
        f"seeds and classifiers together: {listing(source.name for source, _ in known)}, the best with "
        "generated images "
        "by validation images.",
        f"Two confusion matrices: {listing(source.name for source, _ in known)}.",
        draw,
        stacked=lambda: draw(stacked=True),
    )


# ------------------------------------------------------------------ worth


def worth_figure(found: Findings, styles: dict[str, ArmStyle]) -> Figure | Skipped:
    """The learning curve of real images, and the levels that generated images reach."""
    if not found.curve:
        return Skipped("downstream-worth", "needs other numbers of real images (downstream.real_shares)")
    score, of_source = found.phase.chosen_by, colours(found, styles)
    points = [(number, found.estimate(table)) for number, table in found.curve.items()]
    levels = [(s, found.estimate(found.means[s][score])) for s in found.worths]

    def draw(stacked: bool = False) -> Canvas:
        canvas = new_canvas(COLUMN if stacked else PAGE, 2.8)
        ax = canvas.subplots()
        xs = [number for number, _ in points]
        ax.plot(
            xs, [100 * (e.value or 0.0) for _, e in points], color=_DARK, marker="o", markersize=4, zorder=4
        )
        for number, estimate in points:
            if estimate.low is not None and estimate.high is not None:
                ax.plot(
                    [number, number],
                    [100 * estimate.low, 100 * estimate.high],
                    color=_DARK,
                    linewidth=1,
                    zorder=3,
                )
            cell = scored(estimate)
            told = [(TITLES[score], f"{cell.text} % {cell.detail}".strip())]
            mark_spot(ax, number, 100 * (estimate.value or 0.0), f"{number} real images", told)
        for k, (source, estimate) in enumerate(levels):
            style = ("-", "--", ":", "-.")[k % 4]
            ax.axhline(100 * (estimate.value or 0.0), color=of_source[source], linestyle=style, linewidth=1.2,
                       label=source.name, zorder=2)  # fmt: skip
        ax.set_xscale("log")
        ax.set_xticks(xs, [str(number) for number in xs])
        ax.minorticks_off()
        ax.set_xlabel("Real images for training")
        ax.set_ylabel(f"{TITLES[score]} (%)")
        canvas.legend(loc="outside lower center", ncols=2 if stacked else 4)
        return canvas

    return Figure(
        "downstream-worth",
        "Scores by the number of real images alone (points, with 95 % intervals), and what all real images with "
        "generated ones reach (lines), mean of the classifiers.",
        "Learning curve of real images, with levels of generated ones.",
        draw,
        stacked=lambda: draw(stacked=True),
    )
