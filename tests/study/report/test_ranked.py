"""The order of the arms, the bracket over those that are not told apart from the best, and the spots on figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from study.report.analysis import Analysis, analyse
from study.report.figures.canvas import Figure, figure_style, new_canvas, render
from study.report.figures.ranked import draw_ranked, ranked_figure
from study.report.figures.spots import mark_spot, spots_of
from study.report.figures.style import arm_styles
from study.report.glance import summary_table
from study.report.order import Place, Relation, places
from study.report.prepared import Rows
from study.report.sections import compose
from study.report.units import reworded_figure
from study.statistics.paired import Estimate
from tests.helpers.made_reports import QUICK, analysed, cells
from tests.helpers.synthetic_results import Arm, Study, make_results

# ------------------------------------------------------------------ the order


def test_arms_stand_by_their_means_and_the_bracket_holds_what_no_test_tells_apart(
    large: tuple[Rows, Analysis],
) -> None:
    rows, analysis = large
    found = places(analysis)
    frame = rows.frame
    confirm = frame[(frame["phase"] == "confirm") & (frame["state"] == "COMPLETE")]
    by_subject = confirm.groupby(["arm", "subject"])["quality"].mean().unstack()
    means = by_subject.mean(axis=1).drop("base").sort_values(ascending=False)
    assert [place.arm for place in found] == [*means.index, "base"]
    assert found[0].relation == "best"
    assert found[-1].relation == "untrained"
    assert not found[-1].alike
    # Holm's procedure over all pairs of trained arms, computed here from scipy's paired t tests.
    trained = list(means.index)
    pairs = [(a, b) for k, a in enumerate(trained) for b in trained[:k]]
    ps = np.array([stats.ttest_rel(by_subject.loc[a], by_subject.loc[b]).pvalue for a, b in pairs])
    order = np.argsort(ps)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(ps[order] * np.arange(len(ps), 0, -1)))
    told_apart = {
        (set(pair) - {trained[0]}).pop()
        for pair, p in zip(pairs, adjusted, strict=True)
        if trained[0] in pair and p < 0.05
    }
    assert {place.arm for place in found if place.relation == "worse"} <= told_apart
    shown = {place.arm for place in found[:-1] if not place.alike}
    equal = {place.arm for place in found if place.relation == "equivalent"}
    assert shown == told_apart - equal
    assert shown  # the case has both kinds


def test_the_summary_has_the_same_order_and_says_how_each_arm_stands(large: tuple[Rows, Analysis]) -> None:
    _, analysis = large
    table = summary_table(analysis, ("train_seconds", "peak_memory_bytes"))
    assert table is not None
    assert cells(table, "arm") == [place.arm for place in places(analysis)]
    relations = cells(table, "relation")
    assert relations[0] == "best mean"
    assert relations[-1] == "untrained"
    assert "worse" in relations


def test_few_subjects_are_not_tested(small: tuple[Rows, Analysis]) -> None:
    rows, analysis = small
    found = places(analysis)
    assert {place.relation for place in found} == {"best", "not tested", "untrained"}
    figure = ranked_figure(analysis, arm_styles(rows.arms, rows.methods))
    assert isinstance(figure, Figure)
    assert "Nothing was tested" in figure.caption
    assert "Bracket" not in figure.caption
    assert "nothing\nwas tested" in texts(figure)


def test_arms_without_a_common_subject_are_not_told_apart() -> None:
    _, analysis = analysed(
        Study(arms=(Arm("one", "lora"), Arm("two", "lora", gain=0.3)), subjects=("a", "b", "c"))
    )
    apart = replace(
        analysis,
        pairs=tuple(
            replace(c, difference=Estimate(None), p=None, outcome="not enough") for c in analysis.pairs
        ),
    )
    assert [place.relation for place in places(apart)] == ["best", "apart"]
    assert all(place.alike for place in places(apart))


def test_a_study_without_results_has_no_summary() -> None:
    report = compose(make_results(Study(confirm=False, trials=2)), QUICK)
    assert "glance" not in {section.key for section in report.sections}


# ------------------------------------------------------------------ the bracket


def texts(figure: Figure) -> list[str]:
    with figure_style():
        return [text.get_text() for text in figure.draw().axes[0].texts]


def made(*relations: Relation) -> tuple[Place, ...]:
    return tuple(
        Place(f"a{k}", Estimate(1.0 - k / 10, 0.9 - k / 10, 1.1 - k / 10, 4, 4), relation)
        for k, relation in enumerate(relations)
    )


def bracket_of(
    data: tuple[Place, ...],
) -> tuple[list[tuple[float, float]], list[tuple[float, float]], list[str]]:
    """Full and dotted upright lines of the bracket, and the texts beside it."""
    styles = arm_styles([place.arm for place in data], {place.arm: "lora" for place in data})
    with figure_style():
        ax = new_canvas(3.25, 2.5).subplots()
        draw_ranked(ax, data, styles, "quality")
    lines = [line for line in ax.lines if line.get_transform() == ax.get_yaxis_transform()]
    upright = [
        line for line in lines if line.get_xdata()[0] == line.get_xdata()[1] and line.get_xdata()[0] > 1
    ]
    full = [tuple(line.get_ydata()) for line in upright if line.get_linestyle() == "-"]
    dotted = [tuple(line.get_ydata()) for line in upright if line.get_linestyle() != "-"]
    return full, dotted, [text.get_text() for text in ax.texts]


def covered(lines: list[tuple[float, float]], at: float) -> bool:
    return any(low <= at <= high for low, high in lines)


def test_the_bracket_leaves_out_an_arm_that_is_told_apart_between_others() -> None:
    full, dotted, told = bracket_of(made("best", "equivalent", "worse", "open", "worse", "untrained"))
    assert [covered(full, k) for k in range(6)] == [True, True, False, True, False, False]
    assert covered(full, 0.5)
    assert [covered(dotted, k) for k in range(6)] == [False, False, True, False, False, False]
    assert told.count("≈") == 1


def test_there_is_no_bracket_over_an_arm_that_is_alone() -> None:
    assert bracket_of(made("best", "worse", "worse", "untrained")) == ([], [], [])
    rows, analysis = analysed(
        Study(
            arms=(Arm("good", "lora", gain=0.9), Arm("bad", "lora", gain=0.1), Arm("poor", "lora", gain=0.3)),
            subjects=tuple("abcdef"),
        )
    )
    figure = ranked_figure(analysis, arm_styles(rows.arms, rows.methods))
    assert isinstance(figure, Figure)
    assert "The first is told apart from every other" in figure.caption


def test_a_caption_says_that_missing_runs_put_an_arm_first() -> None:
    """It ran on the easy subjects alone, on which another is better: no bracket makes it a winner."""
    rows, _ = analysed(
        Study(arms=(Arm("good", "lora", gain=0.7), Arm("easy", "lora", gain=0.6)), subjects=tuple("abcdefgh"))
    )
    frame = rows.frame.copy()
    hard = frame["subject"].isin(list("abcd"))
    frame.loc[hard, "quality"] *= 0.1
    rows = replace(rows, frame=frame[~(hard & (frame["arm"] == "easy"))])
    analysis = analyse(rows, QUICK)
    assert analysis.best == "easy"
    figure = ranked_figure(analysis, arm_styles(rows.arms, rows.methods))
    assert isinstance(figure, Figure)
    assert "The first is behind good on the subjects that both have" in figure.caption
    assert "told apart from every other" not in figure.caption


@pytest.mark.parametrize("count", [2, 12])
def test_the_bracket_and_its_words_are_within_the_figure(count: int) -> None:
    arms = tuple(Arm(f"dreambooth-rank-{4**k}-of-many-cosine", "lora", gain=0.6) for k in range(count))
    rows, analysis = analysed(Study(arms=arms, subjects=("a", "b", "c"), trials=1))
    figure = ranked_figure(analysis, arm_styles(rows.arms, rows.methods))
    assert isinstance(figure, Figure)
    with figure_style():
        canvas = figure.draw()
        canvas.draw_without_rendering()
        ax = canvas.axes[0]
        boxes = [artist.get_window_extent() for artist in (*ax.texts, *ax.lines, *ax.get_yticklabels())]
    assert ax.texts
    for box in boxes:
        assert box.x0 > -1
        assert box.x1 < canvas.bbox.width + 1
        assert box.y0 > -1
        assert box.y1 < canvas.bbox.height + 1
    plot = ax.get_window_extent()
    assert plot.width > 0.25 * canvas.bbox.width


# ------------------------------------------------------------------ spots


def test_a_spot_lies_where_its_point_is_drawn() -> None:
    canvas = new_canvas(4, 2)
    canvas.set_layout_engine("none")
    ax = canvas.add_axes((0.5, 0.5, 0.5, 0.5), xlim=(1, 100), ylim=(0, 1), xscale="log")
    mark_spot(ax, 10, 0.25, "arm", [("Quality", "0.25")])
    mark_spot(ax, 1000, 0.25, "outside", [])
    mark_spot(ax, float("nan"), 0.25, "nowhere", [])
    canvas.draw_without_rendering()
    (spot,) = spots_of(canvas)
    assert (spot.title, spot.words, spot.x, spot.y) == ("arm", "arm: Quality 0.25", 75.0, 37.5)


def test_spots_on_others_axes_are_dropped() -> None:
    from matplotlib.figure import Figure as Plain

    canvas = Plain()
    mark_spot(canvas.subplots(), 0.5, 0.5, "arm", [])
    assert spots_of(canvas) == ()


def test_every_arm_of_a_cost_plot_has_its_spot_in_both_views(large: tuple[Rows, Analysis]) -> None:
    report = compose(make_results(Study(subjects=("a", "b", "c"), trials=1)), QUICK)
    figure = next(figure for figure in report.figures if figure.key == "pareto-costs")
    wide, narrow = render(figure).views
    assert (wide.stacked, narrow.stacked) == (False, True)
    told = [(spot.title, spot.values) for spot in wide.spots]
    assert told == [(spot.title, spot.values) for spot in narrow.spots]
    costs = {name for _, values in told for name, _ in values} - {"Quality", "On"}
    assert len(costs) == 4
    assert len(told) == 4 * len(report.rows.trained_arms)
    assert all("[" in dict(values)["Quality"] for _, values in told)


def test_spots_are_put_into_the_words_of_data_sets_but_for_their_arms() -> None:
    def draw() -> object:
        canvas = new_canvas(2, 2)
        mark_spot(canvas.subplots(), 0.5, 0.5, "subject", [("Subject fidelity", "0.5")])
        return canvas

    figure = Figure("f", "", "", draw, stacked=draw)  # type: ignore[arg-type]
    changed = reworded_figure(
        figure, lambda text: text.replace("Subject", "Style").replace("subject", "style")
    )
    assert isinstance(changed, Figure)
    for view in render(changed).views:
        assert [(spot.title, spot.values) for spot in view.spots] == [
            ("subject", (("Style fidelity", "0.5"),))
        ]
