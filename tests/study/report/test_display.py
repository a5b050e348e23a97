"""How numbers are shown: trials, digits, bounds, ranks, thresholds, and notes that say only what is so."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from study.report.figures.canvas import figure_style
from study.report.formatting import about
from study.report.image_tables import ceiling_words
from study.report.measures import bounded
from study.report.prepared import prepare
from study.report.search_history import histories
from study.report.search_tables import chosen_tables
from study.report.sections import Report, compose
from study.report.tables import estimate_column, to_markdown
from study.statistics.paired import Estimate
from tests.helpers.made_reports import QUICK, cells, edited, table
from tests.helpers.synthetic_results import STEPS, Study, make_results

SUBJECTS = ("dog-1", "bird-1", "cat-9")
STUDY = Study(trials=3, subjects=SUBJECTS, modern=True, failing=(), pruned=())


@pytest.fixture(scope="module")
def report() -> Report:
    return compose(make_results(STUDY), QUICK)


# ------------------------------------------------------------------ numbers of trials


def test_trials_count_from_0_everywhere_and_the_default_is_named() -> None:
    results = make_results(replace(STUDY, repeats=2))
    frame = results.frame
    first = (frame["arm"] == "lora-cosine") & (frame["phase"] == "confirm") & (frame["trial"] == 4)
    results = edited(results, trial=frame["trial"].where(~first, 3))
    found = compose(results, QUICK)
    chosen = table(found, "chosen")
    rows = zip(*(cells(chosen, column) for column in ("arm", "search", "trial")), strict=True)
    assert [row[1:] for row in rows if row[0] == "lora-cosine"] == [("1", "1"), ("2", "3 (default)")]
    figure = next(figure for figure in found.figures if figure.key == "search-history")
    assert "trials count from 0" in figure.caption
    assert "Trial 0 is the default" in figure.caption
    assert [h.places for h in histories(found.rows) if h.arm == "lora-cosine"] == [(0, 1, 2)] * 2
    with figure_style():
        low, high = figure.draw().axes[0].get_xlim()
    assert (low, high) == (-0.5, 2.5)
    old = compose(make_results(Study()), QUICK)
    assert not any("default" in cell.text for row in table(old, "chosen").rows for cell in row)


def test_choices_of_several_searches_have_a_line_each_and_what_they_share_is_told_once() -> None:
    chosen = {
        "lora (search 1)": {"trial": 3, "learning_rate": 1e-3, "r": 8, "lr_scheduler": "constant"},
        "lora (search 2)": {"trial": 5, "learning_rate": 1e-3, "r": 16, "lr_scheduler": "constant"},
        "dreambooth (search 1)": {"trial": 1, "learning_rate": 3e-5, "lr_scheduler": "cosine"},
        "dreambooth (search 2)": {"trial": 1, "learning_rate": 3e-5, "lr_scheduler": "cosine"},
        "fixed": {"trial": 0, "learning_rate": 2e-4, "r": 4, "lr_scheduler": "cosine"},
    }
    choices, fixed = chosen_tables(chosen, {"lora (search 1)"})
    assert [column.key for column in choices.columns] == ["arm", "search", "trial", "r"]
    assert [[cell.text for cell in row] for row in choices.rows] == [
        ["lora", "1", "3 (default)", "8"],
        ["lora", "2", "5", "16"],
        ["dreambooth", "1", "1", "--"],
        ["dreambooth", "2", "1", "--"],
        ["fixed", "--", "0", "4"],
    ]
    assert [[cell.text for cell in row] for row in fixed.rows] == [
        ["learning_rate", "0.001", "3e-05", "0.0002"],
        ["lr_scheduler", "constant", "cosine", "cosine"],
    ]
    (alone,) = chosen_tables({"lora": chosen["lora (search 1)"], "fixed": chosen["fixed"]})
    assert [column.key for column in alone.columns] == ["field", "lora", "fixed"]
    assert [cell.text for cell in alone.rows[0]] == ["trial", "3", "0"]


def test_importance_says_over_how_many_searches_it_counts() -> None:
    found = compose(make_results(replace(STUDY, trials=6, repeats=2)), QUICK)
    assert set(cells(table(found, "importance"), "trials")) == {"12 in 2 searches"}


# ------------------------------------------------------------------ digits and bounds


def test_scores_have_two_decimals_and_steps_none(report: Report) -> None:
    arms = table(report, "arms")
    for name in ("quality", "class_kept", "failed_images"):
        assert all(re.fullmatch(r"[−\d]+\.\d\d\d?", text) for text in cells(arms, name)), name
    assert set(cells(table(report, "costs"), "train_steps")) == {"0", str(STEPS)}
    assert all(re.fullmatch(r"\d+", text) for text in cells(table(report, "anytime"), "steps"))
    _, found = estimate_column("quality", "Quality", "", "max", [Estimate(0.12345), Estimate(0.0)])
    assert [cell.text for cell in found] == ["0.12", "0.00"]
    _, narrow = estimate_column(
        "quality", "Quality", "", "max", [Estimate(0.12345, 0.121, 0.126), Estimate(0.5)]
    )
    assert [(cell.text, cell.detail) for cell in narrow] == [("0.123", "[0.121, 0.126]"), ("0.500", "")]


def test_intervals_are_cut_at_what_is_possible() -> None:
    wide = Estimate(0.1, -0.5, 1.7, 3, 3)
    assert (bounded("failed_images", wide).low, bounded("failed_images", wide).high) == (0.0, 1.0)
    assert (bounded("train_seconds", wide).low, bounded("train_seconds", wide).high) == (0.0, 1.7)
    assert bounded("class_kept", wide) == wide
    (cell, _) = estimate_column("memorisation", "M", "", "min", [wide, wide])[1]
    assert (cell.low, cell.high, cell.detail) == (0.0, 1.0, "[0.00, 1.00]")
    results = make_results(replace(STUDY, subjects=SUBJECTS))
    quality = results.frame["quality"].where(results.frame["subject"] != "dog-1", 0.01)
    found = compose(edited(results, quality=quality), QUICK)
    assert "Intervals are cut at what is possible" in " ".join(table(found, "arms").notes)
    for row in table(found, "arms").rows:
        assert row[2].low is None or row[2].low >= 0
    assert "cut at" not in " ".join(table(compose(make_results(Study()), QUICK), "arms").notes)


def test_shares_within_false_alarms_are_not_ranked() -> None:
    def ranks(*values: float) -> list[int | None]:
        found = estimate_column("memorisation", "M", "", "min", [Estimate(value) for value in values])[1]
        return [cell.rank for cell in found]

    assert ranks(0.0, 0.01, 0.04) == [None, None, None]
    assert ranks(0.0, 0.04, 0.3) == [1, 1, 2]
    assert ranks(0.1, 0.2, 0.3) == [1, 2, None]


def test_descriptions_name_the_thresholds(report: Report) -> None:
    text = to_markdown(table(report, "measures"))
    assert "below 0.6" in text
    assert "more than 95 % of copies" in text


def test_numbers_of_subjects_are_rounded() -> None:
    assert [about(n) for n in (3, 20, 21, 23, 91, 99, 104, 184, 996)] == [
        3,
        20,
        20,
        25,
        90,
        100,
        100,
        180,
        1000,
    ]


def test_the_note_on_costs_names_only_what_is_missing(report: Report) -> None:
    notes = " ".join(table(report, "costs").notes)
    assert "energy (nothing measured it)" in notes
    assert "latency (nothing" not in notes
    priced = make_results(STUDY)
    priced.meta["spec"]["resources"] = {"price_per_hour": {"cpu": 3.6}}
    full = compose(edited(priced, energy_joules=3.0), QUICK)
    assert "Not shown" not in " ".join(table(full, "costs").notes)


def test_ceilings_say_of_what_and_with_which_class(report: Report) -> None:
    (text,) = next(section for section in report.sections if section.key == "images").paragraphs
    assert "of perfect pictures of the subject in the prompts, class kept taken as 1" in text
    bare = prepare(edited(make_results(STUDY), ceiling_prompt=np.nan, ceiling_quality=np.nan))
    (text,) = ceiling_words(bare, None)
    assert "held-out photographs" in text
    assert "class kept" not in text


def test_long_tables_stand_at_the_end_and_notes_once(report: Report) -> None:
    keys = [section.key for section in report.sections]
    assert keys.index("prompts") > keys.index("method")
    notes = [note for t in report.tables for note in t.notes]
    assert sum("two-sided paired t test" in note for note in notes) == 1


def test_a_quantised_base_model_is_said() -> None:
    results = make_results(STUDY)
    facts = {}
    for bits in (None, "4bit"):
        model = {"path": "some/model", **({"quantization": bits} if bits else {})}
        meta = {**results.meta, "spec": {**results.meta["spec"], "model": model}}
        facts[bits] = dict(compose(replace(results, meta=meta), QUICK).summary)["Base model"]
    assert facts == {None: "some/model", "4bit": "some/model, weights quantised (4bit)"}
