"""What the report says of the search: objective and constraints, repeats, budget, dimensions, overlap."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from study.report.analysis import analyse
from study.report.budgets import budget_of, chosen_configurations
from study.report.caveats import uneven_dimensions
from study.report.comparisons import Settings
from study.report.figures.canvas import figure_style
from study.report.prepared import Rows, prepare
from study.report.search_history import histories
from study.report.searches import (
    budget_words,
    repeat_of,
    repeats_words,
    search_objective,
    trials_of_search,
)
from study.report.sections import Section, compose
from study.report.verdict import judge
from study.results.frames import Results
from tests.helpers.synthetic_results import Study, make_results

QUICK = Settings(resamples=300)
SUBJECTS = ("dog-1", "bird-1", "cat-9", "owl-1")
TWICE = Study(trials=4, repeats=2, subjects=SUBJECTS, modern=True, failing=(), pruned=())


def with_search(results: Results, **fields: Any) -> Results:
    results.meta["spec"]["search"].update(fields)
    return results


def section_of(results: Results, key: str) -> Section:
    return next(section for section in compose(results, QUICK).sections if section.key == key)


def test_a_constrained_objective_is_read_and_named() -> None:
    objective = {"maximize": "quality_subject_prompt", "subject_to": {"class_kept": ">= 0.8"}}
    about = search_objective(prepare(with_search(make_results(), objective=objective)))
    assert about.metric == "quality_subject_prompt"
    assert about.words == "quality (subject, prompt), where class kept >= 0.8"
    assert [(c.metric, c.relation, c.bound) for c in about.constraints] == [("class_kept", ">=", 0.8)]


@pytest.mark.parametrize(
    ("value", "name"),
    [("drift", "drift"), ({"minimize": "drift"}, "drift"), ("diversity", "quality"), ({"maximize": 3}, "quality"),
     (["subject_fidelity", "drift"], "subject_fidelity"), (None, "quality")],
)  # fmt: skip
def test_objectives_of_every_form(value: object, name: str) -> None:
    assert search_objective(prepare(with_search(make_results(), objective=value))).metric == name


def test_trials_that_miss_the_constraint_are_marked_and_never_best() -> None:
    study = Study(trials=4, modern=True, failing=(), pruned=())
    objective = {"maximize": "quality_subject_prompt", "subject_to": {"class_kept": ">= 0.9"}}
    results = with_search(make_results(study), objective=objective)
    rows = prepare(results)
    found = histories(rows)
    assert {met for history in found for met in history.feasible} == {True, False}
    for history in found:
        best = None
        for score, met, so_far in zip(history.scores, history.feasible, history.best, strict=True):
            best = max(best or 0.0, score) if met and score is not None else best
            assert so_far == best
    figure = next(f for f in compose(results, QUICK).figures if f.key == "search-history")
    assert "miss the objective's constraint" in figure.caption
    with figure_style():
        figure.draw()


def test_a_search_without_any_feasible_trial_is_told() -> None:
    objective = {"maximize": "quality", "subject_to": {"class_kept": ">= 0.999"}}
    results = with_search(
        make_results(Study(trials=2, modern=True, failing=(), pruned=())), objective=objective
    )
    text = " ".join(section_of(results, "search").paragraphs)
    assert "no trial met the constraint" in text
    assert "lora-cosine" in text


def test_a_run_without_the_constrained_metric_misses_it() -> None:
    results = with_search(
        make_results(), objective={"maximize": "quality", "subject_to": {"class_kept": ">= 0"}}
    )
    assert not any(met for history in histories(prepare(results)) for met in history.feasible)


# ------------------------------------------------------------------ repeats


def test_each_search_has_its_history_choice_and_subjects() -> None:
    rows = prepare(make_results(TWICE))
    found = [history for history in histories(rows) if history.arm == "lora-cosine"]
    assert [(h.repeat, h.trials) for h in found] == [(0, (0, 1, 2, 3)), (1, (4, 5, 6, 7))]
    chosen = chosen_configurations(rows)
    assert chosen["lora-cosine (search 1)"]["trial"] == 1
    assert chosen["lora-cosine (search 2)"]["trial"] == 5
    (text,) = repeats_words(rows)
    assert "searched 2 times" in text
    assert "search 1: cat-9 and dog-1; search 2: bird-1 and owl-1" in text


def test_one_search_says_that_its_own_chance_is_in_no_interval() -> None:
    study = Study(trials=4, subjects=SUBJECTS, modern=True, failing=(), pruned=())
    rows = prepare(make_results(study))
    assert "one tuned configuration" in repeats_words(rows)[0]
    assert any("searched once" in text for text in judge(rows, analyse(rows, QUICK)).warnings)
    twice = prepare(make_results(TWICE))
    assert not any("searched once" in text for text in judge(twice, analyse(twice, QUICK)).warnings)


def test_the_number_of_trials_of_a_search_follows_from_the_study_file() -> None:
    def rows_with(**fields: Any) -> Rows:
        return prepare(with_search(make_results(TWICE), **fields))

    assert trials_of_search(rows_with(), "lora-cosine") == 4
    # Eight trials of the method LoRA for its two arms.
    assert trials_of_search(rows_with(trials=None, trials_per_method=8), "lora-constant") == 4
    # A grid with fewer points than trials, and a file that says nothing: the highest number tells.
    assert trials_of_search(rows_with(trials=30, sampler="grid"), "lora-cosine") == 4
    assert trials_of_search(rows_with(trials=None), "lora-cosine") == 4
    assert set(repeat_of(rows_with(), "lora-cosine")) == {0, 1}
    assert set(repeat_of(prepare(make_results()), "lora-cosine")) == {0}


# ------------------------------------------------------------------ budget


def test_trials_are_counted_for_each_dimension() -> None:
    rows = prepare(make_results(TWICE))
    budget = budget_of(rows, "lora-cosine")
    assert (budget.searches, budget.trials, budget.dimensions) == (2, 8, 2)
    assert budget.trials_per_dimension == 2.0
    assert budget_of(rows, "base").trials_per_dimension is None


def test_searches_of_unlike_thoroughness_are_a_warning() -> None:
    rows = prepare(make_results(Study(trials=6, failing=(), pruned=())))
    budgets = tuple(budget_of(rows, arm) for arm in rows.trained_arms)
    assert uneven_dimensions(budgets) == []
    fewer = rows.frame[(rows.frame["arm"] != "dreambooth_lora") | (rows.frame["trial"] < 2)]
    rows = replace(rows, frame=fewer)
    (text,) = uneven_dimensions(tuple(budget_of(rows, arm) for arm in rows.trained_arms))
    assert "factor of 2" in text
    assert "dreambooth_lora had" in text


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"max_train_steps": 200}, ("200 optimizer steps (whatever a step costs)", "was not tuned")),
        ({"train_flops": 3e12, "tuned_from": 0.25}, ("3.00 TFLOP", "tuned by each search, from 25 % on")),
        ({"train_seconds": 30.0}, ("30.0 s", "from machine to machine")),
    ],
)
def test_the_currency_of_the_budget_is_told(budget: dict[str, Any], words: tuple[str, ...]) -> None:
    results = make_results()
    results.meta["spec"]["budget"] = budget
    (text,) = budget_words(prepare(results))
    assert all(word in text for word in words)
    assert budget_words(prepare(make_results())) == ()


def test_overlap_of_search_and_confirm_is_a_warning() -> None:
    rows = prepare(with_search(make_results(), allow_overlap=True))
    assert any("search.allow_overlap" in text for text in judge(rows, analyse(rows, QUICK)).warnings)
    rows = prepare(with_search(make_results(), allow_overlap=False))
    assert not any("allow_overlap" in text for text in judge(rows, analyse(rows, QUICK)).warnings)


@pytest.mark.parametrize(
    ("repeats", "said"), [(1, "was searched once"), (2, "searched 2 times for 4 subjects"), (4, None)]
)
def test_subjects_that_share_a_search_are_told_of(repeats: int, said: str | None) -> None:
    study = Study(trials=4, repeats=repeats, subjects=SUBJECTS, modern=True, failing=(), pruned=())
    results = make_results(study)
    rows = prepare(results)
    found = [line for line in judge(rows, analyse(rows, QUICK)).warnings if "searched" in line]
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_steps_that_came_of_another_budget_are_shown() -> None:
    results = make_results(Study(modern=True))
    frame = results.frame.assign(max_train_steps=10_000_000)
    rows = prepare(replace(results, frame=frame))
    trained = rows.frame[rows.frame["method"] != "base"]
    assert (trained["max_train_steps"] == trained["train_steps"]).all()
