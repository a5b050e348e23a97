"""What runs cost: class images in full and shared out, money, the search, and the fronts with and without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from study.report.analysis import Analysis, analyse
from study.report.comparisons import Settings
from study.report.cost_tables import costs_table, tuned_table
from study.report.costs import made_once, search_cost
from study.report.derived import with_derived
from study.report.figures.canvas import Figure, figure_style
from study.report.measures import measure
from study.report.prepared import Rows, prepare
from study.report.sections import Report, compose
from study.report.tables import Table
from tests.helpers.synthetic_results import Study, make_results

QUICK = Settings(resamples=300)
STUDY = Study(trials=3, subjects=("dog-1", "bird-1", "cat-9"), modern=True, failing=(), pruned=())


@pytest.fixture(scope="module")
def priced() -> Report:
    results = make_results(STUDY)
    results.meta["spec"]["resources"] = {"price_per_hour": {"cpu": 3.6}}
    return compose(results, QUICK)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return prepare(make_results(STUDY))


def column(table: Table, key: str) -> dict[str, object]:
    place = [column.key for column in table.columns].index(key)
    return {str(row[0].value): row[place].value for row in table.rows}


def keys(table: Table) -> set[str]:
    return {column.key for column in table.columns}


def test_class_images_are_charged_in_full_to_each_run(rows: Rows) -> None:
    frame = rows.frame
    assert (frame["total_seconds"] == frame["train_seconds"] + frame["class_image_seconds"]).all()
    assert (frame["total_flops"] == frame["train_flops"] + frame["class_image_flops"]).all()
    analysis = analyse(rows, QUICK)
    dreambooth = analysis.arm("dreambooth-cosine").estimates
    assert analysis.cost == "total_seconds"
    assert (dreambooth["total_seconds"].value or 0) > (dreambooth["train_seconds"].value or 0) + 3
    lora = analysis.arm("lora-cosine").estimates
    assert lora["total_seconds"].value == lora["train_seconds"].value


def test_unknown_class_images_make_no_total() -> None:
    analysis = analyse(prepare(make_results(Study(trials=1))), QUICK)
    assert analysis.cost == "train_seconds"
    assert analysis.arm("lora-cosine").estimates["total_seconds"].value is None
    assert analysis.arm("lora-cosine").estimates["tuned_seconds"].value is None
    assert tuned_table(analysis) is None
    assert "class_image_seconds" not in keys(costs_table(analysis))


def test_a_set_of_class_images_is_made_once(rows: Rows) -> None:
    own = rows.confirm[rows.confirm["arm"] == "dreambooth-cosine"]
    assert len(own) == 6
    distinct = {(row.class_image_seconds, row.class_image_flops) for row in own.itertuples()}
    assert len(distinct) == 3  # one a subject, shared by its two seeds
    assert made_once(own, "class_image_seconds") == pytest.approx(sum(seconds for seconds, _ in distinct))
    assert made_once(own.assign(class_image_seconds=np.nan), "class_image_seconds") is None


def test_the_amortised_figure_shares_them_out(rows: Rows) -> None:
    table = costs_table(analyse(rows, QUICK))
    full, shared, alone = (
        column(table, key)["dreambooth-cosine"]
        for key in ("total_seconds", "amortised_seconds", "train_seconds")
    )
    images = column(table, "class_image_seconds")["dreambooth-cosine"]
    assert isinstance(full, float)
    assert isinstance(alone, float)
    assert isinstance(images, float)
    assert full == pytest.approx(alone + images)
    assert shared == pytest.approx(alone + images / 2)  # two runs share each set


def test_one_search_counts_every_run_and_each_set_once() -> None:
    twice = prepare(make_results(replace(STUDY, repeats=2)))
    own = twice.search[twice.search["arm"] == "dreambooth-cosine"]
    sets = own.drop_duplicates("class_image_seconds")["class_image_seconds"].sum()
    found = search_cost(twice, "dreambooth-cosine", 2)
    assert found.seconds == pytest.approx((own["train_seconds"].sum() + sets) / 2)
    assert search_cost(twice, "base", 2).seconds == 0.0


def test_quality_against_tuning_and_training(rows: Rows) -> None:
    analysis = analyse(rows, QUICK)
    table = tuned_table(analysis)
    assert table is not None
    searches = {b.arm: b.search.seconds for b in analysis.budgets}
    for arm, value in column(table, "tuned_seconds").items():
        total = analysis.arm(arm).estimates["total_seconds"].value
        assert value == pytest.approx((total or 0.0) + (searches[arm] or 0.0))
    assert "base" not in column(table, "tuned_seconds")
    assert {"tuned_flops", "search_flops", "quality"} <= keys(table)


def test_the_evaluation_of_the_search_stands_beside_its_training(rows: Rows, priced: Report) -> None:
    """No search does without it, and in small studies it takes longer than training."""
    table = tuned_table(analyse(rows, QUICK))
    assert table is not None
    spent = rows.search.groupby("arm")["evaluation_seconds"].sum()
    shown = column(table, "search_evaluation_seconds")
    assert {arm: shown[arm] for arm in rows.trained_arms} == pytest.approx(
        spent[list(rows.trained_arms)].to_dict()
    )
    assert table.caption == "Quality against training alone, that of the search included."
    assert (
        "the evaluation of its runs, but that is in no sum here; its wall seconds stand beside"
        in table.notes[0]
    )
    assert "billed to whichever run came first" in table.notes[0]
    figure = next(f for f in priced.figures if f.key == "pareto-tuning")
    assert "training alone" in figure.caption
    assert "without the evaluation that the search needs" in figure.caption
    notes = {t.key: " ".join(t.notes) for t in priced.tables}
    assert "the training of one search of the arm, without its evaluation, counts as well" in notes["ranking"]
    assert measure("tuned_seconds").title == "Training of search and run"
    assert (
        "without the evaluation of the result, which `study plan` counts too"
        in measure("dollars").description
    )


def test_evaluation_of_a_search_that_nothing_measured_is_said_to_be_unknown(rows: Rows) -> None:
    bare = replace(rows, frame=rows.frame.assign(evaluation_seconds=np.nan))
    table = tuned_table(analyse(bare, QUICK))
    assert table is not None
    assert "search_evaluation_seconds" not in keys(table)
    assert "in no sum here, and nothing measured it." in table.notes[0]


def test_several_searches_are_averaged_in_their_evaluation_too() -> None:
    twice = prepare(make_results(replace(STUDY, repeats=2)))
    own = twice.search[twice.search["arm"] == "lora-cosine"]
    found = search_cost(twice, "lora-cosine", 2)
    assert found.evaluation_seconds == pytest.approx(own["evaluation_seconds"].sum() / 2)
    assert search_cost(twice, "base", 2).evaluation_seconds == 0.0


def test_dollars_need_a_price_and_count_class_images(priced: Report, rows: Rows) -> None:
    table = next(t for t in priced.tables if t.key == "costs")
    dollars, seconds = column(table, "dollars"), column(table, "total_seconds")
    assert dollars["dreambooth-cosine"] == pytest.approx(float(str(seconds["dreambooth-cosine"])) / 1000)
    assert "dollars" not in keys(costs_table(analyse(rows, QUICK)))


def test_dollars_are_those_of_training_and_class_images() -> None:
    frame = pd.DataFrame(
        {
            "train_seconds": [10.0, 10.0, 10.0, 0.0],
            "device_seconds": [20.0, 20.0, 20.0, 0.0],
            "class_image_seconds": [5.0, 5.0, np.nan, 0.0],
            "train_flops": 1.0,
            "class_image_flops": 1.0,
            "peak_memory_kind": ["cuda_allocated", "resident_set", "resident_set", "resident_set"],
        }
    )
    prices = {"gpu": 3600.0, "cpu": 360.0}
    found = with_derived(frame, {"gpus_per_run": 0.5, "cpus_per_run": 2, "price_per_hour": prices})["dollars"]
    assert found.tolist()[:2] == pytest.approx([15 * (0.5 + 0.2)] * 2)  # half a GPU and two cores for 15 s
    assert np.isnan(found[2])  # nobody knows what the class images took
    assert found[3] == 0.0
    assert np.isnan(with_derived(frame, {"price_per_hour": {"gpu": 3600.0}})["dollars"][1])  # it holds none
    assert np.isnan(with_derived(frame, {"price_per_hour": {"gpu": "dear"}})["dollars"]).all()


def test_energy_and_fused_latency_are_shown_where_they_were_measured(rows: Rows) -> None:
    assert "energy_joules" not in keys(costs_table(analyse(rows, QUICK)))
    measured = replace(rows, frame=rows.frame.assign(energy_joules=120.0))
    table = costs_table(analyse(measured, QUICK))
    assert column(table, "energy_joules")["lora-cosine"] == 120.0
    fused, plain = (column(table, f"image_latency_{kind}seconds")["lora-cosine"] for kind in ("fused_", ""))
    assert float(str(fused)) < float(str(plain))


def test_both_fronts_are_drawn(priced: Report) -> None:
    figures = {figure.key: figure for figure in priced.figures}
    for key in ("pareto-quality-cost", "pareto-tuning", "pareto-costs", "anytime"):
        assert isinstance(figures[key], Figure)
        with figure_style():
            figures[key].draw().draw_without_rendering()
    assert "class images charged in full" in figures["pareto-quality-cost"].caption


def test_the_front_with_the_search_uses_one_search(rows: Rows) -> None:
    def shares(analysis: Analysis) -> list[float]:
        return [s.on_front_with_search for s in analysis.standings if s.on_front_with_search is not None]

    found = shares(analyse(rows, QUICK))
    assert len(found) == 5
    assert all(0 <= share <= 1 for share in found)
