"""Effects of crossed factors: against plain arithmetic, on noise alone, and where nothing is crossed."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from study.report.analysis import analyse
from study.report.caveats import warnings_of
from study.report.comparisons import compare, compare_families
from study.report.factor_effects import crossed_arms, effect_of
from study.report.factor_tables import factor_effects_table, factor_words
from study.report.pairing import Values
from study.report.prepared import Rows, prepare
from study.report.tables import to_markdown
from study.report.verdict import judge
from study.results.csv_files import read_csv
from study.spec.crossing import Crossed, crossed_in
from study.spec.loading import load_study
from study.spec.study_spec import StudySpec
from study.statistics.paired import holm
from tests.helpers.imports import ROOT
from tests.helpers.made_reports import QUICK
from tests.helpers.synthetic_results import Arm, Study, make_results

SUBJECTS = ("dog-1", "bird-1", "cat-2", "fox-1", "cow-1", "owl-1")
CROSSED = tuple(
    Arm(f"{method}-{prior}-{schedule}", method, schedule, gain=0.5 + 0.2 * (prior == "prior") + 0.02 * k)
    for k, (method, prior, schedule) in enumerate(
        product(("lora", "dreambooth"), ("plain", "prior"), ("cosine", "constant"))
    )
)


def crossed(arms: tuple[Arm, ...] = CROSSED, **stated: dict[str, Any]) -> Rows:
    results = make_results(
        Study(arms=(Arm("base", "base", gain=0.0), *arms), subjects=SUBJECTS, trials=2, failing=())
    )
    for arm in arms:
        fields = {"with_prior_preservation": "-prior-" in arm.name, "lr_scheduler": arm.schedule}
        results.meta["spec"]["arms"][arm.name] |= fields | stated.get(arm.name, {})
    results.meta["spec"]["training"] = {"train_text_encoder": True}
    prior = results.frame["arm"].str.contains("-prior-")
    columns = [name for name in results.frame if name.endswith("with_prior_preservation")]
    return prepare(replace(results, frame=results.frame.assign(**dict.fromkeys(columns, prior))))


def test_an_effect_is_the_mean_of_all_pairs_that_differ_in_it_alone() -> None:
    rows = crossed()
    analysis = analyse(rows, QUICK)
    effects = {effect.factor: effect for effect in analysis.factor_effects}
    assert list(effects) == ["What is trained", "Prior preservation", "Schedule"]
    prior = effects["Prior preservation"]
    assert (prior.first, prior.second) == ("yes", "no")
    assert len(prior.arms) == 4
    means = rows.confirm.groupby(["arm", "subject"])["quality"].mean().unstack()
    chosen = means.index.str.contains("-prior-")
    trained = means.index != "base"
    expected = means[chosen & trained].mean() - means[~chosen & trained].mean()
    comparison = prior.comparisons["quality"]
    assert comparison.difference.value == pytest.approx(expected.mean())
    assert comparison.difference.n_subjects == len(SUBJECTS)
    assert comparison.p == pytest.approx(ttest_1samp(expected, 0).pvalue)
    assert comparison.outcome == "better"
    shares = [1 / 56] * 28 + [1 / 6] * 3
    ps = [c.p for c in (*analysis.pairs, *(effect.comparisons["quality"] for effect in effects.values()))]
    assert comparison.p_holm == pytest.approx(holm(ps, shares)[29])
    assert [c.p_holm for c in analysis.pairs] == pytest.approx(holm(ps, shares)[:28].tolist())


def test_a_design_that_is_not_crossed_has_no_effects() -> None:
    assert analyse(crossed(CROSSED[:7]), QUICK).factor_effects == ()  # an arm lacks its partner
    one_question = analyse(crossed(CROSSED[:4]), QUICK).factor_effects
    assert [effect.factor for effect in one_question] == ["Prior preservation", "Schedule"]
    assert len(analyse(crossed(CROSSED[:7]), QUICK).pairs) == 21  # have the level to themselves
    other_rank = {"lora-prior-cosine": {"r": 4}}
    assert [e.factor for e in analyse(crossed(**other_rank), QUICK).factor_effects] == ["What is trained"]


def test_a_missing_run_leaves_its_subject_and_seed_out() -> None:
    rows = crossed()
    whole = analyse(rows, QUICK).factor_effects[0].comparisons["quality"].difference
    first = (
        (rows.frame["arm"] == CROSSED[0].name)
        & (rows.frame["subject"] == "dog-1")
        & (rows.frame["phase"] == "confirm")
    )
    frame = rows.frame.assign(quality=rows.frame["quality"].mask(first))
    less = analyse(replace(rows, frame=frame), QUICK).factor_effects[0].comparisons["quality"].difference
    assert (whole.n_subjects, less.n_subjects) == (6, 5)


def test_of_nothing_arms_and_factors_together_are_found_as_seldom_as_stated() -> None:
    """Eight arms on eight subjects and two seeds that differ by chance alone, subject by arm and run by run.

    With the whole level for each of the two families it was 8 %.
    """
    rng, arms, subjects = np.random.default_rng(3), tuple("abcdefgh"), tuple("12345678")
    factors = [  # arms of the first level, paired with those of the second
        Crossed("trains", "one", "two", (("a", "e"), ("b", "f"), ("c", "g"), ("d", "h"))),
        Crossed("prior", "yes", "no", (("a", "c"), ("b", "d"), ("e", "g"), ("f", "h"))),
        Crossed("schedule", "one", "two", (("a", "b"), ("c", "d"), ("e", "f"), ("g", "h"))),
    ]
    together = apart = 0
    settings = replace(QUICK, resamples=2)
    for _ in range(600):
        array = (
            rng.normal(0, 0.2, (1, 8, 1)) + rng.normal(0, 0.15, (8, 8, 1)) + rng.normal(0, 0.05, (8, 8, 2))
        )
        values = Values("quality", arms, subjects, array)
        pairs = [values.contrast(*pair) for pair in combinations(arms, 2)]
        effects = [effect_of(values, factor) for factor in factors]
        found = compare_families([pairs, effects], None, settings)
        together += any(comparison.established for family in found for comparison in family)
        apart += any(
            comparison.established
            for family in (compare(pairs, None, settings), compare(effects, None, settings))
            for comparison in family
        )
    assert together / 600 < 0.05 + 2.6 * (0.05 * 0.95 / 600) ** 0.5  # 99.5 %, one-sided
    assert apart > 1.3 * together


def test_plans_ask_what_reports_ask() -> None:
    """The factors that a study file crosses, and those that its report finds in the rows."""
    rows = prepare(read_csv(ROOT / "reports" / "lora-vs-dreambooth" / "data"))
    found = crossed_arms(rows)
    assert [one.factor for one in found] == ["trains", "prior", "schedule"]
    planned = crossed_in(load_study("lora-vs-dreambooth"))
    assert [(one.factor, set(one.arms)) for one in planned] == [(one.factor, set(one.arms)) for one in found]
    assert planned[1].first == "yes"
    of_two = prepare(read_csv(ROOT / "reports" / "quickstart" / "data"))
    assert [one.factor for one in crossed_in(load_study("quickstart"))] == [
        one.factor for one in crossed_arms(of_two)
    ]


def test_what_a_search_drew_changes_no_question() -> None:
    """Schedules that were searched, and came out as they did, make the arms neither a factor nor unlike."""
    four = CROSSED[::2]
    rows = crossed(four)
    for arm in four:
        del rows.meta["spec"]["arms"][arm.name]["lr_scheduler"]
    asked = ["trains", "prior"]
    chance = np.random.default_rng(5)
    for _ in range(4):
        drawn = {arm.name: str(chance.choice(["cosine", "constant"])) for arm in four}
        frame = rows.frame.assign(lr_scheduler=rows.frame["arm"].map(drawn))
        frame = frame.assign(**{"param.lr_scheduler": frame["lr_scheduler"]})
        assert [one.factor for one in crossed_arms(replace(rows, frame=frame))] == asked
    stated = {
        arm.name: {"method": arm.method, "with_prior_preservation": "-prior-" in arm.name} for arm in four
    }
    spec = StudySpec.model_validate(
        {
            "name": "s",
            "subjects": ["cat-1", "dog-1"],
            "arms": stated,
            "training": {"train_text_encoder": True},
        }
    )
    assert [one.factor for one in crossed_in(spec)] == asked


def test_kinds_of_adapters_are_levels_of_what_is_trained() -> None:
    arms = {
        f"{kind}-{prior}": {"method": "lora", "adapter": kind, "with_prior_preservation": prior}
        for kind in ("lora", "dora")
        for prior in (True, False)
    }
    spec = StudySpec.model_validate({"name": "s", "subjects": ["cat-1", "dog-1"], "arms": arms})
    trains = crossed_in(spec)[0]
    assert (trains.factor, trains.first, trains.second) == (
        "trains",
        "an adapter (DoRA)",
        "an adapter (LoRA)",
    )


def test_what_saves_memory_sets_no_arms_apart() -> None:
    checkpointed = {arm.name: {"gradient_checkpointing": arm.method == "dreambooth"} for arm in CROSSED}
    assert len(crossed_arms(crossed(**checkpointed))) == 3
    assert [one.factor for one in crossed_in(load_study("stable-diffusion"))] == [
        "trains",
        "prior",
        "schedule",
    ]


def test_an_arm_without_results_changes_no_question_and_is_named() -> None:
    rows = crossed()
    lost = (rows.frame["arm"] == CROSSED[3].name) & (rows.frame["phase"] == "confirm")
    less = replace(rows, frame=rows.frame.assign(quality=rows.frame["quality"].mask(lost)))
    analysis = analyse(less, QUICK)
    assert [effect.factor for effect in analysis.factor_effects] == [
        effect.factor for effect in analyse(rows, QUICK).factor_effects
    ]
    assert all(effect.comparisons["quality"].difference.value is None for effect in analysis.factor_effects)
    assert all("not known, since some arm has no run" in line for line in factor_words(analysis))
    assert "not known" not in judge(less, analysis).headline
    headline = judge(less, analysis).headline
    assert headline.endswith(f" Not compared, for want of runs with a known quality: {CROSSED[3].name}.")
    assert "Not compared" not in judge(rows, analyse(rows, QUICK)).headline
    assert to_markdown(factor_effects_table(analysis)).count("not enough") == 3


def test_arms_with_another_search_space_differ_in_more_than_a_factor() -> None:
    wide = {"type": "float", "low": 1e-5, "high": 1e-2, "log": True}
    other = {CROSSED[0].name: {"search_space": {"learning_rate": wide}}}
    assert analyse(crossed(**other), QUICK).factor_effects == ()
    alike = {arm.name: {"search_space": {"learning_rate": wide}} for arm in CROSSED}
    assert len(analyse(crossed(**alike), QUICK).factor_effects) == 3
    weights = {
        arm.name: {"search_space": {"prior_loss_weight": wide}} for arm in CROSSED if "-prior-" in arm.name
    }
    assert len(analyse(crossed(**weights), QUICK).factor_effects) == 3  # without a prior there is no weight
    fixed = {CROSSED[0].name: {"search_space": "fixed"}}
    assert analyse(crossed(**fixed), QUICK).factor_effects == ()


def test_the_table_and_the_sentences_say_the_same() -> None:
    analysis = analyse(crossed(), QUICK)
    table = to_markdown(factor_effects_table(analysis))
    words = factor_words(analysis)
    assert len(words) == 3
    assert words[1].startswith(
        "Prior preservation, yes minus no, over 4 pairs of arms that the study file sets apart in nothing else: +"
    )
    assert " on 6 subjects (better)" in words[1]
    assert "each arm tuned by its own search" in words[1]
    assert "| Prior preservation | yes minus no | 4 |" in table
    assert not pd.isna(analysis.factor_effects[1].comparisons["quality"].p_holm)
    headline = judge(crossed(), analysis).headline
    assert "Over all arms: " in headline
    assert "prior preservation: yes is better than no (+0." in headline


def test_the_headline_says_where_a_factor_hangs_on_the_class() -> None:
    """Prior preservation may gain by the class that it keeps alone: then subject and prompt say something else."""
    rows = crossed()
    rng = np.random.default_rng(0)
    noise = rng.normal(0.4, 0.2, len(rows.frame))
    blind = replace(rows, frame=rows.frame.assign(quality_subject_prompt=noise))
    analysis = analyse(blind, QUICK)
    effect = analysis.factor_effects[1]
    assert effect.comparisons["quality"].outcome == "better"
    assert effect.comparisons["quality_subject_prompt"].outcome == "not enough"
    assert "; not decided by subject and prompt alone)" in judge(blind, analysis).headline
    assert "by subject and prompt alone (not decided)" in factor_words(analysis)[1]
    same = replace(rows, frame=rows.frame.assign(quality_subject_prompt=rows.frame["quality"]))
    assert (
        "by subject and prompt alone"
        not in judge(same, analyse(same, QUICK)).headline.partition("Over all")[2]
    )


def test_a_reader_is_told_of_small_searches() -> None:
    rows = crossed()
    told = warnings_of(rows, analyse(rows, QUICK))
    (small,) = [line for line in told if line.startswith("Searches were small: 2 trials each")]
    assert "The default was chosen in " in small
    assert f"{CROSSED[0].name} " in small


def test_a_reader_is_told_which_arms_were_tuned_to_the_end_of_the_budget() -> None:
    """With a larger budget they may gain more than those that chose less of it."""
    rows = crossed()
    for name, value in (("train_flops", 1e12), ("tuned_from", 0.15)):
        rows.meta["spec"].setdefault("budget", {})[name] = value

    def told(whole: np.ndarray[Any, Any], column: str = "param.budget_share") -> list[str]:
        frame = rows.frame.assign(**{column: np.where(whole, 1.0, 0.4)})
        changed = replace(rows, frame=frame)
        return [w for w in warnings_of(changed, analyse(changed, QUICK)) if "larger budget" in w]

    prior = rows.frame["arm"].str.contains("-prior-").to_numpy()
    (said,) = told(prior)
    for arm in CROSSED:
        assert (f"{arm.name} in 1 of 1" in said) == ("-prior-" in arm.name)
    assert told(np.zeros(len(prior), bool)) == told(np.ones(len(prior), bool)) == []  # none, or all alike
    rows.meta["spec"]["budget"] |= {"train_flops": None, "max_train_steps": 1}
    assert told(prior, "max_train_steps") == [said]
    rows.meta["spec"]["budget"]["tuned_from"] = None  # every run takes all of it
    assert told(prior, "max_train_steps") == []


def test_what_a_factor_costs_stands_beside_what_it_does() -> None:
    rows = crossed()
    analysis = analyse(rows, QUICK)
    effect = analysis.factor_effects[0]
    cost = effect.comparisons[analysis.cost]
    means = rows.confirm.groupby(["arm", "subject"])[analysis.cost].mean().unstack()
    expected = (
        means[means.index.str.startswith("dreambooth")].mean()
        - means[means.index.str.startswith("lora")].mean()
    )
    assert cost.difference.value == pytest.approx(expected.mean())
    table = to_markdown(factor_effects_table(analysis))
    assert "Δ training time" in table
    assert "simultaneous" in table


def test_what_else_two_levels_differ_in_is_said() -> None:
    rows = crossed()
    prior = rows.frame["arm"].str.contains("-prior-")
    rates = np.where(prior, 1e-4, 1e-5)
    other = replace(rows, frame=rows.frame.assign(learning_rate=rates))
    effects = {effect.factor: effect for effect in analyse(other, QUICK).factor_effects}
    assert "learning rate" in effects["Prior preservation"].differs
    assert "with prior preservation" not in effects["Prior preservation"].differs
    assert "learning rate" not in effects["Schedule"].differs
