"""Figures on axes of one's own: what the report draws, in the place that is given."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure as Canvas

import study
from study.report import Figures
from tests.helpers.synthetic_results import ARMS, Study, make_results
from trainables.errors import UserError

TRAINED = [arm.name for arm in ARMS[1:]]


@pytest.fixture(scope="module")
def figures() -> Figures:
    return study.Figures(make_results(Study(subjects=("a", "b", "c"), modern=True)))


def test_intervals_have_a_line_an_arm_at_its_mean(figures: Figures) -> None:
    axes = Canvas().subplots()
    assert figures.intervals(axes, "train_seconds") is axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [arm.name for arm in ARMS]
    assert axes.get_xlabel() == "Training time\u00a0↓"
    confirm = figures.rows.confirm
    means = confirm.groupby(["arm", "subject"])["train_seconds"].mean().groupby("arm").mean()
    for place, arm in enumerate(ARMS):
        marks = [
            line
            for line in axes.lines
            if line.get_marker() not in ("", "None") and line.get_ydata()[0] == place
        ]
        assert [line.get_xdata()[0] for line in marks] == pytest.approx([means[arm.name]])


def test_each_figure_is_drawn_on_the_axes_that_are_given(figures: Figures) -> None:
    canvas = Canvas()
    first, second, third, other = canvas.subplots(1, 4)
    figures.differences(first)
    assert len(first.get_yticks()) == len(TRAINED) - 1
    figures.front(second, "peak_memory_bytes")
    assert second.get_xlabel().startswith("Peak memory")
    assert second.get_ylabel() == "Quality\u00a0↑"
    figures.courses(third, "class_kept")
    assert third.get_ylabel() == "Class kept"
    assert third.get_xlabel() == "Share of training (%)"
    assert all(axes.lines for axes in (first, second, third))
    assert not other.lines
    shown = figures.legend(third, title="Arms")
    assert [text.get_text() for text in shown.get_texts()] == [arm.name for arm in ARMS]
    assert {line.get_color() for line in third.lines} <= {style.color for style in figures.styles.values()}


def test_what_cannot_be_drawn_is_said(figures: Figures) -> None:
    axes = Canvas().subplots()
    with pytest.raises(UserError, match=r"no arm has a mean of 'speed'; there are quality, "):
        figures.intervals(axes, "speed")
    with pytest.raises(UserError, match="on the way"):
        figures.courses(axes, "train_seconds")
    assert not axes.lines
    with pytest.raises(UserError, match="no complete confirm run"):
        Figures(make_results(Study(confirm=False)))
    alone = Figures(make_results(Study(arms=ARMS[:2], trials=1)))
    with pytest.raises(UserError, match="two trained arms"):
        alone.differences(axes)
