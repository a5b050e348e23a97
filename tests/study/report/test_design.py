"""What the study was run and judged on, and what its arms differ in: design, factors, images, clocks, budgets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from study.report.analysis import analyse
from study.report.anytime import anytime_table, compute_courses, images_words
from study.report.budgets import budget_of, chosen_configurations
from study.report.caveats import uneven_budgets
from study.report.design import confirm_design, design_of
from study.report.design_tables import distances_words, factors_table, phases_words
from study.report.factors import differing_fields, factors_of, other_fields, searched_fields
from study.report.figures.canvas import figure_style
from study.report.prepared import Rows, prepare
from study.report.searches import budget_words, repeats_words
from study.report.sections import Report, compose
from study.report.tables import to_markdown
from study.report.verdict import cost_words, judge
from study.results.frames import Results
from tests.helpers.made_reports import QUICK, cells, edited, table
from tests.helpers.synthetic_results import ARMS, Arm, Study, make_results

SUBJECTS = ("dog-1", "bird-1", "cat-9")
STUDY = Study(trials=3, subjects=SUBJECTS, modern=True, failing=(), pruned=())


@pytest.fixture(scope="module")
def report() -> Report:
    return compose(judged(make_results(STUDY), images_between=4), QUICK)


def judged(results: Results, **fields: Any) -> Results:
    results.meta["spec"]["evaluation"] = fields
    return results


def warnings(rows: Rows) -> str:
    return " ".join(judge(rows, analyse(rows, QUICK)).warnings)


# ------------------------------------------------------------------ design


def test_the_design_counts_what_each_phase_was_judged_on(report: Report) -> None:
    found = table(report, "design")
    assert cells(found, "phase") == ["search", "confirm"]
    assert cells(found, "subjects") == ["1", "3"]
    assert cells(found, "images") == ["--", "12"]  # the search kept no scores of images
    assert cells(found, "class_images") == ["--", "12"]
    assert cells(found, "anchors") == ["≥ 64", "≥ 64"]
    keys = [t.key for t in report.tables]
    assert keys.index("design") < keys.index("details")


def test_the_study_file_states_what_no_image_tells() -> None:
    results = make_results(Study())
    stated = {"images_per_prompt": 4, "num_class_images": 16, "prompts": ["a {subject}", "b {subject}", "c {subject}"],
              "search": {"images_per_prompt": 2, "num_class_images": 8, "prompts": ["d {subject}"]}}  # fmt: skip
    search, confirm = design_of(prepare(judged(results, **stated)))
    assert (confirm.prompts, confirm.images, confirm.class_images, confirm.anchors) == (3, 12, 16, None)
    assert (search.prompts, search.images, search.class_images) == (1, 2, 8)
    assert design_of(prepare(make_results(Study())))[1].images is None


def test_few_images_are_a_warning_and_distances_say_what_they_lack(report: Report) -> None:
    assert "Confirm runs were judged on 12 images of the subject, fewer than 64" in warnings(report.rows)
    assert "KID and CMMD need 50 class images a run, there were 12." in " ".join(
        table(report, "details").notes
    )
    (_, confirm) = design_of(report.rows)
    assert distances_words([replace(confirm, class_images=50)]) == ()
    assert "fewer than 64" not in warnings(prepare(make_results(Study())))


def test_how_the_phases_differ_follows_from_the_design(report: Report) -> None:
    rows = report.rows
    (paragraph,) = [
        p for s in report.sections if s.key == "method" for p in s.paragraphs if "Two phases" in p
    ]
    assert (
        "a search chose one configuration of each arm; it is then trained again on other subjects and seeds"
        in paragraph
    )
    rows.meta["spec"]["search"]["allow_overlap"] = False
    assert "on other subjects, seeds, prompts and noise" in phases_words(rows, design_of(rows))
    rows.meta["spec"]["search"]["allow_overlap"] = True
    assert "prompts may be shared with the search" in phases_words(rows, design_of(rows))
    del rows.meta["spec"]["search"]["allow_overlap"]
    shared = prepare(make_results(Study(subjects=("cat-1", "dog-1"))))
    assert "subjects may be shared" in phases_words(shared, design_of(shared))
    twice = prepare(make_results(replace(STUDY, repeats=2)))
    assert "each of 2 independent searches" in phases_words(twice, design_of(twice))
    bare = replace(rows, frame=rows.frame[rows.frame["phase"] == "confirm"])
    assert "Nothing was searched" in phases_words(bare, design_of(bare))


# ------------------------------------------------------------------ factors


def test_factors_come_from_runs_study_file_and_defaults(report: Report) -> None:
    found = {f.arm: (f.trains, f.prior, f.text_encoder, f.schedule) for f in factors_of(report.rows)}
    assert found["lora-cosine"] == ("an adapter (LoRA)", "no", "no", "cosine")
    assert found["dreambooth-constant"] == ("all weights", "yes", "yes", "constant")  # as by default
    assert (
        found["dreambooth_lora"][:2] == ("an adapter (LoRA)", "yes") or found["dreambooth_lora"][1] == "yes"
    )
    assert "base" not in found
    results = make_results(STUDY)
    results.meta["spec"]["training"] = {"train_text_encoder": True}
    results.meta["spec"]["arms"]["lora-cosine"]["train_text_encoder"] = False
    found = {f.arm: f.text_encoder for f in factors_of(prepare(results))}
    assert (found["lora-cosine"], found["lora-constant"]) == ("no", "yes")
    assert factors_table(factors_of(report.rows)) is not None
    assert factors_table(factors_of(report.rows)[:1]) is None


def test_what_else_sets_arms_apart_is_told_under_the_factors() -> None:
    results = make_results(STUDY)
    assert other_fields(prepare(results)) == {}
    arms = results.meta["spec"]["arms"]
    for arm in arms.values():
        arm["snr_gamma"] = 5.0  # in all of them
    for arm in ("lora-cosine", "lora-constant", "dreambooth_lora"):
        arms[arm]["r"] = 16  # in all that have adapters
    arms["lora-cosine"]["caption_dropout"] = 0.1
    rows = prepare(results)
    assert other_fields(rows) == {"lora-cosine": {"caption_dropout": 0.1}}
    table = factors_table(factors_of(rows), other_fields(rows))
    assert table is not None
    assert table.notes[-1].endswith("by other fields, too: lora-cosine (caption_dropout: 0.1).")


def test_arms_that_differ_in_several_factors_are_a_warning() -> None:
    arms = (
        Arm("full", "dreambooth", gain=0.8),
        Arm("adapter", "lora", gain=0.6),
        Arm("weak", "lora", gain=0.1),
    )
    results = make_results(Study(arms=arms, trials=2, subjects=SUBJECTS))
    results.meta["spec"]["training"] = {"train_text_encoder": True}
    beware = warnings(prepare(results))
    assert (
        "full and the next arm, adapter, differ in 2 factors: what is trained (all weights, an adapter"
        in beware
    )
    assert "prior preservation (yes, no)" in beware
    close = (Arm("one", "lora", "cosine", 0.8), Arm("two", "lora", "constant", 0.6))
    assert "factors" not in warnings(prepare(make_results(Study(arms=close, trials=2, subjects=SUBJECTS))))


def test_a_field_that_a_method_does_not_read_is_no_factor_of_it() -> None:
    arms = (Arm("networks", "hypernetwork", gain=0.8), Arm("adapter", "lora", gain=0.6))
    results = make_results(Study(arms=arms, trials=2, subjects=SUBJECTS))
    results.meta["spec"]["training"] = {"train_text_encoder": True}
    found = {f.arm: (f.trains, f.text_encoder) for f in factors_of(prepare(results))}
    assert found["networks"] == ("networks before keys and values", "no")
    assert found["adapter"] == ("an adapter (LoRA)", "yes")


def test_fields_without_effect_are_in_no_chosen_configuration() -> None:
    results = make_results(STUDY)
    frame = results.frame.assign(**{"param.prior_loss_weight": 0.3, "param.text_encoder_learning_rate": 1e-3})
    results.meta["spec"]["training"] = {"train_text_encoder": False}
    rows = prepare(replace(results, frame=frame))
    chosen = chosen_configurations(rows)
    assert "prior_loss_weight" not in chosen["lora-cosine"]
    assert chosen["dreambooth-cosine"]["prior_loss_weight"] == 0.3
    assert "text_encoder_learning_rate" not in chosen["dreambooth-cosine"]  # the text encoder does not train
    rows.meta["spec"]["training"] = {"train_text_encoder": True}
    assert chosen_configurations(rows)["dreambooth-cosine"]["text_encoder_learning_rate"] == 1e-3


def test_cosine_and_constant_were_tuned_apart(report: Report) -> None:
    rows = report.rows
    assert differing_fields(rows, "lora-cosine", "lora-constant") == ["learning rate"]
    effect = next(e for e in report.analysis.schedules if e.method == "lora")
    assert (effect.differs, effect.searched) == (("learning rate",), True)
    points = " ".join(judge(rows, report.analysis).points)
    assert "each tuned by its own search; they also differ in learning rate" in points
    found = table(report, "cosine-vs-constant")
    assert cells(found, "differs") == ["learning rate"] * 2
    assert "two tuned configurations" in found.notes[0]


# ------------------------------------------------------------------ what was searched


def with_space(results: Results, **fields: Any) -> Rows:
    results.meta["spec"]["arms"]["lora-cosine"].update(fields)
    return prepare(results)


def test_dimensions_are_those_of_the_search_space_not_those_that_happened_to_vary() -> None:
    once = Study(trials=1, modern=True, failing=(), pruned=())
    rows = prepare(make_results(once))
    assert rows.parameters_of("lora-cosine") == []
    assert searched_fields(rows, "lora-cosine") == ("learning_rate", "r")
    assert budget_of(rows, "lora-cosine").trials_per_dimension == 0.5
    fixed = with_space(make_results(once), r=8)
    assert searched_fields(fixed, "lora-cosine") == ("learning_rate",)
    assert searched_fields(rows, "base") == ()
    resolved = make_results(once)
    resolved.meta["identity"] = {"arms": {"lora-cosine": {"search_space": {"r": {}, "x": {}, "y": {}}}}}
    assert searched_fields(prepare(resolved), "lora-cosine") == ("r", "x", "y")


def test_a_record_that_does_not_fit_is_not_believed() -> None:
    rows = with_space(make_results(STUDY), learning_rate=1e-3)  # but it varied
    assert searched_fields(rows, "lora-cosine") == ("learning_rate", "r")
    rows = with_space(make_results(STUDY), search_space={"r": "nonsense"})
    assert searched_fields(rows, "lora-cosine") == ("learning_rate", "r")


def test_steps_that_came_of_another_budget_are_no_dimension() -> None:
    results = make_results(STUDY)
    flops = np.linspace(1e9, 2e9, len(results.frame))
    frame = results.frame.assign(**{"max_train_steps": 10_000_000, "train_steps": 10.0 + np.arange(len(flops)),
                                    "param.max_train_flops": flops})  # fmt: skip
    rows = prepare(replace(results, frame=frame))
    found = rows.parameters_of("lora-cosine")
    assert "param.max_train_flops" in found
    assert "max_train_steps" not in found


def searched(frame: pd.DataFrame, **trials: int) -> pd.DataFrame:
    """The frame with so many trials of each arm (dashes are underscores here)."""
    most = frame["arm"].map({arm.name: trials.get(arm.name.replace("-", "_"), 0) for arm in ARMS})
    return frame[(frame["phase"] == "confirm") | (frame["trial"] < most)]


def test_trials_that_are_dealt_out_over_a_methods_arms_are_no_warning() -> None:
    """LoRA and DreamBooth+LoRA are one method: its six trials make two an arm, against three of DreamBooth's."""
    results = make_results(STUDY)
    frame = searched(
        results.frame,
        lora_cosine=2,
        lora_constant=2,
        dreambooth_lora=2,
        dreambooth_cosine=3,
        dreambooth_constant=3,
    )
    results = replace(results, frame=frame)
    results.meta["spec"]["search"].update(trials=None, trials_per_method=6)
    rows = prepare(results)
    budgets = {arm: budget_of(rows, arm) for arm in rows.trained_arms}
    assert {(b.method, b.method_trials) for b in budgets.values()} == {("lora", 6), ("dreambooth", 6)}
    assert uneven_budgets(tuple(budgets.values()), set()) == []
    assert "Search budgets" not in warnings(rows)
    report = compose(results, QUICK)
    assert cells(table(report, "budget"), "method_trials") == ["0", "6", "6", "6", "6", "6"]
    assert "dealt out" in " ".join(table(report, "budget").notes)

    fewer = prepare(
        replace(results, frame=searched(frame, **dict.fromkeys(("lora_cosine", "dreambooth_cosine"), 3)))
    )
    text = warnings(fewer)
    assert "lora had 2 trials (lora-cosine, lora-constant, dreambooth_lora)" in text
    assert "dreambooth had 3 trials (dreambooth-cosine, dreambooth-constant)" in text
    assert "Search budgets differ" not in text


