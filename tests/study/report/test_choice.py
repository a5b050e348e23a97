"""Measures with and without a direction, and whether the ranking depends on how quality is put together."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from study.report.analysis import Analysis, analyse
from study.report.comparisons import Settings, compare
from study.report.measures import measure
from study.report.pairing import Contrast, Values
from study.report.prepared import Rows, prepare
from study.report.results_tables import choice_table, details_table, measures_table
from study.report.sections import compose
from study.report.tables import estimate_column, to_csv
from study.report.verdict import judge
from study.statistics.paired import Estimate, pareto_front
from tests.helpers.synthetic_results import ARMS, Study, make_results

QUICK = Settings(resamples=300)
SUBJECTS = ("dog-1", "bird-1", "cat-9", "owl-1")


def kept(**values: float) -> Study:
    arms = tuple(replace(arm, kept=values.get(arm.name.replace("-", "_"), arm.kept)) for arm in ARMS)
    return Study(arms=arms, trials=1, subjects=SUBJECTS, modern=True, failing=(), pruned=())


def analysed(study: Study) -> tuple[Rows, Analysis]:
    rows = prepare(make_results(study))
    return rows, analyse(rows, QUICK)


# ------------------------------------------------------------------ no direction


def test_a_measure_without_a_direction_has_no_sign_and_no_arrow() -> None:
    about = measure("diversity")
    assert (about.direction, about.better) == ("none", "neither")
    assert math.isnan(about.sign)
    estimates = [Estimate(0.2), Estimate(0.4)]
    column, cells = estimate_column("diversity", about.title, "", about.direction, estimates)
    assert column.heading == "Diversity"
    assert [cell.rank for cell in cells] == [None, None]
    _, ranked = estimate_column("quality", "Quality", "", "max", estimates)
    assert [cell.rank for cell in ranked] == [2, 1]


def test_an_unknown_measure_has_no_direction() -> None:
    assert measure("made_up_by_somebody").direction == "none"


def test_a_difference_without_a_direction_is_neither_better_nor_worse() -> None:
    units = np.array([0.30, 0.31, 0.32, 0.30])
    contrast = Contrast("a", "b", "diversity", units, tuple(units), np.full(4, np.nan))
    (comparison,) = compare([contrast], None, QUICK)
    assert comparison.outcome == "different"
    assert comparison.reversed().outcome == "different"
    assert comparison.improvement.value is None
    assert comparison.established


def test_no_run_is_better_than_another_without_a_direction() -> None:
    array = np.array([[[1.0, 2.0]], [[0.0, 1.0]]])
    contrast = Values("diversity", ("a", "b"), ("s",), array).contrast("a", "b")
    assert np.isnan(contrast.chances).all()
    assert contrast.units.tolist() == [1.0]


def test_a_front_needs_directions() -> None:
    with pytest.raises(ValueError, match="better direction"):
        pareto_front([[1.0, 2.0]], ("min", "none"))


def test_tables_say_that_neither_way_is_better() -> None:
    _, analysis = analysed(kept())
    table = details_table(analysis)
    place = [column.key for column in table.columns].index("diversity")
    assert {row[place].rank for row in table.rows} == {None}
    assert "diversity,Diversity,neither," in to_csv(measures_table())


# ------------------------------------------------------------------ two rankings


def test_quality_is_blind_to_nothing_and_the_headline_says_so() -> None:
    """What the report did before: the arm that turns every member of the class into the subject was the best."""
    rows, analysis = analysed(kept(dreambooth_cosine=0.2))
    choice = analysis.choice
    assert choice is not None
    assert (choice.best, choice.other_best) == (analysis.best, "dreambooth-cosine")
    assert choice.best != "dreambooth-cosine"
    headline = judge(rows, analysis).headline
    assert (
        "But by subject and prompt alone dreambooth-cosine has the highest mean (not established), which loses the "
        "class (class kept 0.2" in headline
    )


def test_an_arm_that_keeps_some_of_the_class_does_not_lose_it() -> None:
    rows, analysis = analysed(kept(dreambooth_cosine=0.7))
    assert "which keeps less of the class (class kept 0.7" in judge(rows, analysis).headline


def test_a_ranking_that_does_not_depend_on_it_is_not_mentioned() -> None:
    rows = prepare(make_results(kept()))
    rows = replace(rows, frame=rows.frame.assign(quality=rows.frame["quality_subject_prompt"]))
    analysis = analyse(rows, QUICK)
    assert analysis.choice is not None
    assert analysis.choice.best == analysis.choice.other_best == "dreambooth-cosine"
    assert not analysis.choice.depends
    assert "subject and prompt alone" not in judge(rows, analysis).headline


def test_a_verdict_between_the_top_arms_that_depends_on_it_is_told() -> None:
    """The best stays the best, but its lead is established only where the class counts."""
    results = make_results(kept())
    rows = prepare(results)
    frame = rows.frame
    lead = frame["arm"].map({"dreambooth-cosine": 0.60, "lora-cosine": 0.599}).fillna(0.3)
    noise = frame["subject"].map({name: k for k, name in enumerate(SUBJECTS)}).fillna(0)
    jitter = 0.05 * noise.mod(2) * (frame["arm"] == "lora-cosine")
    blind = lead + jitter - 0.03 * (frame["arm"] == "lora-cosine")
    quality = lead - 0.2 * (frame["arm"] == "lora-cosine") + 0.001 * noise * (frame["arm"] == "lora-cosine")
    rows = replace(rows, frame=frame.assign(quality=quality, quality_subject_prompt=blind))
    analysis = analyse(rows, QUICK)
    choice = analysis.choice
    assert choice is not None
    assert choice.best == choice.other_best
    assert choice.depends
    assert (
        "the verdict depends on the class: dreambooth-cosine is better than lora-cosine"
        in judge(rows, analysis).headline
    )


def test_both_rankings_stand_in_a_table_and_each_measure_has_its_family() -> None:
    _, analysis = analysed(kept(dreambooth_cosine=0.2))
    assert analysis.choice is not None
    lines = to_csv(choice_table(analysis.choice)).splitlines()
    assert len(lines) == len(ARMS)  # a head, and the arms but the base
    last = lines[-1].split(",")
    assert last[0] == "dreambooth-cosine"
    assert last[lines[0].split(",").index("quality_rank")] == "5"
    assert last[lines[0].split(",").index("quality_subject_prompt_rank")] == "1"
    assert len(analysis.pairs) == len(analysis.pairs_subject_prompt) == 10
    assert {c.measure for c in analysis.pairs_subject_prompt} == {"quality_subject_prompt"}


def test_older_data_has_one_ranking() -> None:
    report = compose(make_results(Study(trials=1, subjects=SUBJECTS)), QUICK)
    assert report.analysis.choice is None
    assert report.analysis.pairs_subject_prompt == ()
    assert not {"choice", "pairs-subject-prompt", "ceilings", "prompts", "components", "tuning-cost"} & {
        table.key for table in report.tables
    }
