"""Reports of studies whose units are data sets: tables of their own, and the rest in their words."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from study.report.anytime import compute_courses
from study.report.comparisons import Settings
from study.report.data_sets import character_scores, data_sets_table
from study.report.design import design_of
from study.report.design_tables import phases_words
from study.report.figures.canvas import Figure
from study.report.prepared import prepare
from study.report.searches import search_warnings
from study.report.sections import Report, compose
from study.report.tables import to_html
from study.report.units import reworder
from study.results.frames import Results
from tests.helpers.synthetic_results import ARMS, Arm, Study, make_results
from trainables.evaluation.quality import DATA_SET_RULE, RULE

QUICK = Settings(resamples=200)
STUDY = Study(
    arms=(*ARMS[:2], Arm("one-subject", "lora", gain=0.5)), trials=1, subjects=("cast", "emoji"), modern=True,
    failing=(), pruned=(),
)  # fmt: skip
_ABOUT_SUBJECTS = re.compile(
    r"one-subject|quality_subject|as subjects do|usual of subjects|on single subjects"
)
CAST = ("bibi", "momo", "tutu")


def made() -> Results:
    """Two data sets, of which one names its characters: prompts 0 and 3 are of the first, 1 and 4 of the second, ..."""
    results = make_results(STUDY)
    frame = results.frame.copy()
    confirm = frame["phase"] == "confirm"
    trained = frame["method"] != "base"
    for name, base, tuned in (("dataset_kid", 0.5, 0.1), ("dataset_cmmd", 3.0, 1.0)):
        value = pd.Series(np.where(trained, tuned, base), frame.index).where(confirm)
        value = value + 0.1 * (frame["arm"] == "one-subject")
        frame[name], frame[f"{name}_low"], frame[f"{name}_high"] = value, value - 0.05, value + 0.05
    frame["worst_character"] = 0.3
    frame["worst_character"] = frame["worst_character"].where(confirm & (frame["subject"] == "cast"))
    scores = results.image_scores.copy()
    of_cast = (scores["kind"] == "instance") & (scores["subject"] == "cast")
    scores["character"] = [
        CAST[int(prompt) % 3] if own else None
        for prompt, own in zip(scores["prompt"].fillna(0), of_cast, strict=True)
    ]
    scores.loc[scores["character"] == "momo", "subject_scaled"] -= 0.5
    return replace(results, frame=frame, image_scores=scores)


@pytest.fixture(scope="module")
def report() -> Report:
    return compose(made(), QUICK)


def table_of(report: Report, key: str) -> Any:
    return next(table for table in report.tables if table.key == key)


def test_the_study_is_known_to_be_of_data_sets_by_its_file_or_by_what_was_measured() -> None:
    plain = prepare(make_results(STUDY))
    assert not plain.of_data_sets
    assert prepare(made()).of_data_sets
    for subjects in ([{"name": "x", "dataset": {"path": "x"}}], {"x": {"dataset": {"path": "x"}}}):
        stated = make_results(replace(STUDY, meta={"spec": {"subjects": subjects}}))
        assert prepare(stated).of_data_sets
    photographs = make_results(replace(STUDY, meta={"spec": {"subjects": [{"name": "x", "images": "x"}]}}))
    assert not prepare(photographs).of_data_sets


def test_a_study_of_subjects_says_nothing_of_data_sets() -> None:
    plain = compose(make_results(STUDY), QUICK)
    assert "data-sets" not in [section.key for section in plain.sections]
    texts = " ".join(every_text(plain))
    assert "data set" not in texts.lower()
    assert "dataset_kid" not in to_html(table_of(plain, "measures"))


def test_scores_by_character_are_the_means_of_its_images() -> None:
    rows = prepare(made())
    found = character_scores(rows)
    assert [(one.arm, one.data_set, one.character) for one in found] == [
        (arm, "cast", name) for arm in ("base", "lora-cosine", "one-subject") for name in CAST
    ]
    own = rows.image_scores
    own = own[(own["arm"] == "lora-cosine") & (own["character"] == "momo")]
    score = next(one for one in found if (one.arm, one.character) == ("lora-cosine", "momo"))
    assert score.images == len(own) == 2 * 2 * 2  # prompts, images, seeds
    assert score.subject == pytest.approx(own["subject_scaled"].mean())
    assert score.prompted == pytest.approx(own["prompt_scaled"].mean())
    assert score.failed == pytest.approx(own["failed"].mean())


def test_the_tables_of_data_sets(report: Report) -> None:
    characters = table_of(report, "characters")
    assert [row[2].text for row in characters.rows[:3]] == list(CAST)
    by_set = table_of(report, "data-sets")
    assert [column.key for column in by_set.columns][:2] == ["arm", "dataset_kid"]
    assert [row[1].value for row in by_set.rows] == pytest.approx([0.5, 0.1, 0.2])
    assert by_set.rows[1][1].rank == 1  # the base model is the reference and wins no prize
    assert {row[2].rank for row in by_set.rows} == {None}
    section = next(one for one in report.sections if one.key == "data-sets")
    assert "data sets (cast and emoji)" in section.paragraphs[0]
    assert "lora-cosine momo (S" in section.paragraphs[1]
    assert data_sets_table(prepare(make_results(STUDY)), 0.95) is None


def test_intervals_over_data_sets_are_of_the_level_of_the_report() -> None:
    results = made()
    third = results.frame[results.frame["subject"] == "cast"].assign(subject="third")
    third["run_key"] = third["run_key"].str.replace("cast", "third")
    third["dataset_kid"] += 0.3
    rows = prepare(replace(results, frame=pd.concat([results.frame, third], ignore_index=True)))
    widths = {}
    for level in (0.8, 0.95):
        table = data_sets_table(rows, level)
        assert table is not None
        assert f"Student's {100 * level:g} % intervals" in table.notes[0]
        cell = next(row for row in table.rows if row[0].text == "lora-cosine")[1]
        units = np.array([0.1, 0.1, 0.4])
        quantile = float(scipy.stats.t.ppf(0.5 + level / 2, 2))
        widths[level] = 2 * quantile * units.std(ddof=1) / np.sqrt(3)
        assert cell.high - cell.low == pytest.approx(widths[level])


@pytest.mark.parametrize(("prompts", "shared"), [(None, False), (["{subject}a cat"], True)])
def test_captions_are_dealt_out_whatever_the_study_lets_the_phases_share(
    prompts: list[str] | None, shared: bool
) -> None:
    results = made()
    spec = {**results.meta["spec"], "evaluation": {"prompts": prompts}}
    spec["search"] = {**spec.get("search", {}), "allow_overlap": True}
    rows = prepare(replace(results, meta={**results.meta, "spec": spec}))
    words = phases_words(rows, design_of(rows))
    before, _, _ = words.partition("may be shared")
    assert ("prompts" in before.partition("(")[2]) == shared
    (warning,) = search_warnings(rows)
    assert ("subjects or prompts" in warning) == shared
    assert ("dealt out" in warning) == (not shared)


def every_text(report: Report) -> list[str]:
    found = [report.verdict.headline, *report.verdict.points, *report.verdict.warnings]
    found += [value for _, value in report.summary]
    for section in report.sections:
        found += [section.title, *section.paragraphs, *section.after]
        for table in section.tables:
            found += [table.caption, *table.notes, *(column.title for column in table.columns)]
        found += [figure.caption for figure in section.figures if isinstance(figure, Figure)]
    return found


def test_the_report_speaks_of_data_sets_and_captions(report: Report) -> None:
    texts = every_text(report)
    joined = " ".join(texts)
    left = [text for text in texts if "subject" in _ABOUT_SUBJECTS.sub("", text)]
    assert left == []
    assert "Style fidelity (scaled)" in joined
    assert "caption fidelity" in joined.lower()
    assert "one-subject" in joined  # an arm's name is the user's
    assert "2 data sets × 2 seeds" in dict(report.summary)["Confirm"]
    assert any(
        "on 2 data sets" in text for text in report.verdict.warnings
    )  # two units: no intervals, and it says so
    method = next(section for section in report.sections if section.key == "method")
    assert method.paragraphs[0] == DATA_SET_RULE
    assert "The unit is the data set: runs of one data set are averaged" in " ".join(method.paragraphs)
    measures = to_html(table_of(report, "measures"))
    assert "dataset_kid" in measures
    assert "quality_subject_prompt" in measures
    assert "Mean cosine similarity of image and held-out caption, without the trigger." in measures
    assert "class named in the place" not in measures
    assert measures.count("where the scale ends, is 1") == 2, "data sets have no ceilings"
    assert RULE not in joined


def test_figures_are_drawn_in_the_same_words(report: Report) -> None:
    figure = next(figure for figure in report.figures if figure.key == "pareto-fidelities")
    canvas = figure.draw()
    labels = [canvas.axes[0].get_xlabel(), canvas.axes[0].get_ylabel()]
    assert any("tyle fidelity" in label for label in labels)
    assert not any("ubject" in label for label in labels)


def test_words_are_changed_and_names_are_not() -> None:
    reword = reworder(("prompt-lora", "subject"))
    assert (
        reword("prompt-lora draws images of the subject") == "prompt-lora draws images of held-out captions"
    )
    assert reword("subject") == "subject"  # an arm's name
    assert (
        reword("Subjects by seeds; class prompts; 16 prompts")
        == "Data sets by seeds; class prompts; 16 held-out captions"
    )
    assert (
        reword("evaluation.prompts and quality_subject_prompt")
        == "evaluation.prompts and quality_subject_prompt"
    )


def test_data_sets_share_no_captions(report: Report) -> None:
    """Prompt number 2 of one is another caption than number 2 of the other: no mean over both, and nothing crossed."""
    scores = made().image_scores
    captions = [
        f"{{subject}}{name} {int(number)}"
        for name, number in zip(scores["subject"], scores["prompt"].fillna(0), strict=True)
    ]
    again = compose(replace(made(), image_scores=scores.assign(template=captions)), QUICK)
    prompts = table_of(again, "prompts")
    own = [row[2].text for row in prompts.rows if row[0].text == "lora-cosine"]
    assert own == [f"{name} {number}" for name in ("cast", "emoji") for number in range(6)]
    assert "components" not in [table.key for table in again.tables]
    assert "components" in [table.key for table in compose(make_results(STUDY), QUICK).tables]


def test_without_runs_of_the_base_model_caption_fidelity_has_no_known_beginning() -> None:
    results = made()
    trained = results.frame[results.frame["method"] != "base"]
    for data, known in ((results, True), (replace(results, frame=trained), False)):
        (course, *_) = compute_courses(prepare(data), "prompt_fidelity_scaled", 0.95).courses
        assert (course.points[0].share == 0) is known


def test_comparisons_with_the_base_model_are_told_in_words_of_data_sets(report: Report) -> None:
    table = table_of(report, "against-base")
    text = to_html(table)
    assert "style fidelity" in text
    assert "caption fidelity" in text
    assert "Style and caption fidelity, rescaled and not clipped" in text
    assert "subject fidelity" not in text.lower()
    assert "prompt" not in text.lower()
    assert "that of captions at real ones" in text


def test_without_distances_the_table_is_of_the_worst_character_and_says_why() -> None:
    results = made()
    frame = results.frame.drop(columns=[name for name in results.frame if name.startswith("dataset_")])
    table = data_sets_table(prepare(replace(results, frame=frame)), 0.95)
    assert table is not None
    assert table.caption == "The worst character, confirm runs."
    assert [column.key for column in table.columns] == ["arm", "worst_character"]
    assert "need 50 images on each side" in table.notes[-1]


def test_what_was_measured_on_subjects_is_not_said_of_data_sets(report: Report) -> None:
    said = " ".join(every_text(report)) + to_html(table_of(report, "measures"))
    assert "real images of other captions are 0 and those of their own are 1" in said
    assert "both limits were measured on single subjects" in said.lower()
    assert "erfect pictures" not in said
    assert "vary as usual" not in said
    assert "usual spread" not in said
