"""Early values against the end: against scipy and a count of pairs, within subjects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from study.report.figures.canvas import Figure, Skipped, figure_style
from study.report.figures.early_rungs import rungs_figure
from study.report.prepared import Rows, prepare
from study.report.rungs import compute_rungs, rung_words, rungs_table
from study.statistics.paired import mean_interval
from tests.helpers.synthetic_results import ARMS, STEPS, Study, make_results

STUDY = Study(trials=8, subjects=("a", "b", "c", "d"), modern=True, failing=(), pruned=())


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Early values are shares of the end: the same order everywhere."""
    return prepare(make_results(STUDY))


def changed(rows: Rows, early: Callable[[pd.DataFrame], np.ndarray]) -> Rows:
    """Rows with other qualities before the end."""
    curves = rows.curves.copy()
    own = (curves["metric"] == "quality") & (curves["step"] < STEPS) & (curves["step"] > 0)
    curves.loc[own, "value"] = early(curves[own])
    return replace(rows, curves=curves)


def test_the_same_order_and_the_opposite_one(rows: Rows) -> None:
    same = compute_rungs(rows, 0.95)
    assert [one.share for one in same] == pytest.approx([0.1, 38 / 150, 0.5, 112 / 150])
    for one in same:
        assert (one.phase, one.orders, one.runs) == ("confirm", 8, 5)  # subjects by seeds, trained arms
        assert one.tau.value == pytest.approx(1.0)
        assert one.lost.value == 0
        assert one.same == 1
        assert one.by_chance == pytest.approx(1 / 5)
    opposite = compute_rungs(changed(rows, lambda curves: -curves["value"].to_numpy()), 0.95)
    assert all(one.tau.value == pytest.approx(-1.0) and one.same == 0 for one in opposite)
    assert all((one.lost.value or 0) > 0.01 for one in opposite)


def test_tau_is_scipys_and_the_count_of_pairs_averaged_within_subjects(rows: Rows) -> None:
    chance = np.random.default_rng(5)
    found = changed(rows, lambda curves: chance.normal(size=len(curves)))
    first = compute_rungs(found, 0.95)[0]
    ends = found.confirm.set_index("run_key")["quality"]
    curves = found.curves[(found.curves["metric"] == "quality") & (found.curves["step"] == 15)]
    early = curves.set_index("run_key")["value"]
    by_subject: dict[str, list[float]] = {}
    lost: dict[str, list[float]] = {}
    trained = found.confirm[found.confirm["arm"] != "base"]
    for (subject, _), group in trained.groupby(["subject", "seed"]):
        keys = list(group["run_key"])
        here, end = early[keys].to_numpy(), ends[keys].to_numpy()
        signs = [
            np.sign((here[a] - here[b]) * (end[a] - end[b])) for a, b in combinations(range(len(keys)), 2)
        ]
        tau = float(np.mean(signs))  # without ties
        assert tau == pytest.approx(stats.kendalltau(here, end).statistic)
        by_subject.setdefault(str(subject), []).append(tau)
        lost.setdefault(str(subject), []).append(float(end.max() - end[here.argmax()]))
    for estimate, values in ((first.tau, by_subject), (first.lost, lost)):
        expected = mean_interval([float(np.mean(own)) for own in values.values()])
        assert estimate.value == pytest.approx(expected.value)
        assert estimate.high == pytest.approx(expected.high)
    assert first.lost.low is not None
    assert first.lost.low >= 0  # cut at what is possible


def test_trials_of_a_search_are_put_in_order_among_themselves(rows: Rows) -> None:
    """Each search on its own, and only runs that reached their end."""
    search = rows.search
    search = search[(search["arm"] != "base") & (search["state"] == "COMPLETE")]
    names = ("run_key", "arm", "method", "phase", "trial", "subject", "seed")
    points = [
        {**{name: row[name] for name in names}, "step": step, "metric": "quality", "value": value}
        for row in search.to_dict("records")
        for step, value in (
            (50, row["quality"] + (1 if row["arm"] == "lora-cosine" else 0)),
            (STEPS, row["quality"]),
        )
    ]
    found = replace(rows, curves=pd.concat([rows.curves, pd.DataFrame(points)], ignore_index=True))
    (first, *others) = compute_rungs(found, 0.95)
    assert (first.phase, first.orders) == ("search", len(ARMS) - 1)  # one search an arm, on one subject
    assert first.tau.value == pytest.approx(
        1.0
    )  # an arm that is better everywhere changes no order within it
    assert first.tau.low is None  # one subject
    assert first.runs == pytest.approx(8.0)
    assert {one.phase for one in others} == {"confirm"}
    words = rung_words(found, (first, *others))[0]
    assert words.startswith(
        "After 33 % of the training the order of a search's trials agrees with that of the end by"
    )
    table = rungs_table((first, *others), "quality")
    assert table is not None
    assert len(table.rows) == 5
    figure = rungs_figure((first, *others), "quality")
    assert isinstance(figure, Figure)
    with figure_style():
        assert len(figure.draw().axes) == 2


def test_values_that_are_all_alike_have_no_order(rows: Rows) -> None:
    found = compute_rungs(changed(rows, lambda curves: np.ones(len(curves))), 0.95)
    assert all(one.tau.value is None for one in found)
    assert all(one.same == pytest.approx(1 / 5) for one in found)  # a choice among all
    assert rung_words(rows, found) == ()
    assert rungs_table(found, "quality") is not None


def test_without_places_on_the_way_the_remedy_is_told(rows: Rows) -> None:
    bare = prepare(make_results(replace(STUDY, curves=False)))
    assert compute_rungs(bare, 0.95) == ()
    assert rungs_table((), "quality") is None
    assert rung_words(bare, ()) == ()
    missing = rungs_figure((), "quality")
    assert isinstance(missing, Skipped)
    assert "evaluation.at" in missing.reason
    two = prepare(make_results(replace(STUDY, arms=ARMS[:3])))  # two arms have no order worth the name
    assert compute_rungs(two, 0.95) == ()
