"""Figures: their values first, then that every label is readable: inside the figure, and over no other."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from study.report.analysis import Settings
from study.report.anytime import compute_courses
from study.report.figures.canvas import FORMATS, Figure, Skipped, cost_axis, figure_style, new_canvas, render
from study.report.figures.pareto import compute_front
from study.report.figures.samples import REFERENCES, compute_grid, few_colours, sample_figures
from study.report.figures.search import history_figure
from study.report.figures.style import MARKERS, PALETTE, arm_labels, arm_styles, axis_label, room_for, shorten
from study.report.prepared import Drawn, prepare
from study.report.search_history import histories
from study.report.sections import Report, compose
from tests.helpers.synthetic_results import ARMS, PROMPTS, STEPS, Arm, Study, make_results

QUICK = Settings(resamples=300)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return compose(make_results(Study(trials=12, folder=tmp_path_factory.mktemp("images"))), QUICK)


@pytest.fixture(scope="module")
def crowded() -> Report:
    """Twelve arms with long names and costs over four decades."""
    arms = tuple(
        Arm(
            f"dreambooth-rank-{4**k}-of-many_{schedule}",
            "lora",
            schedule,
            0.3 + 0.05 * k,
            parameters=1000 * 4**k,
        )
        for k in range(6)
        for schedule in ("cosine", "constant")
    )
    return compose(make_results(Study(arms=(*arms, ARMS[0]), trials=9)), QUICK)


def texts_of(canvas: Canvas) -> list[Text]:
    shown = []
    for text in canvas.findobj(Text):
        parents = [text.axes] if text.axes is not None else []
        if text.get_visible() and text.get_text().strip() and all(ax.get_visible() for ax in parents):
            shown.append(text)
    return shown


def outside(box: Bbox, width: float, height: float) -> bool:
    return bool(box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1)


def unreadable(figure: Figure) -> list[str]:
    """Labels that are cut off by the edge, and tick labels of one axis that overlap."""
    with figure_style():
        canvas = figure.draw()
        canvas.draw_without_rendering()
        renderer = canvas.canvas.get_renderer()  # type: ignore[attr-defined]
        width, height = canvas.bbox.width, canvas.bbox.height
        problems = []
        for ax in canvas.axes:
            for axis in (ax.xaxis, ax.yaxis) if ax.get_visible() and ax.axison else ():
                low, high = sorted(axis.get_view_interval())
                ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
                labels = [
                    tick.label1
                    for tick in ticks
                    if tick.label1.get_visible() and tick.label1.get_text() and low <= tick.get_loc() <= high
                ]
                boxes = [label.get_window_extent(renderer) for label in labels]
                for k, one in enumerate(boxes):
                    problems += [
                        f"{labels[k].get_text()!r} overlaps {labels[j].get_text()!r}"
                        for j in range(k)
                        if one.overlaps(boxes[j])
                    ]
                for text in (*labels, axis.label):
                    box = text.get_window_extent(renderer)
                    if text.get_text() and (
                        box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
                    ):
                        problems.append(f"{text.get_text()!r} is cut off")
        for text in (*canvas.texts, *(entry for legend in canvas.legends for entry in legend.get_texts())):
            box = text.get_window_extent(renderer)
            if outside(box, width, height):
                problems.append(f"{text.get_text()!r} is cut off")
        return problems


def test_every_figure_is_there(report: Report) -> None:
    assert {figure.key for figure in report.figures} == {
        "ranked", "intervals", "differences", "pareto-quality-cost", "pareto-fidelities", "pareto-costs", "samples-1",
        "cosine-vs-constant", "curves", "anytime", "search-history", "importance",
        "early-rungs", "hyperparameter-effects",
    }  # fmt: skip


def test_every_label_can_be_read(report: Report) -> None:
    assert {figure.key: unreadable(figure) for figure in report.figures} == {
        figure.key: [] for figure in report.figures
    }


def test_every_label_can_be_read_with_twelve_arms(crowded: Report) -> None:
    found = {figure.key: unreadable(figure) for figure in crowded.figures}
    assert {key: problems for key, problems in found.items() if problems} == {}


def test_widths_are_those_of_a_paper(report: Report) -> None:
    with figure_style():
        for figure in report.figures:
            canvas = figure.draw()
            width = canvas.get_size_inches()[0]
            assert canvas.get_suptitle() == ""  # captions are the paper's
            assert width <= 6.76, figure.key
            if figure.key in ("pareto-quality-cost", "pareto-fidelities"):
                assert width == 3.25


def test_formats_embed_their_fonts_and_no_date(report: Report) -> None:
    files = render(next(figure for figure in report.figures if figure.key == "curves")).files
    assert set(files) == set(FORMATS)
    assert files["pdf"].startswith(b"%PDF")
    assert b"/Type /Font" in files["pdf"]
    assert b"/Subtype /Type3" not in files["pdf"]
    assert b"CreationDate" not in files["pdf"]
    assert b"<dc:date>" not in files["svg"]
    assert files["png"].startswith(b"\x89PNG")


# ------------------------------------------------------------------ values


def test_front_leaves_the_base_model_out_of_costs(report: Report) -> None:
    front = compute_front(report.analysis, "train_seconds", "quality")
    assert "base" not in [point.arm for point in front.points]
    assert front.base is not None
    on = [(p.x.value, p.y.value) for p in front.points if p.on_front]
    assert on == sorted(on)
    assert [y for _, y in on] == sorted(y for _, y in on)
    plane = compute_front(report.analysis, "subject_fidelity", "prompt_fidelity", with_base=True)
    assert "base" in [point.arm for point in plane.points]


def test_courses_go_from_the_base_model_over_each_evaluation_to_the_end(report: Report) -> None:
    found = compute_courses(report.rows, "quality", QUICK.level)
    assert found.base == ("base", 0.0)
    assert [[p.steps for p in course.points] for course in found.courses] == [[0, 50, 100, STEPS]] * 5
    assert [p.share for p in found.courses[0].points] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert all(course.points[0].estimate.value == 0.0 for course in found.courses)
    last = {course.arm: course.points[-1].estimate for course in found.courses}
    for result in report.analysis.arms:
        if not result.is_base:
            assert last[result.arm].value == pytest.approx(result.estimates["quality"].value)
            assert last[result.arm].n == 4


def test_curves_use_confirm_runs_only(report: Report) -> None:
    results = make_results()
    searching = results.curves.assign(run_key="search/lora-cosine/0000-cat-1-s0", value=9.0)
    rows = prepare(replace(results, curves=searching))
    assert compute_courses(rows, "quality", QUICK.level).courses == ()


def test_a_grid_shows_references_base_and_arms_on_the_same_prompts(report: Report) -> None:
    grid = compute_grid(report.rows, report.gallery)
    assert grid is not None
    assert grid.subject == "bird-1"
    assert [row.label for row in grid.rows] == [arm.name for arm in ARMS]
    assert grid.references is not None
    assert grid.references.shape[1] > 3 * grid.references.shape[0]  # four, side by side
    assert grid.columns == tuple(prompt.replace("subject", "{subject}") for prompt in PROMPTS)
    assert grid.seed == 100
    for row in grid.rows:  # of two images a prompt the first
        assert {picture.shape for picture in row.pictures if picture is not None} == {(64, 64, 3)}
        assert all(picture is not None for picture in row.pictures)


def test_a_grid_says_what_it_shows(report: Report) -> None:
    figure = next(figure for figure in report.figures if figure.key == "samples-1")
    assert (
        "images of the base model and of each arm" in figure.caption
    )  # how many prompts there were is not known
    rows = replace(report.rows, drawn={"confirm": Drawn(16, 64, 8)})
    (first,) = sample_figures(rows, report.gallery)
    assert isinstance(first, Figure)
    assert f"one image a prompt, for {len(PROMPTS)} of 16 prompts, of the base model" in first.caption
    assert "apart from the columns: held-out references" in first.caption
    with figure_style():
        texts = {text.get_text().replace("\n", " ") for text in figure.draw().texts}
    assert REFERENCES in texts
    assert "a {subject} on a beach" in texts


def test_a_grid_is_written_small_and_without_svg(report: Report) -> None:
    figure = next(figure for figure in report.figures if figure.key == "samples-1")
    files = render(figure).files
    assert set(files) == {"pdf", "png"}
    with Image.open(io.BytesIO(files["png"])) as image:
        assert image.mode == "P"
    many = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert len(np.unique(few_colours(many).reshape(-1, 3), axis=0)) <= 256


# ------------------------------------------------------------------ style


def test_two_arms_a_method_share_its_colour() -> None:
    styles = arm_styles([arm.name for arm in ARMS], {arm.name: arm.method for arm in ARMS})
    assert styles["lora-cosine"].color == styles["lora-constant"].color
    assert styles["lora-cosine"].filled
    assert not styles["lora-constant"].filled
    assert len({style.color for style in styles.values()}) == 4


def test_many_arms_are_told_apart() -> None:
    names = [f"a{k}" for k in range(12)]
    styles = arm_styles(names, dict.fromkeys(names, "lora"))
    assert len({(style.color, style.marker) for style in styles.values()}) == 12
    assert len(MARKERS) >= 12
    assert len(set(PALETTE)) == len(PALETTE)
    assert (
        len({styles[name].color for name in names[:8]}) == 8
    )  # {adapter, full} x {prior, no prior} x two schedules


def test_axis_labels_stay_within_their_panels() -> None:
    assert axis_label("Δ subject fidelity (scaled)", 1) == "Δ subject fidelity (scaled)"
    assert axis_label("Δ subject fidelity (scaled)", 4) == "Δ subject fidelity\n(scaled)"


def test_labels_of_long_names_stay_different() -> None:
    names = [f"dreambooth-rank-{4**k}-of-many_{s}-schedule" for k in range(6) for s in ("cosine", "constant")]
    labels = arm_labels([*names, "base"])
    assert labels["base"] == "base"
    assert len(set(labels.values())) == 13
    assert max(map(len, labels.values())) <= 28
    assert labels[names[0]] == "…1-of-many_cosine…"
    same = arm_labels(["a" * 60, "a" * 61, "a" * 62])
    assert len(set(same.values())) == 3


def test_names_are_shortened_in_the_middle() -> None:
    assert shorten("short") == "short"
    long = shorten("dreambooth-with-a-very-long-name-and-rank-16")
    assert len(long) <= 28
    assert long.endswith("rank-16")
    assert shorten("a\nb\x00") == "a b "


@pytest.mark.parametrize(
    ("values", "scale"), [([1e5, 6.7e6], "log"), ([10.0, 25.0], "linear"), ([], "linear")]
)
def test_wide_ranges_of_cost_are_logarithmic(values: list[float], scale: str) -> None:
    with figure_style():
        ax = new_canvas(2, 2).subplots()
        cost_axis(ax, "trainable_parameters", values)
        assert ax.get_xscale() == scale
        assert ax.get_xlabel().startswith("Trained parameters")


# ------------------------------------------------------------------ gaps


def test_a_study_with_nothing_says_why_nothing_is_shown() -> None:
    found = compose(make_results(Study(confirm=False, trials=2)), QUICK)
    reasons = {
        item.key: item.reason
        for section in found.sections
        for item in section.figures
        if isinstance(item, Skipped)
    }
    assert {"pareto-quality-cost", "curves", "samples", "importance", "cosine-vs-constant"} <= set(reasons)
    assert all(reasons.values())
    assert {figure.key for figure in found.figures} == {"search-history"}


def test_ends_only_make_no_curve() -> None:
    results = make_results()
    ends = results.curves[results.curves["step"].isin([0, STEPS])]
    found = compose(replace(results, curves=ends), QUICK)
    (item,) = [item for section in found.sections for item in section.figures if item.key == "curves"]
    assert isinstance(item, Skipped)
    assert "evaluation.at" in item.reason


def test_scores_are_never_on_a_logarithmic_axis() -> None:
    with figure_style():
        ax = new_canvas(3, 2).subplots()
        cost_axis(ax, "subject_fidelity_scaled", [0.03, 0.8])
        assert ax.get_xscale() == "linear"


def test_captions_speak_of_nothing_that_cannot_be_there(report: Report) -> None:
    """Two subjects have no interval, no test and no table of stability."""
    few = {figure.key: figure.caption for figure in report.figures}
    for key in ("differences", "cosine-vs-constant"):
        assert "Nothing was tested" in few[key]
        assert "Filled" not in few[key]
        assert "(thin" not in few[key]
    assert "stability" not in few["pareto-quality-cost"]
    assert "interval" not in few["intervals"] + few["pareto-fidelities"] + few["curves"] + few["anytime"]
    many = compose(make_results(Study(trials=1, subjects=("a", "b", "c"))), QUICK)
    captions = {figure.key: figure.caption for figure in many.figures}
    assert "(thick)" in captions["differences"]
    assert "Filled" in captions["differences"]
    assert "Square" in captions["differences"]
    assert "stands in the table of stability" in captions["pareto-quality-cost"]
    assert "ranking" in {table.key for table in many.tables}
    assert "Horizontal line" in captions["pareto-quality-cost"]
    alone = compose(make_results(Study(arms=ARMS[1:], trials=1)), QUICK)
    assert "Horizontal line" not in next(f.caption for f in alone.figures if f.key == "pareto-quality-cost")


def test_panels_name_their_axis_in_the_last_line_so_that_an_empty_place_makes_no_gap(crowded: Report) -> None:
    figure = history_figure(histories(crowded.rows)[:11], arm_styles(crowded.rows.arms, crowded.rows.methods))
    assert isinstance(figure, Figure)
    with figure_style():
        canvas = figure.draw()
        canvas.draw_without_rendering()
    shown = [ax for ax in canvas.axes if ax.get_visible()]
    assert len(shown) == 11
    lines = sorted({round(ax.get_position().y0, 3) for ax in shown})
    assert {round(ax.get_position().y0, 3) for ax in shown if ax.get_xlabel()} == {lines[0]}
    gaps = np.diff(lines)
    assert gaps.max() < 1.25 * gaps.min()


def test_many_marks_are_fainter_and_smaller_than_few() -> None:
    assert room_for(10, 0.45, 0.15) == room_for(30, 0.45, 0.15) == 0.45
    assert room_for(60, 0.45, 0.15) == pytest.approx(0.225)
    assert room_for(10_000, 0.45, 0.15) == 0.15
    assert room_for(0, 14, 5) == 14
