"""Verdicts on stated hypotheses: against intervals computed here, and against chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from study.report.build import build_report
from study.report.hypotheses import Judged, judge_hypotheses
from study.report.hypothesis_tables import hypothesis_tables, hypothesis_words
from study.report.measures import ALL
from study.report.prepared import prepare
from study.report.sections import compose
from study.report.tables import to_csv
from study.results.csv_files import read_csv
from study.results.frames import Results
from study.spec.hypotheses import MADE_BY_REPORT, Hypothesis, statement_of
from tests.helpers.synthetic_results import ARMS, Study, make_results

SUBJECTS = ("a", "b", "c", "d", "e", "f")
STUDY = Study(
    arms=ARMS[:4], trials=1, subjects=SUBJECTS, seeds=(100, 101), modern=True, failing=(), pruned=()
)
FIRST, SECOND, THIRD = "lora-cosine", "lora-constant", "dreambooth-cosine"


def results(hypotheses: Mapping[str, Mapping[str, Any]], trials: int | None = 0, **columns: Any) -> Results:
    """A made-up study with hypotheses, and with columns that are given by (arm, subject index, seed)."""
    made = make_results(STUDY)
    frame = made.frame.copy()
    for name, value in columns.items():
        frame[name] = [
            value(row.arm, SUBJECTS.index(row.subject) if row.subject in SUBJECTS else 0, row.seed)
            for row in frame.itertuples()
        ]
    arms = [arm.name for arm in STUDY.arms]
    stated = []
    for name, fields in hypotheses.items():
        one = statement_of(
            name, Hypothesis.model_validate({"claim": f"{name}.", **fields}), arms, lambda *_: []
        )
        entry = {"statement": one.as_json(), "digest": one.digest}
        stated.append(
            entry if trials is None else {**entry, "trials": trials, "stated": "2026-01-01T00:00:00Z"}
        )
    return replace(made, frame=frame, meta={**made.meta, "hypotheses": stated})


def judged(hypotheses: Mapping[str, Mapping[str, Any]], **more: Any) -> dict[str, Judged]:
    return {one.statement.name: one for one in judge_hypotheses(prepare(results(hypotheses, **more)))}


def quality(arm: str, subject: int, seed: int) -> float:
    return (
        {FIRST: 0.6, SECOND: 0.5, THIRD: 0.55}.get(arm, 0.0)
        + 0.01 * subject * (arm == FIRST)
        + 0.001 * (seed - 100)
    )


def interval(units: np.ndarray, level: float) -> tuple[float, float]:
    found = stats.t.interval(level, len(units) - 1, units.mean(), stats.sem(units))
    return float(found[0]), float(found[1])


def test_a_difference_has_the_interval_of_its_family() -> None:
    """Two hypotheses that runs decide: 97.5 % each; arithmetic shares no level."""
    found = judged(
        {
            "ahead": {"measure": "quality", "difference": [FIRST, SECOND], "expect": {"more_than": 0.05}},
            "behind": {"measure": "quality", "difference": [SECOND, FIRST], "expect": {"more_than": 0.05}},
            "sum": {"arithmetic": "8 * (10,000 + 20,000)", "expect": {"equal_to": 240000}, "margin": 0},
        },
        quality=quality,
    )
    units = np.array([0.1 + 0.01 * subject for subject in range(6)])
    ahead = found["ahead"]
    assert ahead.estimate.value == pytest.approx(units.mean())
    assert (ahead.estimate.low, ahead.estimate.high) == pytest.approx(interval(units, 0.95))
    assert (ahead.together.low, ahead.together.high) == pytest.approx(interval(units, 0.975))
    assert (ahead.estimate.n, ahead.estimate.n_subjects) == (12, 6)
    assert [one.ruling for one in found.values()] == ["supported", "refuted", "supported"]


def test_a_ratio_is_geometric_and_may_have_a_prediction() -> None:
    def memory(arm: str, subject: int, seed: int) -> float:
        return (3e9 if arm == THIRD else 1e9) * math.exp(
            0.02 * subject if arm == THIRD else 1e-4 * (-1) ** subject
        )

    found = judged(
        {
            "times": {"measure": "peak_memory_bytes", "ratio": [THIRD, FIRST], "expect": {"more_than": 3}},
            "predicted": {"measure": "peak_memory_bytes", "ratio": [FIRST, {"predicted": "2 * 5e8"}],
                          "expect": {"equal_to": 1}, "margin": 0.01},
        },
        peak_memory_bytes=memory,
    )  # fmt: skip
    logarithms = np.array([math.log(3) + 0.02 * subject - 1e-4 * (-1) ** subject for subject in range(6)])
    assert found["times"].estimate.value == pytest.approx(math.exp(logarithms.mean()))
    low, high = interval(logarithms, 0.975)
    assert (found["times"].together.low, found["times"].together.high) == pytest.approx(
        (math.exp(low), math.exp(high))
    )
    assert found["predicted"].estimate.value == pytest.approx(1)
    assert [one.ruling for one in found.values()] == ["supported", "supported"]


@pytest.mark.parametrize(
    ("expect", "margin", "ruling"),
    [
        ({"more_than": 0.0}, None, "supported"),
        ({"more_than": 0.0}, 0.5, "equivalent"),
        ({"less_than": 0.0}, None, "refuted"),
        ({"less_than": 0.0}, 0.5, "equivalent"),
        ({"more_than": 0.12}, None, "not enough runs"),
        ({"equal_to": 0.125}, 0.1, "supported"),
        ({"equal_to": 0.125}, 0.015, "not enough runs"),
        ({"equal_to": 0.5}, 0.1, "refuted"),
        ({"between": [0.0, 0.2]}, None, "supported"),
        ({"between": [0.5, 0.6]}, None, "refuted"),
        ({"between": [0.115, 0.6]}, None, "not enough runs"),
    ],
)
def test_verdicts_are_read_off_from_the_interval(expect: Any, margin: float | None, ruling: str) -> None:
    """The differences of the subjects are .10 to .15, mean .125, interval about +-.02."""
    one = judged(
        {"h": {"measure": "quality", "difference": [FIRST, SECOND], "expect": expect, "margin": margin}},
        quality=quality,
    )["h"]
    assert one.ruling == ruling
    assert (one.needed is not None) == (ruling == "not enough runs")


def test_few_subjects_decide_nothing_but_what_is_counted() -> None:
    made = results(
        {
            "quality": {"measure": "quality", "difference": [FIRST, SECOND], "expect": {"more_than": 0}},
            "counted": {
                "measure": "trainable_parameters",
                "ratio": [THIRD, FIRST],
                "expect": {"more_than": 10},
            },
            "exactly": {"measure": "trainable_parameters", "value": FIRST, "expect": {"less_than": 98_304}},
            "nowhere": {"measure": "energy_joules", "value": FIRST, "expect": {"less_than": 1}},
        }
    )
    few = made.frame[(made.frame["phase"] == "search") | made.frame["subject"].isin(["a", "b"])]
    found = judge_hypotheses(prepare(replace(made, frame=few)))
    assert [one.ruling for one in found] == ["not enough runs", "supported", "refuted", "not measured"]
    table, _ = hypothesis_tables(found, "subject")
    verdicts = [line.split(",")[2] for line in to_csv(table).splitlines()[1:]]
    assert verdicts[0] == "not enough runs: at least 3 subjects"
    assert "no complete confirm run has a value of energy_joules" in verdicts[3]


def test_what_never_differs_has_no_interval_and_no_verdict_unless_it_is_counted() -> None:
    made = results(
        {
            "copies": {
                "measure": "memorisation",
                "difference": [FIRST, SECOND],
                "expect": {"more_than": 0},
                "margin": 0.1,
            },
            "counted": {
                "measure": "trainable_parameters",
                "ratio": [FIRST, SECOND],
                "expect": {"equal_to": 1},
                "margin": 0,
            },
        },
        memorisation=lambda arm, subject, seed: 0.0,
    )
    found = judge_hypotheses(prepare(made))
    assert [one.ruling for one in found] == ["not enough runs", "supported"]
    assert (found[0].estimate.value, found[0].estimate.low, found[0].needed) == (0, None, None)
    assert "the same for every subject, from which no interval can be reckoned" in to_csv(
        hypothesis_tables(found, "subject")[0]
    )


def test_runs_of_the_search_do_not_count_as_runs_with_a_value() -> None:
    made = results(
        {
            "all": {"measure": "peak_memory_bytes", "value": FIRST, "expect": {"less_than": 1}},
            "one": {"measure": "quality", "difference": [FIRST, SECOND], "expect": {"more_than": 0}},
        }
    )
    search = made.frame["phase"] == "search"
    assert made.frame.loc[search, "peak_memory_bytes"].notna().any()
    (one,) = judge_hypotheses(prepare(replace(made, frame=made.frame[search])))[:1]
    assert one.missing == "no complete confirm run has a value of peak_memory_bytes"
    without = made.frame[search | (made.frame["arm"] != SECOND)]
    found = judge_hypotheses(prepare(replace(made, frame=without)))
    assert found[1].missing == f"no complete confirm run of {SECOND} has a value of quality"


@pytest.mark.parametrize(("low", "times"), [(239_616, 4), (29_952, 4), (1_037, 3), (7_000, 10)])
def test_a_ratio_of_counts_is_what_it_is(low: int, times: int) -> None:
    """The difference of the logarithms is not the logarithm of the ratio, to the last bit."""
    stated = {"measure": "trainable_parameters", "ratio": [FIRST, SECOND]}
    expected = {
        "equal": {"expect": {"equal_to": times}, "margin": 0},
        "more": {"expect": {"more_than": times}},
        "less": {"expect": {"less_than": times}},
    }
    found = judged(
        {name: {**stated, **fields} for name, fields in expected.items()},
        trainable_parameters=lambda arm, *_: float(low * times if arm == FIRST else low),
    )
    assert [one.ruling for one in found.values()] == ["supported", "refuted", "refuted"]


def test_counts_that_hang_on_the_subject_need_as_many_subjects_as_others() -> None:
    """A search chose another rank for each: then two subjects say nothing of a third."""
    counts = (4, 5, 4, 4, 5, 4)
    fields = {"measure": "trainable_parameters", "ratio": [FIRST, SECOND], "expect": {"more_than": 3}}
    made = results(
        {"h": fields},
        trainable_parameters=lambda arm, subject, _: 1000.0 * (counts[subject] if arm == FIRST else 1),
    )
    two = made.frame[(made.frame["phase"] == "search") | made.frame["subject"].isin(["a", "b"])]
    (few,), (all_of_them,) = (
        judge_hypotheses(prepare(replace(made, frame=frame))) for frame in (two, made.frame)
    )
    assert few.ruling == "not enough runs"
    assert all_of_them.ruling == "supported"


def test_numbers_of_subjects_that_are_named_have_the_power() -> None:
    """Within a margin both ends must lie, each with half of the level: 80 % at the number named, and less below it."""
    rng, level = np.random.default_rng(2), 0.95
    offsets = rng.normal(0, 0.1, 6)
    offsets = 0.004 + 0.1 * (offsets - offsets.mean()) / offsets.std(ddof=1)
    fields = {"measure": "quality", "difference": [FIRST, SECOND], "expect": {"more_than": 0}, "margin": 0.05}
    one = judged({"h": fields}, quality=lambda arm, k, _: 0.5 + offsets[k] * (arm == FIRST))["h"]
    assert one.ruling == "not enough runs"
    assert one.needed is not None
    draws = rng.normal(0.004, 0.1, (20_000, one.needed))
    half = stats.t.ppf((1 + level) / 2, one.needed - 1) * draws.std(1, ddof=1) / math.sqrt(one.needed)
    inside = (np.abs(draws.mean(1)) + half < 0.05).mean()
    assert 0.79 < inside < 0.84


def test_subjects_that_are_left_out_are_told() -> None:
    made = results({"h": {"measure": "quality", "difference": [FIRST, SECOND], "expect": {"more_than": 0}}})
    lost = (made.frame["arm"] == FIRST) & made.frame["subject"].isin(["b", "c"])
    found = judge_hypotheses(
        prepare(replace(made, frame=made.frame.assign(quality=made.frame["quality"].mask(lost))))
    )
    table, _ = hypothesis_tables(found, "subject")
    assert "text='4 of 6'" in repr(table)
    assert found[0].estimate.n_subjects == 4


def test_what_was_changed_afterwards_was_not_stated_before() -> None:
    made = results({"h": {"measure": "quality", "difference": [FIRST, SECOND], "expect": {"more_than": 0}}})
    entries = [dict(entry) for entry in made.meta["hypotheses"]]
    entries[0]["statement"] = {**entries[0]["statement"], "claim": "Another."}
    (one,) = judge_hypotheses(prepare(replace(made, meta={**made.meta, "hypotheses": entries})))
    assert (one.stated, one.in_advance) == (None, False)


def test_one_arm_that_lacks_a_subject_leaves_it_out_of_the_mean() -> None:
    made = results(
        {"h": {"measure": "quality", "difference": [[FIRST, SECOND], THIRD], "expect": {"more_than": 0}}},
        quality=quality,
    )
    frame = made.frame
    gone = (frame["arm"] == SECOND) & (frame["subject"] == "b") & (frame["phase"] == "confirm")
    (one,) = judge_hypotheses(prepare(replace(made, frame=frame[~gone])))
    units = [(0.6 + 0.01 * subject + 0.5) / 2 - 0.55 for subject in (0, 2, 3, 4, 5)]
    assert one.estimate.value == pytest.approx(np.mean(units))
    assert one.estimate.n_subjects == 5


def least_of_two() -> dict[str, Any]:
    """Qualities of an arm that is ahead of two others, and what is known of the smaller difference, by 95 %."""
    rng = np.random.default_rng(1)
    drawn = {
        FIRST: rng.normal(0.6, 0.02, 6), SECOND: rng.normal(0.5, 0.03, 6), THIRD: rng.normal(0.56, 0.01, 6)
    }  # fmt: skip
    units = [drawn[FIRST] - drawn[arm] for arm in (SECOND, THIRD)]
    least = min(range(2), key=lambda k: units[k].mean())
    return {
        "quality": lambda arm, subject, _: drawn[arm][subject] if arm in drawn else 0.0,
        "value": units[least].mean(),
        "low": min(interval(one, 0.95)[0] for one in units),
        "high": min(interval(one, 0.975)[1] for one in units),  # of two that hold together
        "arm": (SECOND, THIRD)[least],
    }


@pytest.mark.parametrize("less", [False, True])
def test_a_claim_on_each_of_several_arms_is_one_on_the_least_favourable(less: bool) -> None:
    others = {"each_of": [SECOND, THIRD]}
    pair = [others, FIRST] if less else [FIRST, others]
    known = least_of_two()

    def found(expect: Any, margin: float | None = None) -> Judged:
        fields = {"measure": "quality", "difference": pair, "expect": expect, "margin": margin}
        return judged({"h": fields}, quality=known["quality"])["h"]

    side, sign = ("less_than", -1) if less else ("more_than", 1)
    low, high = known["low"], known["high"]
    one = found({side: 0})
    assert one.estimate.value == pytest.approx(sign * known["value"])
    assert (one.together.low, one.together.high) == pytest.approx((-high, -low) if less else (low, high))
    assert one.least == (known["arm"],)
    assert one.ruling == "supported"
    between = found({side: sign * (low + high) / 2})
    assert between.ruling == "not enough runs"
    assert between.needed is not None
    assert between.needed > 6
    assert found({side: sign * (high + 0.001)}).ruling == "refuted"  # by one of them
    assert found({side: sign * (low + high) / 2}, high - low).ruling == "equivalent"
    table, details = hypothesis_tables([one], "subject")
    assert "each of dreambooth-cosine and lora-constant" in to_csv(details)
    assert f"found is {known['arm']}" in to_csv(details)
    assert "least in its favour" in " ".join(table.notes)


def test_a_claim_on_each_is_not_one_on_their_mean() -> None:
    """Ahead of the mean of two, and behind one of them: the best of three it is not."""

    def drawn(arm: str, subject: int, seed: int) -> float:
        return {FIRST: 0.5, SECOND: 0.6, THIRD: 0.2}.get(arm, 0.0) + 0.001 * (subject * len(arm) % 7)

    fields = {"measure": "quality", "expect": {"more_than": 0}}
    found = judged(
        {
            "mean": {**fields, "difference": [FIRST, [SECOND, THIRD]]},
            "each": {**fields, "difference": [FIRST, {"each_of": [SECOND, THIRD]}]},
        },
        quality=drawn,
    )
    assert [one.ruling for one in found.values()] == ["supported", "refuted"]


def test_what_came_later_is_apart_and_what_nobody_knows_is_later() -> None:
    fields = {"measure": "quality", "difference": [FIRST, SECOND], "expect": {"more_than": 0}}
    first, later, unknown = (results({"h": fields}, trials) for trials in (0, 7, None))
    assert [table.key for table in hypothesis_tables(judge_hypotheses(prepare(first)), "subject")] == [
        "hypotheses",
        "hypothesis-details",
    ]
    for made, said in ((later, "after 7 trials"), (unknown, "the ledger does not say")):
        found = judge_hypotheses(prepare(made))
        table, details = hypothesis_tables(found, "subject")
        assert (table.key, details.key) == ("hypotheses-later", "hypothesis-details-later")
        assert said in to_csv(details)
        assert hypothesis_words(found) == ("1 was added later, and is listed apart.",)


def test_the_report_made_again_says_the_same(tmp_path: Path) -> None:
    made = results(
        {
            "h": {
                "measure": "quality",
                "difference": [FIRST, SECOND],
                "expect": {"more_than": 0},
                "source": "<b>",
            }
        }
    )
    first = build_report(made, tmp_path / "first", compact=True)
    again = build_report(read_csv(first.folder), tmp_path / "again")
    for name in ("report.md", "tables/hypotheses.csv", "tables/hypotheses.tex"):
        assert (again.folder / name).read_bytes() == (first.folder / name).read_bytes(), name
    page = first.html.read_text()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page.split('id="hypotheses"')[1].split("</section>")[0]


def test_a_study_without_hypotheses_says_nothing_of_them() -> None:
    assert all(section.key != "hypotheses" for section in compose(make_results(STUDY)).sections)


def test_all_verdicts_of_a_study_are_right_in_95_of_100_studies() -> None:
    """Known truth: no arm differs, so that each limit is the truth itself, and any verdict on it is false."""
    pairs = {
        "at-limit": {"measure": "quality", "difference": [FIRST, SECOND], "expect": {"more_than": 0}},
        "at-margin": {
            "measure": "quality",
            "difference": [FIRST, SECOND],
            "expect": {"equal_to": 0.1},
            "margin": 0.1,
        },
        "other": {
            "measure": "quality",
            "difference": [THIRD, SECOND],
            "expect": {"less_than": 0},
            "margin": 0.3,
        },
        "least": {
            "measure": "quality",
            "difference": [FIRST, {"each_of": [SECOND, THIRD]}],
            "expect": {"more_than": 0},
        },
        "also": {"measure": "subject_fidelity", "difference": [THIRD, SECOND], "expect": {"less_than": 0}},
    }
    rows = prepare(results(pairs))
    frame = rows.frame
    rng = np.random.default_rng(0)
    wrong, studies = 0, 400
    for _ in range(studies):
        draws = frame.assign(
            quality=rng.normal(0.5, 0.05, len(frame)), subject_fidelity=rng.normal(0.5, 0.05, len(frame))
        )
        found = {one.statement.name: one.ruling for one in judge_hypotheses(replace(rows, frame=draws))}
        wrong += any(ruling in ("supported", "refuted") for ruling in found.values())
    assert wrong / studies <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)
    assert wrong > 0, "or the test cannot fail"


def test_costs_that_the_report_sums_are_measures_of_it() -> None:
    assert set(MADE_BY_REPORT) <= set(ALL)