def test_methods_whose_arms_had_more_trials_together_are_a_warning() -> None:
    """As many an arm is twice as many a method that has two arms."""
    results = make_results(replace(STUDY, arms=ARMS[:4], trials=6))
    text = warnings(prepare(results))
    assert (
        "Search budgets of the methods differ: lora had 12 trials (lora-cosine, lora-constant) and dreambooth had 6"
        in text
    )
    assert "Search budgets differ" not in text
    budget = table(compose(results, QUICK), "budget")
    assert cells(budget, "trials") == ["0", "6", "6", "6"]
    assert cells(budget, "method_trials") == ["0", "12", "12", "6"]
    assert "dealt out" not in " ".join(budget.notes)


def test_uneven_arms_of_equal_methods_are_told_once() -> None:
    results = make_results(STUDY)
    frame = searched(
        results.frame, lora_cosine=1, lora_constant=2, dreambooth_cosine=3, dreambooth_constant=0
    )
    text = warnings(prepare(replace(results, frame=frame)))
    assert "Search budgets differ: lora-cosine had 1 trial" in text
    assert "budgets of the methods" not in text
    two = make_results(replace(STUDY, arms=(ARMS[0], ARMS[1], ARMS[3])))
    alone = warnings(prepare(replace(two, frame=searched(two.frame, lora_cosine=1, dreambooth_cosine=3))))
    assert "Search budgets differ: lora-cosine had 1 trial and dreambooth-cosine had 3 trials." in alone
    assert "budgets of the methods" not in alone


