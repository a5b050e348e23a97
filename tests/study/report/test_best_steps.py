"""Best steps: shares and gains against their definition, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from study.report.best_steps import best_steps, best_steps_table, best_steps_words, restored_words
from study.report.comparisons import Settings
from study.report.derived import with_derived
from study.report.measures import measure
from study.report.prepared import Rows, prepare
from study.report.sections import compose
from study.report.tables import to_csv
from study.results.frames import Results
from tests.helpers.synthetic_results import ARMS, STEPS, Study, make_results

STUDY = Study(arms=ARMS[:3], trials=1, subjects=("a", "b", "c"), modern=True, failing=(), pruned=())


def told(early: str, late: str, metric: str = "quality", **evaluation: Any) -> Results:
    """Runs of one arm are best at half of their steps, those of another at their end."""
    results = make_results(STUDY)
    frame = results.frame.copy()
    trains = frame["method"].ne("base")
    frame["best_step"] = frame["train_steps"].where(frame["arm"].eq(late) & trains)
    frame.loc[frame["arm"].eq(early), "best_step"] = STEPS / 2
    frame["best_value"] = 0.6
    frame["best_end_value"] = frame["arm"].map({early: 0.5, late: 0.6})
    frame["best_metric"] = trains.map({True: metric, False: None})
    meta = {**results.meta, "spec": {**results.meta["spec"], "evaluation": evaluation}}
    return replace(results, frame=frame, meta=meta)


def of(results: Results) -> tuple[Rows, Any]:
    rows = prepare(results)
    return rows, {one.arm: one for one in best_steps(rows, 0.95)}


def test_shares_and_gains_are_those_of_the_runs() -> None:
    _, found = of(told("lora-cosine", "lora-constant"))
    assert list(found) == ["lora-cosine", "lora-constant"], "the base model has no steps"
    early, late = found["lora-cosine"], found["lora-constant"]
    assert (early.runs, early.at_end, early.share.value) == (6, 0.0, pytest.approx(0.5))
    assert early.gain.value == pytest.approx(0.1)
    assert (late.at_end, late.share.value, late.gain.value) == (1.0, 1.0, pytest.approx(0))
    assert early.by_chance == pytest.approx(1 / 5), "runs of the made-up study have five evaluations"
    table = best_steps_table(tuple(found.values()))
    assert table is not None
    assert to_csv(table).count("\n") == 3
    words = " ".join(best_steps_words(tuple(found.values())))
    assert "Most runs of lora-constant were best at their end" in words
    assert "lora-cosine were best before their end than chance" in words
    assert "restored" not in words


def test_lower_is_better_where_the_loss_chose() -> None:
    _, found = of(told("lora-cosine", "lora-constant", "held_out_loss"))
    assert found["lora-cosine"].gain.value == pytest.approx(-0.1)


@pytest.mark.parametrize(
    ("metric", "words"),
    [("quality", "the prompts of the search"), ("held_out_loss", "every second held-out image. The results")],
)
def test_the_report_says_what_was_restored_and_by_what(metric: str, words: str) -> None:
    report = compose(
        told("lora-cosine", "lora-constant", metric, restore_best=metric), Settings(resamples=300)
    )
    curves, method = (next(s for s in report.sections if s.key == key) for key in ("curves", "method"))
    assert words in " ".join(method.paragraphs)
    said = [text for one in report.sections for text in (*one.paragraphs, *one.after)]
    assert sum(words in text for text in said) == 1
    # Of some the end was the best step, and nothing was restored.
    assert sum("Every run has the weights of its best step" in text for text in said) == 1
    assert "best-steps" in [table.key for table in curves.tables]


@pytest.mark.parametrize("metric", ["quality", "held_out_loss"])
def test_runs_that_had_no_value_to_choose_by_are_counted(metric: str) -> None:
    results = told("lora-cosine", "lora-constant", metric, restore_best=metric)
    assert not any("kept the weights of the end" in text for text in restored_words(prepare(results)))
    frame = results.frame.copy()
    rows = frame["arm"].eq("lora-cosine") & frame["phase"].eq("confirm")
    frame.loc[frame[rows].index[:2], ["best_step", "best_value", "best_end_value"]] = None
    _, more = restored_words(prepare(replace(results, frame=frame)))
    assert more.startswith("But 2 runs kept the weights of the end")
    assert f"a value of {metric}" in more


def test_runs_of_one_arm_may_be_best_by_two_metrics() -> None:
    """Quality of a data set may be unknown: its runs are compared among each other by the next best metric."""
    results = told("lora-cosine", "lora-constant")
    frame = results.frame.copy()
    other = frame["subject"].eq("a") & frame["best_metric"].notna()
    frame.loc[other, "best_metric"] = "held_out_loss"
    _, found = of(replace(results, frame=frame))
    early = found["lora-cosine"]
    assert set(early.metrics) == {"quality", "held_out_loss"}
    assert early.gain.value == pytest.approx((0.1 + 0.1 - 0.1) / 3), (
        "lower is better on one of three subjects"
    )
    assert early.by_chance == pytest.approx((1 / 5 + 1 / 5 + 1 / 2) / 3), "the loss has no curve here"
    table = best_steps_table(tuple(found.values()))
    assert table is not None
    assert all(word in table.notes[0] for word in ("quality", "loss"))


def test_choosing_is_paid_for() -> None:
    frame = make_results(STUDY).frame
    prices = {"price_per_hour": {"cpu": 3600.0}}
    plain = with_derived(frame, prices)["dollars"]
    chosen = with_derived(frame.assign(selection_seconds=7.0), prices)["dollars"]
    assert "evaluations that chose the step" in measure("dollars").description
    more = (chosen - plain).dropna().tolist()
    assert more
    assert more == pytest.approx([7.0] * len(more))


def test_results_without_best_steps_have_no_such_table() -> None:
    _, found = of(make_results(STUDY))
    assert not found
    assert best_steps_table(()) is None
    assert best_steps_words(()) == ()
