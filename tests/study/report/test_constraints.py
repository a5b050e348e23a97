"""The search's objective and its bounds in the verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from study.report.analysis import analyse
from study.report.constraints import Missed, missed_when_chosen, missed_when_confirmed
from study.report.prepared import Rows, prepare
from study.report.verdict import Verdict, judge
from study.results.from_mlflow import Results
from study.spec.phases import Constraint
from tests.helpers.made_reports import QUICK, edited
from tests.helpers.synthetic_results import ARMS, Arm, Study, make_results

SUBJECTS = ("dog-1", "bird-1", "cat-9")
BOUND = {"maximize": "quality_subject_prompt", "subject_to": {"class_kept": ">= 0.8"}}


def results_of(arms: tuple[Arm, ...], objective: object, repeats: int = 1) -> Results:
    study = Study(arms=arms, trials=3, subjects=SUBJECTS, repeats=repeats, modern=True, failing=(), pruned=())
    results = make_results(study)
    results.meta["spec"]["search"]["objective"] = objective
    return results


def verdict_of(results: Results) -> tuple[Rows, Verdict]:
    rows = prepare(results)
    return rows, judge(rows, analyse(rows, QUICK))


def said(verdict: Verdict) -> str:
    return " ".join((verdict.headline, *verdict.points, *verdict.warnings))


def losing(name: str, kept: float = 0.4) -> tuple[Arm, ...]:
    """The usual arms, of which one loses the class."""
    return tuple(replace(arm, kept=kept) if arm.name == name else arm for arm in ARMS)


def test_an_arm_that_misses_the_bound_is_told_of_twice() -> None:
    rows, verdict = verdict_of(results_of(losing("lora-constant"), BOUND))
    mean = rows.confirm[rows.confirm["arm"] == "lora-constant"].groupby("subject")["class_kept"].mean().mean()
    beware = " ".join(verdict.warnings)
    assert (
        f"The bound of the objective, class kept >= 0.8, is missed by the mean of the confirm runs of lora-constant "
        f"({mean:.2f})." in beware
    )
    (chosen,) = missed_when_chosen(rows)
    assert (chosen.name, chosen.constraint.metric) == ("lora-constant", "class_kept")
    assert f"was missed in the search by the chosen trial of lora-constant ({chosen.value:.2f})" in beware
    assert "lora-constant misses" not in verdict.headline  # another arm has the highest mean


def test_the_headline_names_a_bound_that_the_best_arm_misses() -> None:
    arms = (Arm("good", "lora", gain=0.9, kept=0.7), Arm("poor", "lora", gain=0.1))
    _, verdict = verdict_of(results_of(arms, BOUND))
    assert "good misses what the search was bound to: class kept >= 0.8 (0." in verdict.headline


def test_bounds_that_are_kept_are_no_warning() -> None:
    rows, verdict = verdict_of(results_of(ARMS, BOUND))
    assert missed_when_chosen(rows) == missed_when_confirmed(rows) == []
    assert "bound of the objective" not in said(verdict)
    assert "misses" not in said(verdict)


def test_each_search_chose_for_itself() -> None:
    results = results_of(ARMS, BOUND, repeats=2)
    frame = results.frame
    second = (frame["arm"] == "lora-cosine") & (frame["phase"] == "search") & (frame["trial"] == 4)
    results = edited(results, class_kept=frame["class_kept"].where(~second, 0.5))
    rows, verdict = verdict_of(results)
    assert [(m.name, m.value) for m in missed_when_chosen(rows)] == [("lora-cosine (search 2)", 0.5)]
    assert "by the chosen trial of lora-cosine (search 2) (0.50)" in said(verdict)
    assert "mean of the confirm runs" not in said(verdict)


def test_a_chosen_trial_without_the_metric_missed_it() -> None:
    rows, verdict = verdict_of(edited(results_of(ARMS[1:3], BOUND), class_kept=np.nan))
    assert {m.value for m in missed_when_chosen(rows)} == {None}
    assert "lora-cosine (not measured)" in said(verdict)
    assert missed_when_confirmed(rows) == []
    bare = replace(rows, frame=rows.frame.drop(columns="class_kept"))
    assert {m.value for m in missed_when_chosen(bare)} == {None}
    unsearched = replace(rows, frame=rows.frame[rows.frame["phase"] == "confirm"])
    assert missed_when_chosen(unsearched) == []


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (BOUND, "by quality (subject, prompt), where class kept >= 0.8; arms are ranked by quality, whether they keep"),
        ({"maximize": "quality", "subject_to": {"drift": "<= 0.5"}}, "by quality, where drift <= 0.5; arms are ranked"),
        ("subject_fidelity", "by subject fidelity; arms are ranked by quality."),
        ("quality", None),
        (None, None),
    ],
)  # fmt: skip
def test_an_objective_that_is_not_what_ranks_the_arms_is_told(objective: Any, words: str | None) -> None:
    results = results_of(ARMS[1:3], objective)
    _, verdict = verdict_of(results)
    if words is None:
        assert "arms are ranked by" not in said(verdict)
    else:
        assert f"The search chose configurations {words}" in verdict.points[0]
    unsearched = replace(results, frame=results.frame[results.frame["phase"] == "confirm"])
    assert "arms are ranked by" not in said(verdict_of(unsearched)[1])


def test_a_value_is_shown_with_as_many_decimals_as_show_that_it_misses() -> None:
    least, most = (Constraint(metric="class_kept", relation=r, bound=0.8) for r in (">=", "<="))
    assert Missed("a", least, 0.62).text == "a (0.62)"
    assert Missed("a", least, 0.7996).text == "a (0.7996)"
    assert Missed("a", most, 0.801).text == "a (0.801)"
