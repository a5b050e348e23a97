"""What a search's trials predict: fields as features, effects of hyperparameters, the path from default to chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from study.report.ablation import ablation_table, effects_table, paths, skipped_words, trial_pairs
from study.report.figures.canvas import Figure, Skipped, figure_style
from study.report.figures.search_effects import ablation_figure, effects_figure
from study.report.figures.style import arm_styles
from study.report.prepared import Rows, prepare
from study.report.search_effects import Surrogate, effects_of, field_of, surrogates
from study.report.tables import Cell
from study.statistics.paired import mean_interval
from tests.helpers.made_reports import cells
from tests.helpers.synthetic_results import ARMS, Study, make_results

ARM = "lora-cosine"
REPEATS, TRIALS = 5, 8
STUDY = Study(
    arms=ARMS[:3],
    trials=TRIALS,
    repeats=REPEATS,
    subjects=tuple("abcde"),
    seeds=(100,),
    curves=False,
    failing=(),
    pruned=(),
)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return prepare(make_results(STUDY))


@pytest.fixture(scope="module")
def found(rows: Rows) -> tuple[Surrogate, ...]:
    return surrogates(rows)


def of_arm(found: tuple[Surrogate, ...]) -> Surrogate:
    return next(one for one in found if one.arm == ARM)


# ------------------------------------------------------------------ fields


def test_numbers_are_a_line_and_a_bend_around_their_default() -> None:
    field = field_of("learning_rate", [1e-5, 1e-4, 1e-3], [1e-4])
    assert field.logarithmic
    assert field.features([1e-5, 1e-4, 1e-3]) == pytest.approx(np.array([[-1, 1], [0, 0], [1, 1]]))
    narrow = field_of("param.share", [0.4, 0.5, 0.6], [])
    assert not narrow.logarithmic
    assert narrow.reference == 0.5  # no default is known: the middle
    assert narrow.name == "share"
    assert narrow.features([0.6, None]) == pytest.approx(np.array([[1, 1], [0, 0]]))


def test_words_booleans_and_two_numbers_are_levels() -> None:
    words = field_of("lr_scheduler", ["cosine", "constant", "linear"], ["constant"])
    assert words.levels == ("constant", "cosine", "linear")
    assert words.features(["constant", "linear"]).tolist() == [[0, 0], [0, 1]]
    assert field_of("param.prior", [True, False, True], []).levels == ("True", "False")
    assert field_of("param.r", [4.0, 16.0], [16.0]).levels == ("16", "4")
    off = field_of("param.snr_gamma", [5.0, None, 5.0], [None])  # none: the field is off
    assert off.levels == ("None", "5")
    assert off.features([None, 5.0]).tolist() == [[0], [1]]


# ------------------------------------------------------------------ effects


def test_effects_find_what_the_scores_were_made_of(found: tuple[Surrogate, ...]) -> None:
    """The made-up score falls away from the best rate on both sides, and depends on nothing else."""
    one = of_arm(found)
    assert one.model is not None
    assert one.model.explained > 0.5
    assert one.model.subjects == tuple(f"cat-{k + 1}" for k in range(REPEATS))
    effects = effects_of(one)
    assert {effect.field for effect in effects} == {"learning_rate", "r"}
    for effect in effects:
        assert effect.change.low is not None
        if effect.field != "learning_rate":
            assert abs(effect.change.value or 0.0) < 0.15
    field = next(field for field in one.fields if field.column == "learning_rate")
    for end in (1e-4, 1e-2):  # ten times too small and too large: the score is about 0.64 less 0.14
        change, left_out = one.contributions(field, 1e-3, end)
        assert change < -0.25
        assert left_out.shape == (REPEATS,)


def test_an_effect_is_a_difference_of_predictions(found: tuple[Surrogate, ...]) -> None:
    one = of_arm(found)
    assert one.model is not None
    trials = one.trials
    features = np.hstack([field.features(trials[field.column].tolist()) for field in one.fields])
    predicted = features @ one.model.weights
    first, second = trials.iloc[3], trials.iloc[11]
    parts = [one.contributions(field, first[field.column], second[field.column])[0] for field in one.fields]
    assert sum(parts) == pytest.approx(predicted[11] - predicted[3])


def test_few_trials_and_trials_that_tell_nothing_have_no_surrogate(rows: Rows) -> None:
    few = surrogates(prepare(make_results(Study(arms=ARMS[:2], trials=3))))
    assert few[0].skipped == "needs at least 8 complete trials, the search has 3"
    assert effects_of(few[0]) == ()
    assert effects_table(few, "quality") is None
    chance = np.random.default_rng(1).normal(size=len(rows.frame))
    blind = surrogates(replace(rows, frame=rows.frame.assign(quality=chance)))
    assert any("tell nothing of a subject that is left out" in (one.skipped or "") for one in blind)


# ------------------------------------------------------------------ the path


def test_the_path_adds_up_to_what_is_predicted(rows: Rows, found: tuple[Surrogate, ...]) -> None:
    one = of_arm(found)
    path = next(path for path in paths(rows, found, 0.95) if path.arm == ARM)
    ends = trial_pairs(rows, one)
    assert [(end.default, end.chosen) for end in ends] == [
        (TRIALS * k, TRIALS * k + 1) for k in range(REPEATS)
    ]
    assert path.searches == path.changed == REPEATS
    assert one.model is not None
    trials = one.trials.set_index("trial")
    total = 0.0
    for end in ends:
        pair = [
            np.hstack([field.features([trials.loc[trial, field.column]])[0] for field in one.fields])
            for trial in (end.default, end.chosen)
        ]
        total += float((pair[1] - pair[0]) @ one.model.weights) / REPEATS
    assert path.steps[-1].reached.value == pytest.approx(total)
    changes = [step.change.value or 0.0 for step in path.steps]
    assert sum(changes) == pytest.approx(total)
    assert changes == sorted(changes, reverse=True)  # the largest gain first
    assert path.steps[0].reached == path.steps[0].change
    assert all(step.searches <= REPEATS and step.change.low is not None for step in path.steps)


def test_what_the_search_measured_stands_beside_it(rows: Rows, found: tuple[Surrogate, ...]) -> None:
    path = next(path for path in paths(rows, found, 0.95) if path.arm == ARM)
    search = rows.search[rows.search["arm"] == ARM].set_index("trial")["quality"]
    gains = [search[TRIALS * k + 1] - search[TRIALS * k] for k in range(REPEATS)]
    expected = mean_interval(gains)
    assert path.measured.value == pytest.approx(expected.value)
    assert (path.measured.low, path.measured.high) == pytest.approx((expected.low, expected.high))
    table = ablation_table(paths(rows, found, 0.95), "quality")
    assert table is not None
    fields = cells(table, "field")
    assert fields.count("measured in the search") == 2  # arms
    place = next(
        k
        for k, row in enumerate(table.rows)
        if row[0] == Cell(ARM, value=ARM) and row[1].text.startswith("meas")
    )
    assert f"{expected.value:+.2f}".replace("-", "−") == cells(table, "reached")[place]
    assert "not measured" in table.notes[0]
    assert "too large" in table.notes[1]


def test_an_arm_that_keeps_its_default_has_no_steps(rows: Rows, found: tuple[Surrogate, ...]) -> None:
    confirm = rows.frame["phase"] == "confirm"
    trial = rows.frame["trial"].where(~confirm, rows.frame["trial"] - 1)  # the first of each search
    (path, _) = paths(replace(rows, frame=rows.frame.assign(trial=trial)), found, 0.95)
    assert path.steps == ()
    assert (path.changed, path.searches) == (0, REPEATS)
    assert path.measured.value == 0


def test_without_a_default_trial_there_is_no_path() -> None:
    rows = prepare(
        make_results(Study(arms=ARMS[:2], trials=24))
    )  # its record does not say that one was tried
    found = surrogates(rows)
    assert found[0].model is not None
    assert effects_table(found, "quality") is not None
    (path,) = paths(rows, found, 0.95)
    assert ablation_table([path], "quality") is None
    assert skipped_words([path]) == (
        "Nothing is predicted for lora-cosine: its search has no default trial, or no confirmed one, that completed.",
    )
    assert all(effect.change.low is None for effect in effects_of(found[0]))  # one subject


# ------------------------------------------------------------------ figures


def test_figures_have_a_panel_an_arm_or_a_reason(rows: Rows, found: tuple[Surrogate, ...]) -> None:
    styles = arm_styles(rows.arms, rows.methods)
    shown = (
        effects_figure(found, styles, "quality"),
        ablation_figure(paths(rows, found, 0.95), styles, "quality"),
    )
    for figure in shown:
        assert isinstance(figure, Figure)
        assert "not measured" in figure.caption
        with figure_style():
            canvas = figure.draw()
        assert len([ax for ax in canvas.axes if ax.get_visible()]) == 2
    few = surrogates(prepare(make_results(Study(arms=ARMS[:2], trials=3))))
    missing = effects_figure(few, styles, "quality")
    assert isinstance(missing, Skipped)
    assert "at least 8" in missing.reason
