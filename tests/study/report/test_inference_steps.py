"""Quality against inference steps: means by arm and number of steps, and nothing where nothing was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from study.report.comparisons import Settings
from study.report.figures.canvas import render
from study.report.hypotheses import judge_hypotheses
from study.report.hypothesis_tables import hypothesis_tables
from study.report.inference_steps import CURVES, MEASURES, step_curves, step_tables
from study.report.prepared import prepare
from study.report.sections import Report, compose
from study.report.tables import to_csv
from study.results.csv_files import read_csv, write_csv
from study.results.frames import Results
from study.spec.hypotheses import Hypothesis, statement_of
from tests.helpers.synthetic_results import ARMS, Study, make_results

STUDY = Study(arms=ARMS[:3], trials=1, subjects=("a", "b", "c"), modern=True, failing=(), pruned=())
STEPS = (4, 8, 25)
KEY = "inference-steps"


def value(run: pd.Series, steps: int) -> float:
    """A made-up score, which grows with the number of steps."""
    chance = np.random.default_rng([steps, *str(run["run_key"]).encode()])
    return float(0.4 + 0.01 * steps + chance.normal(0, 0.02))


def measured(names: tuple[str, ...] = MEASURES) -> Results:
    results = make_results(STUDY)
    frame = results.frame
    runs = frame[frame["phase"] == "confirm"]
    assert results.curves is not None
    rows = [
        {column: run.get(column) for column in results.curves.columns}
        | {"step": steps, "metric": CURVES + name, "value": value(run, steps)}
        for _, run in runs.iterrows()
        for name in names
        for steps in STEPS
    ]
    return replace(results, curves=pd.concat([results.curves, pd.DataFrame(rows)], ignore_index=True))


def told(results: Results) -> Report:
    return compose(results, Settings(resamples=300))


def test_each_arm_has_its_mean_over_subjects_and_interval() -> None:
    results = measured()
    rows = prepare(results)
    found = step_curves(rows, 0.95)
    assert [curves.measure for curves in found] == list(MEASURES)
    (quality, *_) = found
    assert quality.steps == STEPS
    assert [curve.arm for curve in quality.arms] == list(rows.arms), "the base model's too"
    runs = rows.confirm[rows.confirm["arm"] == "lora-cosine"]
    (curve,) = (one for one in quality.arms if one.arm == "lora-cosine")
    assert curve.runs == len(runs)
    for steps in STEPS:
        own = runs.assign(value=[value(run, steps) for _, run in runs.iterrows()])
        means = own.groupby("subject")["value"].mean()
        low, high = stats.t.interval(0.95, len(means) - 1, means.mean(), stats.sem(means))
        estimate = curve.estimates[steps]
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((means.mean(), low, high))
    (table, *_) = step_tables(found)
    assert to_csv(table).splitlines()[0].startswith("arm,runs,steps_4,steps_4_low,steps_4_high,steps_8")
    assert to_csv(table).count("\n") == 1 + len(rows.arms)


def test_the_report_has_a_section_where_it_was_measured_and_else_none() -> None:
    report, plain = told(measured()), told(make_results(STUDY))
    (section,) = (one for one in report.sections if one.key == KEY)
    assert len(section.tables) == 3
    (figure,) = section.figures
    assert set(render(figure).files) == {"pdf", "svg", "png"}  # type: ignore[arg-type]
    assert KEY not in [one.key for one in plain.sections]
    # Nothing else of the report takes notice.
    others = [one for one in report.sections if one.key not in (KEY, "provenance")]
    for one, other in zip(others, [s for s in plain.sections if s.key != "provenance"], strict=True):
        assert (one.key, one.paragraphs, one.tables) == (other.key, other.paragraphs, other.tables)


def test_what_has_no_value_is_left_out() -> None:
    """Of a data set whose captions CLIP does not read, quality is unknown at every number of steps."""
    (only,) = step_curves(prepare(measured(("subject_fidelity_scaled",))), 0.95)
    assert only.measure == "subject_fidelity_scaled"


def test_the_curves_survive_the_reports_own_files(tmp_path: Path) -> None:
    results = measured()
    write_csv(results, tmp_path)
    again = step_curves(prepare(read_csv(tmp_path)), 0.95)
    for one, other in zip(again, step_curves(prepare(results), 0.95), strict=True):
        assert (one.measure, one.steps) == (other.measure, other.steps)
        assert {curve.arm for curve in one.arms} == {curve.arm for curve in other.arms}
        expected = {curve.arm: curve for curve in other.arms}
        for curve in one.arms:
            of = expected[curve.arm]
            assert curve.runs == of.runs
            values = [[estimate.value for estimate in own.estimates.values()] for own in (curve, of)]
            assert values[0] == pytest.approx(values[1])


def test_a_hypothesis_may_be_on_one_number_of_steps() -> None:
    """Against means computed here; the value that a run is judged by plays no part."""
    arms = [arm.name for arm in STUDY.arms]
    fields = {
        "claim": "c.",
        "measure": "quality_subject_prompt",
        "difference": ["lora-cosine", "lora-constant"],
    }
    results = measured()
    runs = results.frame[results.frame["phase"] == "confirm"]
    for steps in (4, 25):
        statement = statement_of(
            "h",
            Hypothesis.model_validate({**fields, "inference_steps": steps, "expect": {"more_than": 0}}),
            arms,
            lambda *_: [],
        )
        meta = {
            **results.meta,
            "hypotheses": [{"statement": statement.as_json(), "digest": statement.digest}],
        }
        (judged,) = judge_hypotheses(prepare(replace(results, meta=meta)))
        own = runs.assign(value=[value(run, steps) for _, run in runs.iterrows()])
        wide = own.pivot_table(index="subject", columns="arm", values="value")
        expected = (wide["lora-cosine"] - wide["lora-constant"]).mean()
        assert judged.estimate.value == pytest.approx(expected)
        assert f"at {steps} inference steps" in to_csv(hypothesis_tables([judged], "subject")[1])