@pytest.mark.parametrize(
    ("repeats", "holds"),
    [(2, "only part of the search's chance; see Beware"), (3, "the chance of the search")],
)
def test_intervals_hold_the_searchs_chance_only_with_a_search_for_each_subject(
    repeats: int, holds: str
) -> None:
    rows = prepare(make_results(replace(STUDY, repeats=repeats)))
    (text,) = repeats_words(rows)
    assert text.endswith(f"intervals over subjects hold {holds}.")


def test_one_search_is_told_without_intervals_too() -> None:
    rows = prepare(make_results(replace(STUDY, subjects=SUBJECTS[:2])))
    assert "Each arm was searched once: values are those of one tuned configuration" in warnings(rows)


def test_class_images_are_paid_from_the_budget_or_beside_it() -> None:
    results = make_results(STUDY)
    results.meta["spec"]["budget"] = {"max_train_steps": 100}
    assert "class images are outside it (0.30" in budget_words(prepare(results))[0]
    results.meta["spec"]["budget"] = {"train_flops": 4e11}
    assert "class images are paid from it (0.30" in budget_words(prepare(results))[0]
    none = edited(results, class_image_flops=0.0)
    assert "class images" not in budget_words(prepare(none))[0]


# ------------------------------------------------------------------ clocks and costs


