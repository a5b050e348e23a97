"""What the report computes from rows: comparison, pairs of schedules, budgets, exclusions, tuning, verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from study.report.analysis import Analysis, Settings, analyse, paired, schedule_pairs, smallest_p
from study.report.rows import Rows, prepare
from study.report.tuning import (
    MIN_TRIALS,
    explained_share,
    histories,
    importance_of,
    objective,
    parameter_importance,
    quantile_bins,
)
from study.report.verdict import judge
from study.results import Results
from tests.report.synthetic import ARMS, Arm, Study, make_results

QUICK = Settings(resamples=300)


def analysed(study: Study = Study(), seed: int = 0) -> tuple[Rows, Analysis]:  # noqa: B008
    rows = prepare(make_results(study, seed))
    return rows, analyse(rows, QUICK)


def edited(results: Results, **columns: object) -> Results:
    return replace(results, frame=results.frame.assign(**columns))


@pytest.fixture(scope="module")
def small() -> tuple[Rows, Analysis]:
    return analysed()


@pytest.fixture(scope="module")
def large() -> tuple[Rows, Analysis]:
    subjects = ("dog-1", "bird-1", "fox-1", "owl-1", "cat-9")
    return analysed(Study(trials=24, subjects=subjects, seeds=(100, 101, 102)))


# ------------------------------------------------------------------ rows


def test_order_of_rows_does_not_matter(small: tuple[Rows, Analysis]) -> None:
    results = make_results()
    shuffled = replace(
        results,
        frame=results.frame.sample(frac=1, random_state=1),
        curves=results.curves.sample(frac=1, random_state=1),
    )
    rows = prepare(shuffled)
    pd.testing.assert_frame_equal(rows.frame, small[0].frame)
    pd.testing.assert_frame_equal(rows.curves, small[0].curves)
    assert analyse(rows, QUICK) == small[1]


def test_the_input_is_not_changed() -> None:
    results = make_results()
    before = results.frame.copy(), results.curves.copy()
    analyse(prepare(results), QUICK)
    pd.testing.assert_frame_equal(results.frame, before[0])
    pd.testing.assert_frame_equal(results.curves, before[1])


def test_arms_come_in_the_order_of_the_study_file(small: tuple[Rows, Analysis]) -> None:
    assert small[0].arms == tuple(arm.name for arm in ARMS)
    without = prepare(replace(make_results(), meta={}))
    assert without.arms[0] == "base"
    assert sorted(without.arms[1:]) == list(without.arms[1:])


# ------------------------------------------------------------------ comparison


def test_only_complete_confirm_runs_are_compared() -> None:
    results = make_results()
    searching = results.frame["phase"] == "search"
    inflated = results.frame["quality"].where(~searching, 99.0)
    assert analyse(prepare(edited(results, quality=inflated)), QUICK) == analyse(prepare(results), QUICK)


def test_means_and_counts(small: tuple[Rows, Analysis]) -> None:
    rows, analysis = small
    for result in analysis.arms:
        own = rows.confirm[rows.confirm["arm"] == result.arm]
        assert result.estimates["quality"].value == pytest.approx(
            own.groupby("subject")["quality"].mean().mean()
        )
        assert (result.n, result.n_text, result.subjects) == (4, "4 (2 × 2)", ("bird-1", "dog-1"))
    means = rows.confirm.groupby("arm")["quality"].mean()
    assert analysis.best == means.idxmax()


def test_adding_an_arm_changes_no_other_arm(small: tuple[Rows, Analysis]) -> None:
    results = make_results()
    fewer = results.frame[results.frame["arm"] != "lora-constant"]
    analysis = analyse(prepare(replace(results, frame=fewer, meta={})), QUICK)
    for result in analysis.arms:
        assert result == small[1].arm(result.arm)


def test_differences_are_paired_by_subject_and_seed(small: tuple[Rows, Analysis]) -> None:
    rows, _ = small
    values, subjects = paired(rows.confirm, "lora-cosine", "lora-constant", "quality")
    wide = rows.confirm.pivot(index=["subject", "seed"], columns="arm", values="quality")
    assert values.tolist() == pytest.approx((wide["lora-cosine"] - wide["lora-constant"]).tolist())
    assert subjects == ["bird-1", "bird-1", "dog-1", "dog-1"]
    fewer = rows.confirm[~((rows.confirm["arm"] == "lora-cosine") & (rows.confirm["seed"] == 100))]
    assert len(paired(fewer, "lora-cosine", "lora-constant", "quality")[0]) == 2


def test_four_pairs_establish_nothing(small: tuple[Rows, Analysis]) -> None:
    _, analysis = small
    assert smallest_p(analysis.against_best) == 0.125
    assert not any(c.established for c in (*analysis.against_best, *analysis.pairs, *analysis.against_base))
    assert len(analysis.pairs) == 10
    assert len(analysis.against_base) == 5


def test_large_differences_are_established_in_a_large_study(large: tuple[Rows, Analysis]) -> None:
    _, analysis = large
    assert analysis.best == "dreambooth-cosine"
    assert all(c.established for c in analysis.against_base)
    worst = next(c for c in analysis.against_best if c.second == "dreambooth_lora")
    assert worst.established
    assert worst.difference.n == 15
    assert (worst.improvement or 0) > 0.8


def test_costs_are_better_when_lower(large: tuple[Rows, Analysis]) -> None:
    rows, _ = large
    from study.report.analysis import compare_family

    pair = [("lora-cosine", "dreambooth-cosine")]
    (comparison,) = compare_family(rows.confirm, pair, "train_seconds", QUICK)
    assert comparison.improvement == 1.0
    assert (comparison.difference.value or 0) < 0


def test_schedules_are_compared_per_method(small: tuple[Rows, Analysis]) -> None:
    rows, analysis = small
    assert schedule_pairs(rows) == [
        ("lora", "lora-cosine", "lora-constant"),
        ("dreambooth", "dreambooth-cosine", "dreambooth-constant"),
    ]
    effect = analysis.schedules[0]
    assert effect.comparisons["quality"].difference.n == 4
    assert set(effect.comparisons) == {"quality", "subject_fidelity", "prompt_fidelity", "train_seconds"}


def test_schedules_are_paired_by_name_where_a_method_has_many_arms() -> None:
    arms = tuple(
        Arm(f"{rank}_{schedule}_lora", "lora", schedule)
        for rank in ("r4", "r16")
        for schedule in ("cosine", "constant")
    )
    rows, _ = analysed(Study(arms=arms, trials=1))
    assert schedule_pairs(rows) == [
        ("lora", "r4_cosine_lora", "r4_constant_lora"),
        ("lora", "r16_cosine_lora", "r16_constant_lora"),
    ]


def test_arms_named_otherwise_are_paired_if_there_is_one_of_each() -> None:
    rows, _ = analysed(Study(arms=(Arm("a", "lora", "cosine"), Arm("b", "lora", "constant")), trials=1))
    assert schedule_pairs(rows) == [("lora", "a", "b")]
    rows, _ = analysed(
        Study(arms=(Arm("a", "lora", "cosine"), Arm("b", "lora", "constant"), Arm("c", "lora")), trials=1)
    )
    assert schedule_pairs(rows) == []


def test_an_arm_that_searched_its_schedule_is_in_no_pair() -> None:
    results = make_results()
    frame = results.frame
    mixed = frame["lr_scheduler"].where(~((frame["arm"] == "lora-cosine") & (frame["trial"] == 0)), "linear")
    rows = prepare(edited(results, lr_scheduler=mixed))
    assert [pair[0] for pair in schedule_pairs(rows)] == ["dreambooth"]


# ------------------------------------------------------------------ accounts


def test_budget_counts_failed_and_stopped_trials(small: tuple[Rows, Analysis]) -> None:
    rows, analysis = small
    budgets = {budget.arm: budget for budget in analysis.budgets}
    assert (budgets["base"].trials, budgets["base"].confirm_runs) == (0, 4)
    constant = budgets["dreambooth-constant"]
    assert (constant.trials, constant.complete, constant.failed, constant.pruned) == (4, 3, 1, 0)
    assert (budgets["lora-cosine"].pruned, budgets["lora-cosine"].complete) == (1, 3)
    own = rows.search[rows.search["arm"] == "dreambooth-constant"]
    assert constant.search_device_seconds == pytest.approx(own["device_seconds"].sum())


def test_every_run_without_a_result_is_listed_with_its_reason() -> None:
    failing = ("search/dreambooth-constant/0002-cat-1-s0", "confirm/lora-cosine/0001-dog-1-s101")
    results = make_results(Study(failing=failing))
    running = results.frame["state"].where(
        results.frame["run_key"] != "confirm/dreambooth_lora/0001-dog-1-s100", "RUNNING"
    )
    rows = prepare(edited(results, state=running))
    listed = {e.run_key: e for e in analyse(rows, QUICK).exclusions}
    assert listed[failing[0]].reason == "nan_loss"
    assert listed[failing[1]].phase == "confirm"
    assert listed["confirm/dreambooth_lora/0001-dog-1-s100"].state == "RUNNING"
    assert "stopped early" in listed["search/lora-cosine/0003-cat-1-s0"].reason
    assert len(listed) == 4


def test_a_missing_quality_is_listed_and_not_averaged() -> None:
    results = make_results()
    key = "confirm/lora-cosine/0001-dog-1-s101"
    holes = results.frame["quality"].where(results.frame["run_key"] != key)
    analysis = analyse(prepare(edited(results, quality=holes)), QUICK)
    assert key in {e.run_key for e in analysis.exclusions}
    assert analysis.arm("lora-cosine").estimates["quality"].n == 3
    assert analysis.arm("lora-cosine").estimates["train_seconds"].n == 4


def test_chosen_configuration_is_that_of_the_confirm_runs(small: tuple[Rows, Analysis]) -> None:
    chosen = small[1].chosen
    assert "base" not in chosen
    assert chosen["lora-cosine"]["r"] == 8
    assert chosen["lora-cosine"]["learning_rate"] == 1e-3
    assert chosen["dreambooth-constant"]["trial"] == 1


# ------------------------------------------------------------------ tuning


def test_history_is_best_so_far(large: tuple[Rows, Analysis]) -> None:
    rows, _ = large
    found = {history.arm: history for history in histories(rows)}
    assert "base" not in found
    history = found["lora-constant"]
    assert len(history.trials) == 24
    assert list(history.best) == np.maximum.accumulate(np.array(history.scores, dtype=float)).tolist()
    assert found["dreambooth-constant"].scores[2] is None
    assert found["dreambooth-constant"].states[2] == "FAIL"


def test_history_goes_down_for_an_objective_to_minimise() -> None:
    results = make_results(Study(trials=6, meta={"objective": "drift"}))
    rows = prepare(results)
    assert objective(rows) == "drift"
    best = [b for b in histories(rows)[0].best if b is not None]
    assert best == sorted(best, reverse=True)


def test_objective_of_the_study_file() -> None:
    base = make_results()
    spec = {"spec": {"search": {"objectives": ["subject_fidelity", "prompt_fidelity"], "objective": None}}}
    assert objective(prepare(replace(base, meta=spec))) == "subject_fidelity"
    assert (
        objective(prepare(replace(base, meta={"spec": {"search": {"objective": "nonsense"}}}))) == "quality"
    )


def test_importance_finds_the_parameter_that_matters(large: tuple[Rows, Analysis]) -> None:
    found = importance_of(large[0], "dreambooth-constant", 0)
    assert found.parameters[0].name == "learning_rate"
    assert found.parameters[0].p < 0.01
    assert found.parameters[0].share > 0.4
    assert all(p.name != "with_prior_preservation" for p in found.parameters)  # the same in all its trials


def test_importance_is_skipped_with_the_reason(small: tuple[Rows, Analysis]) -> None:
    found = importance_of(small[0], "lora-constant", 0)
    assert found.parameters == ()
    assert found.skipped is not None
    assert str(MIN_TRIALS) in found.skipped
    rows, _ = analysed(Study(trials=1))
    assert "no hyperparameter varied" in (importance_of(rows, "lora-constant", 0).skipped or "")


def test_importance_warns_of_few_trials() -> None:
    rows, _ = analysed(Study(trials=12))
    assert "12" in (importance_of(rows, "lora-constant", 0).warning or "")


def test_noise_has_no_importance() -> None:
    chance = np.random.default_rng(0)
    ps, shares = [], []
    for k in range(25):
        found = parameter_importance("x", list(chance.uniform(0, 1, 20)), chance.normal(0, 1, 20), seed=k)
        ps.append(found.p)
        shares.append(found.share)
    assert np.mean(np.array(ps) < 0.05) <= 0.15
    assert np.mean(shares) < 0.12


def test_importance_of_categories_and_of_curved_effects() -> None:
    chance = np.random.default_rng(1)
    kinds = ["a", "b", "c"] * 8
    scores = np.array([{"a": 0.0, "b": 1.0, "c": 0.5}[kind] for kind in kinds]) + chance.normal(0, 0.1, 24)
    found = parameter_importance("kind", kinds, scores, seed=0)
    assert found.share > 0.7
    assert found.correlation is None
    x = np.linspace(-1, 1, 24)
    curved = parameter_importance("x", x.tolist(), -(x**2) + chance.normal(0, 0.05, 24), seed=0)
    assert curved.share > 0.6  # a rank correlation would see nothing
    assert abs(curved.correlation or 0) < 0.35


def test_explained_share_is_the_correlation_ratio() -> None:
    chance = np.random.default_rng(2)
    groups, scores = chance.integers(0, 4, 30), chance.normal(0, 1, 30)
    samples = [scores[groups == g] for g in np.unique(groups)]
    f = stats.f_oneway(*samples).statistic
    k, n = len(samples), 30
    assert explained_share(groups, scores) == pytest.approx(f * (k - 1) / (f * (k - 1) + n - k))
    assert explained_share(groups, np.ones(30)) == 0.0


def test_quantile_bins_hold_about_as_many() -> None:
    values = np.random.default_rng(3).lognormal(0, 2, 30)
    assert np.bincount(quantile_bins(values)).tolist() == [6] * 5
    assert quantile_bins(np.array([1.0, 1.0, 4.0, 4.0, 8.0, 8.0, 8.0, 1.0, 4.0])).max() == 2


# ------------------------------------------------------------------ verdict


def test_verdict_of_a_small_study_is_modest(small: tuple[Rows, Analysis]) -> None:
    verdict = judge(*small)
    assert "does not establish" in verdict.headline
    assert "n = 4 runs on 2 subjects" in verdict.headline
    beware = " ".join(verdict.warnings)
    assert "Wide intervals: n = 4 runs on 2 subjects" in beware
    assert "smallest possible p is 0.125" in beware
    assert "resident set" in beware


def test_verdict_of_a_large_study_names_leads_and_ties(large: tuple[Rows, Analysis]) -> None:
    verdict = judge(*large)
    text = " ".join((verdict.headline, *verdict.points))
    assert verdict.headline.startswith("dreambooth-cosine")
    assert "n = 15 runs on 5 subjects" in verdict.headline
    assert "dreambooth_lora" in text
    assert "ahead of the untrained base model" in text
    assert "Cost of dreambooth-cosine per run" in text
    assert not any("Wide intervals" in warning for warning in verdict.warnings)


def test_verdict_names_a_clear_winner() -> None:
    arms = (
        Arm("best", "lora", gain=0.9),
        Arm("worst", "dreambooth", gain=0.2),
        Arm("base", "base", gain=0.0),
    )
    study = Study(arms=arms, trials=1, subjects=("a", "b", "c", "d", "e", "f"), seeds=(1, 2))
    verdict = judge(*analysed(study))
    assert verdict.headline.startswith("best is best")
    assert "beyond chance" in verdict.headline


def test_verdict_without_confirm_runs_claims_nothing() -> None:
    rows, analysis = analysed(Study(confirm=False))
    verdict = judge(rows, analysis)
    assert verdict.headline.startswith("No verdict yet")
    best = max(score for history in histories(rows) for score in history.scores if score is not None)
    assert f"{best:.2f}" not in " ".join((verdict.headline, *verdict.points, *verdict.warnings))


def test_verdict_where_all_failed() -> None:
    results = make_results()
    frame = results.frame.assign(state="FAIL", quality=np.nan)
    rows = prepare(replace(results, frame=frame))
    verdict = judge(rows, analyse(rows, QUICK))
    assert verdict.headline.startswith("No verdict: of 24 confirm runs none can be compared (24 failed)")


def test_verdict_of_one_run_one_subject_one_arm_and_base_only() -> None:
    one_run = judge(*analysed(Study(subjects=("a",), seeds=(1,))))
    assert any("A single run" in warning for warning in one_run.warnings)
    one_subject = judge(*analysed(Study(subjects=("a",), seeds=(1, 2, 3))))
    assert any("One subject only" in warning for warning in one_subject.warnings)
    one_arm = judge(*analysed(Study(arms=ARMS[1:2])))
    assert "the only trained arm" in one_arm.headline
    base_only = judge(*analysed(Study(arms=ARMS[:1])))
    assert "Only the untrained base model" in base_only.headline


def test_verdict_warns_of_unequal_budgets() -> None:
    results = make_results()
    frame = results.frame
    fewer = frame[~((frame["arm"] == "lora-cosine") & (frame["phase"] == "search") & (frame["trial"] > 1))]
    rows = prepare(replace(results, frame=fewer))
    beware = " ".join(judge(rows, analyse(rows, QUICK)).warnings)
    assert "Search budgets differ" in beware
    assert "lora-cosine had 2 trials" in beware


def test_verdict_falls_back_on_subject_fidelity_where_no_run_has_a_quality() -> None:
    results = make_results()
    rows = prepare(edited(results, quality=np.nan))
    analysis = analyse(rows, QUICK)
    assert analysis.primary == "subject_fidelity"
    assert "subject fidelity" in judge(rows, analysis).headline
