"""Courses of training: from the base model over the evaluations on the way to the end, by share and by cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from study.report.anytime import anytime_table, compute_courses, few_points_words
from study.report.comparisons import Settings
from study.report.figures.canvas import Figure, figure_style
from study.report.prepared import prepare
from study.report.sections import compose
from study.report.tables import to_csv
from tests.helpers.synthetic_results import ARMS, STEPS, Study, make_results

QUICK = Settings(resamples=300)
STUDY = Study(arms=ARMS[:5], trials=1, subjects=("a", "b", "c"), modern=True, failing=(), pruned=())


def test_five_evaluations_make_six_points_with_intervals() -> None:
    rows = prepare(make_results(STUDY))
    found = compute_courses(rows, "quality", 0.95)
    assert len(found.courses) == 4
    for course in found.courses:
        assert [round(p.share, 2) for p in course.points] == [0.0, 0.1, 0.25, 0.5, 0.75, 1.0]
        assert all(p.estimate.low is not None for p in course.points[1:])
        assert course.points[-1].steps == STEPS


def test_cost_until_then_has_the_class_images_first() -> None:
    rows = prepare(make_results(STUDY))
    courses = {c.arm: c for c in compute_courses(rows, "quality", 0.95).courses}
    own = rows.confirm[rows.confirm["arm"] == "dreambooth-cosine"]
    images = own["class_image_seconds"].mean()
    points = courses["dreambooth-cosine"].points
    assert points[0].seconds == pytest.approx(images)
    assert points[-1].seconds == pytest.approx(own["total_seconds"].mean())
    assert points[3].flops == pytest.approx((own["train_flops"] / 2 + own["class_image_flops"]).mean())
    assert courses["lora-cosine"].points[0].seconds == 0.0


def test_runs_of_different_length_are_put_together_by_place() -> None:
    results = make_results(STUDY)
    curves = results.curves.copy()
    short = curves["subject"].eq("a") & curves["method"].ne("base")
    curves["step"] = curves["step"].where(~short, curves["step"] // 3)
    rows = prepare(replace(results, curves=curves))
    course = compute_courses(rows, "quality", 0.95).courses[0]
    assert len(course.points) == 6
    assert {p.estimate.n_subjects for p in course.points} == {3}
    assert course.points[-1].share == 1.0
    assert course.points[-1].steps == pytest.approx((STEPS + STEPS + STEPS // 3) / 3)


def test_runs_evaluated_at_other_places_are_put_together_by_share() -> None:
    results = make_results(STUDY)
    gone = results.curves["subject"].eq("a") & results.curves["step"].eq(75)
    rows = prepare(replace(results, curves=results.curves[~gone]))
    course = compute_courses(rows, "quality", 0.95).courses[0]
    assert [p.estimate.n_subjects for p in course.points] == [3, 3, 3, 2, 3, 3]


def test_without_a_base_arm_the_scale_says_where_training_starts() -> None:
    results = make_results(replace(STUDY, arms=ARMS[1:3]))
    rows = prepare(results)
    for name, value in (("quality", 0.0), ("prompt_fidelity_scaled", 1.0), ("class_kept", 1.0)):
        course = compute_courses(rows, name, 0.95).courses[0]
        assert (course.points[0].share, course.points[0].estimate.value) == (0.0, value)
        assert course.points[0].estimate.low is None
    assert compute_courses(rows, "subject_fidelity", 0.95).courses[0].points[0].share > 0


def test_table_and_figures_show_every_measure() -> None:
    report = compose(make_results(STUDY), QUICK)
    table = next(table for table in report.tables if table.key == "anytime")
    lines = to_csv(table).splitlines()
    assert len(lines) == 1 + 4 * 6
    head = lines[0].split(",")
    assert {"share", "steps", "seconds", "flops", "quality", "quality_low", "class_kept"} <= set(head)
    for figure in report.figures:
        if figure.key in ("curves", "anytime"):
            with figure_style():
                canvas = figure.draw()
            assert len(canvas.axes) == (4 if figure.key == "curves" else 2)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((75, STEPS), "has 3 points, beginning and end of training included"),
        ((38, 75, STEPS), "has 4 points"),
        ((38, 75, 112, STEPS), None),
    ],
)
def test_few_points_are_counted_beside_the_figure(steps: tuple[int, ...], said: str | None) -> None:
    results = make_results(STUDY)
    kept = results.curves[results.curves["step"].isin((0, *steps))]
    report = compose(replace(results, curves=kept), QUICK)
    section = next(section for section in report.sections if section.key == "curves")
    assert section.figures
    assert all(isinstance(figure, Figure) for figure in section.figures)
    if said is None:
        assert section.paragraphs == ()
    else:
        (text,) = section.paragraphs
        assert said in text
        assert "`evaluation.at` in the study file adds places" in text


def test_arms_with_unlike_numbers_of_points() -> None:
    results = make_results(STUDY)
    fewer = results.curves["arm"].eq("lora-cosine") & results.curves["step"].isin((15, 38))
    found = [compute_courses(prepare(replace(results, curves=results.curves[~fewer])), "quality", 0.95)]
    assert "has 4 to 6 points" in few_points_words(found)[0]
    assert few_points_words([]) == ()


def test_nothing_on_the_way_says_so() -> None:
    results = make_results(STUDY)
    last = results.curves[results.curves["step"].isin((0, STEPS))]
    report = compose(replace(results, curves=last), QUICK)
    assert not {"curves", "anytime"} & {figure.key for figure in report.figures}
    section = next(section for section in report.sections if section.key == "curves")
    assert section.paragraphs == ()  # the reason why there is no figure names evaluation.at
    assert anytime_table([]) is None