def test_runs_of_one_configuration_that_took_unlike_times_are_a_warning() -> None:
    results = make_results(STUDY)
    assert "seconds a step" not in warnings(prepare(results))
    slow = results.frame["train_seconds"].where(
        results.frame["run_key"] != "confirm/lora-cosine/0001-dog-1-s100", results.frame["train_seconds"] * 2
    )
    rows = prepare(edited(results, train_seconds=slow))
    assert "wall times were taken beside other runs on the machine. FLOPs do not depend on it" in warnings(
        rows
    )


def test_latency_and_preparation_win_no_prize(report: Report) -> None:
    found = table(report, "costs")
    ranks = {c.key: {row[k].rank for row in found.rows} for k, c in enumerate(found.columns)}
    for name in ("image_latency_seconds", "image_latency_fused_seconds", "preparation_seconds"):
        assert ranks[name] == {None}
    assert 1 in ranks["total_flops"]


def test_the_main_table_charges_class_images_in_time_and_flops(report: Report) -> None:
    keys = [column.key for column in table(report, "arms").columns]
    assert keys[-3:] == ["train_seconds", "total_seconds", "total_flops"]
    old = compose(make_results(Study()), QUICK)
    assert [column.key for column in table(old, "arms").columns][-2:] == ["train_seconds", "train_flops"]


