"""Several studies in one report: paired where they share subjects and seeds, and told apart where they do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from study.report import build_report
from study.report.comparisons import Settings
from study.report.external_sections import compose_external
from study.report.sections import Report
from study.results.csv_files import read_csv
from study.results.side_by_side import Beside, side_by_side
from tests.helpers.synthetic_results import ARMS, Study, make_results
from trainables.errors import UserError

QUICK = Settings(resamples=500)
SUBJECTS = ("dog-1", "bird-1", "fox-1", "owl-1")
SPEC: dict[str, Any] = {
    "name": "one",
    "model": {"path": "embedded"},
    "subjects": [{"name": name, "images": None} for name in SUBJECTS],
    "confirm": {"subjects": list(SUBJECTS), "seeds": [100, 101]},
    "budget": {"max_train_steps": 100},
    "evaluation": {"num_inference_steps": 8, "at": [0.5]},
    "report": {"margin": 0.05},
    "arms": {},
}


def beside(
    name: str, draw: int, *, subjects: tuple[str, ...] = SUBJECTS, subjects_of: Any = None, **spec: Any
) -> Beside:
    """A study on made-up results; `subjects_of` is what its study file says of its subjects."""
    spec = spec if subjects_of is None else {**spec, "subjects": subjects_of}
    study = Study(arms=ARMS[:3], subjects=subjects, trials=2, modern=True)
    results = make_results(study, draw)
    return Beside(name, replace(results, meta={"study": name, "spec": {**SPEC, "name": name, **spec}}))


def composed(*studies: Beside) -> Report:
    return compose_external(side_by_side(studies), QUICK)


def said(report: Report) -> str:
    return " ".join((report.verdict.headline, *report.verdict.points, *report.verdict.warnings))


def means(study: Beside, arm: str) -> np.ndarray:
    frame = study.results.frame
    own = frame[(frame["phase"] == "confirm") & (frame["arm"] == arm) & (frame["state"] == "COMPLETE")]
    return own.groupby("subject")["quality"].mean().sort_index().to_numpy()


def test_arms_of_two_studies_are_paired_on_common_subjects() -> None:
    one, two = beside("one", 0), beside("two", 1)
    report = composed(one, two)
    assert set(report.rows.arms) == {f"{name}/{arm.name}" for name in ("one", "two") for arm in ARMS[:3]}
    pair = next(
        c for c in report.analysis.pairs if {c.first, c.second} == {"one/lora-cosine", "two/lora-constant"}
    )
    ordered = (one, "lora-cosine"), (two, "lora-constant")
    first, second = ordered if pair.first.startswith("one") else ordered[::-1]
    difference = means(*first) - means(*second)
    assert pair.difference.value == pytest.approx(difference.mean())
    assert pair.difference.n == 8
    assert pair.p == pytest.approx(stats.ttest_1samp(difference, 0.0).pvalue)
    assert report.analysis.arm("one/base").subjects
    assert not any("base" in name for c in report.analysis.pairs for name in (c.first, c.second))
    assert report.analysis.margin == 0.05
    assert "in common" not in said(report)
    assert "The study files agree" in next(s for s in report.sections if s.key == "designs").paragraphs[0]


def test_studies_on_other_subjects_are_not_compared() -> None:
    report = composed(beside("one", 0), beside("two", 1, subjects=("dog-9", "bird-9", "fox-9")))
    across = [c for c in report.analysis.pairs if c.first.split("/")[0] != c.second.split("/")[0]]
    assert len(across) == 4
    assert all(c.difference.value is None and c.outcome == "not enough" for c in across)
    assert "The studies have 0 confirm subjects in common." in said(report)
    assert "4 of 6 pairs of arms have no subject and seed in common and cannot be compared." in said(report)


def test_a_subject_that_is_another_is_not_paired() -> None:
    other = [{"name": "dog-1", "images": "photos/dog"}, *SPEC["subjects"][1:]]
    report = composed(beside("one", 0), replace(beside("two", 1), identity={"subjects": other}))
    assert "Different things are called dog-1 in these studies" in said(report)
    assert {"dog-1 (one)", "dog-1 (two)"} < set(report.rows.frame["subject"])
    pair = next(c for c in report.analysis.pairs if {c.first[:3], c.second[:3]} == {"one", "two"})
    assert pair.difference.n_subjects == 3


def test_the_same_path_with_other_images_is_another_subject() -> None:
    one, two = beside("one", 0), beside("two", 1)
    identity = {"subjects": SPEC["subjects"], "contents": {"subjects.fox-1.images": {"a.png": "1"}}}
    changed = {**identity, "contents": {"subjects.fox-1.images": {"a.png": "2"}}}
    report = composed(replace(one, identity=identity), replace(two, identity=changed))
    assert "Different things are called fox-1" in said(report)
    same = composed(replace(one, identity=identity), replace(two, identity=identity))
    assert "Different things" not in said(same)


def test_of_a_reports_folder_the_images_are_not_known() -> None:
    stated = [{"name": "dog-1", "images": "photos/dog"}, *SPEC["subjects"][1:]]
    one, two = beside("one", 0, subjects_of=stated), beside("two", 1, subjects_of=stated)
    note = "dog-1 is taken for the same by what the study files say"
    assert note in said(composed(one, two))
    identity = {"subjects": stated, "contents": {"subjects.dog-1.images": {"a.png": "1"}}}
    assert note not in said(composed(*(replace(study, identity=identity) for study in (one, two))))
    older = [{"name": "dog-1", "images": "photos/dog", "masks": None}, *SPEC["subjects"][1:]]
    assert "Different things" not in said(composed(one, beside("two", 1, subjects_of=older)))


def test_what_the_designs_differ_in_is_told() -> None:
    report = composed(
        beside("one", 0),
        beside(
            "two",
            1,
            model={"path": "sd15"},
            budget={"max_train_steps": 200},
            evaluation={"num_inference_steps": 8, "at": [0.25]},
            report={"margin": 0.1},
        ),
    )
    table = next(one for one in report.tables if one.key == "designs")
    rows = {row[0].text: (row[1].text, row[2].text) for row in table.rows}
    assert rows == {
        "model.path": ("embedded", "sd15"),
        "budget.max_train_steps": ("100", "200"),
        "evaluation.at": ("0.5", "0.25"),
        "report.margin": ("0.05", "0.1"),
    }
    assert "not judged on one scale: they differ in model.path. A" in said(report)
    assert "differ in how arms were tuned and trained" in said(report)
    assert report.analysis.margin is None


def test_measures_keep_the_titles_and_limits_of_this_program() -> None:
    report = composed(beside("one", 0), beside("two", 1))
    arms = next(one for one in report.tables if one.key == "arms")
    titles = [one.title for one in arms.columns]
    assert titles[3] == "Quality"
    assert "Training with class images" in titles
    assert [column.title for column in next(t for t in report.tables if t.key == "details").columns][3:]


def test_a_report_of_several_is_the_same_from_its_own_data(tmp_path: Path) -> None:
    first = build_report(side_by_side([beside("one", 0), beside("two", 1)]), tmp_path / "a")
    build_report(read_csv(tmp_path / "a"), tmp_path / "b")
    assert first.html.read_bytes() == (tmp_path / "b" / "report.html").read_bytes()


def test_studies_without_confirm_runs_are_refused() -> None:
    empty = Beside("one", make_results(Study(arms=ARMS[:3], confirm=False)))
    with pytest.raises(UserError, match="none of one, one has a complete confirm run"):
        side_by_side([empty, empty])