def test_cheaper_arms_are_compared_in_the_numbers_that_are_shown() -> None:
    arms = (
        Arm("dear", "dreambooth", gain=0.6, step_seconds=0.2),
        Arm("cheap", "lora", gain=0.59, step_seconds=0.05),
    )
    rows = prepare(make_results(Study(arms=arms, trials=1, subjects=SUBJECTS, modern=True)))
    analysis = analyse(rows, QUICK)
    words = " ".join(cost_words(analysis))
    one, two = (analysis.arm(name).estimates for name in ("dear", "cheap"))

    def ratio(name: str) -> str:
        return f"{(one[name].value or 0) / (two[name].value or 1):.1f}"

    assert (
        f"{ratio('total_seconds')} times less time and {ratio('total_flops')} times fewer FLOPs, class images"
        in words
    )
    assert "faster" not in words
    assert "TFLOP with class images" in words


# ------------------------------------------------------------------ images on the way


def test_places_on_the_way_say_on_how_few_images_they_rest(report: Report) -> None:
    design = confirm_design(report.rows)
    assert design is not None
    assert (design.images, design.class_images) == (12, 12)
    assert (design.images_between, design.class_images_between) == (4, 8)
    found = compute_courses(report.rows, "quality", 0.95)
    assert [p.images for p in found.courses[0].points] == [12, 4, 4, 4, 4, 12]
    words = images_words([found])
    assert (
        "On the way each run was judged on 4 images of the subject and 8 class images, at the end on 12"
        in words
    )
    shown = anytime_table([found])
    assert shown is not None
    assert cells(shown, "images")[:6] == ["12", "4", "4", "4", "4", "12"]
    for figure in report.figures:
        if figure.key in ("curves", "anytime"):
            assert "On the way each run was judged on 4 images" in figure.caption
            with figure_style():
                sizes = {
                    line.get_markersize() for line in figure.draw().axes[0].lines if line.get_marker() == "o"
                }
            assert len(sizes) == 2


def test_a_study_with_all_images_at_each_place_says_nothing_of_it() -> None:
    rows = prepare(make_results(STUDY))
    assert images_words([compute_courses(rows, "quality", 0.95)]) == ""
    tiny = prepare(judged(make_results(STUDY), images_between=1))
    design = confirm_design(tiny)
    assert design is not None
    assert design.class_images_between == 8  # at least eight


# ------------------------------------------------------------------ few subjects


def test_nothing_is_tested_with_two_subjects() -> None:
    rows = prepare(make_results(replace(STUDY, subjects=SUBJECTS[:2])))
    points = " ".join(judge(rows, analyse(rows, QUICK)).points)
    assert "None of the 10 pairs of trained arms was tested" in points
    assert "differ beyond chance" not in points
    assert "is not tested for any trained arm" in points


@pytest.mark.parametrize(("subjects", "shown"), [(4, False), (5, True)])
def test_shares_of_few_resampled_subjects_are_no_headline(subjects: int, shown: bool) -> None:
    names = tuple(f"s-{k}" for k in range(subjects))
    rows = prepare(make_results(Study(arms=ARMS, trials=1, subjects=names)))
    points = " ".join(judge(rows, analyse(rows, QUICK)).points)
    assert ("when subjects are resampled" in points) == shown


def test_the_base_is_told_alike_everywhere(report: Report) -> None:
    assert cells(table(report, "arms"), "n")[0] == "3 (3 × 2)"
    assert cells(table(report, "budget"), "confirm_runs")[0] == "6"
    text = to_markdown(table(report, "arms")) + to_markdown(table(report, "against-base"))
    assert "has no seeds" not in text
    assert "no seeds" not in text
    assert text.count("differ in evaluation noise only and are averaged") == 2
    assert "about, not exactly, 0 and 1" in text
    paragraphs = " ".join(p for s in report.sections for p in s.paragraphs)
    assert "about, not exactly, S 0, P 1 and C 1" in paragraphs
