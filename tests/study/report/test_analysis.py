"""What the report computes from rows: comparison, verdicts of pairs, stability, schedules, accounts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from study.report.analysis import Analysis, analyse, margin_of, paired, schedule_pairs
from study.report.comparisons import MARGIN, Comparison, compare
from study.report.pairing import values_of
from study.report.prepared import Rows, prepare
from study.report.ranking import ranks_of
from study.report.verdict import judge
from study.statistics.power import subjects_to_decide, typical_deviation
from tests.helpers.made_reports import QUICK, analysed, edited
from tests.helpers.synthetic_results import ARMS, Arm, Study, make_results

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
        runs = (2, "2 (2 × 2)") if result.is_base else (4, "4 (2 × 2)")  # seeds of the base are averaged
        assert (result.n, result.n_text) == runs
        assert result.subjects == ("bird-1", "dog-1")
        assert result.estimates["quality"].n == runs[0]
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
    values = paired(rows.confirm, "lora-cosine", "lora-constant", "quality")
    wide = rows.confirm.pivot(index=["subject", "seed"], columns="arm", values="quality")
    assert list(values) == pytest.approx((wide["lora-cosine"] - wide["lora-constant"]).tolist())
    fewer = rows.confirm[~((rows.confirm["arm"] == "lora-cosine") & (rows.confirm["seed"] == 100))]
    assert len(paired(fewer, "lora-cosine", "lora-constant", "quality")) == 2


def test_differences_are_averaged_within_each_subject(large: tuple[Rows, Analysis]) -> None:
    rows, analysis = large
    wide = rows.confirm.pivot(index=["subject", "seed"], columns="arm", values="quality")
    for c in analysis.pairs:
        means = (wide[c.first] - wide[c.second]).groupby("subject").mean()
        expected = stats.ttest_1samp(means, 0)
        interval = expected.confidence_interval(0.95)
        assert (c.difference.low, c.difference.high) == pytest.approx((interval.low, interval.high))
        assert c.p == pytest.approx(expected.pvalue)
        assert (c.difference.n, c.difference.n_subjects) == (15, 5)
        assert c.effect.value == pytest.approx(means.mean() / means.std(ddof=1))
        assert c.check.low is not None


def test_two_subjects_decide_nothing_and_say_what_would(small: tuple[Rows, Analysis]) -> None:
    _, analysis = small
    assert len(analysis.pairs) == 10
    assert len(analysis.against_base) == 10  # two fidelities of five arms
    for c in (*analysis.pairs, *analysis.against_base, *analysis.against_best):
        assert (c.difference.low, c.simultaneous.low, c.check.low, c.p, c.p_holm) == (None,) * 5
        assert c.outcome == "not enough"
        assert c.subjects_needed is not None
        assert c.subjects_needed >= 3
    assert [s.best for s in analysis.standings] == [None] * 5
    for result in analysis.arms:
        for estimate in result.estimates.values():
            assert (estimate.low, estimate.high) == (None, None)


def test_one_subject_is_judged_by_the_spread_that_is_usual() -> None:
    _, analysis = analysed(Study(subjects=("a",)))
    (close, *_) = sorted(analysis.against_best, key=lambda c: abs(c.difference.value or 0.0))
    assert close.subjects_needed is not None
    assert close.subjects_needed > 20
    verdict = judge(*analysed(Study(subjects=("a",))))
    assert "subjects (if they vary as usual)" in verdict.headline
    beware = " ".join(verdict.warnings)
    usual = f"{typical_deviation(2):.2f}"
    assert f"the usual spread (standard deviation {usual}), since one subject shows none" in beware


def test_the_best_is_compared_within_the_family_of_all_pairs(large: tuple[Rows, Analysis]) -> None:
    """A family of its own, chosen after the results, would adjust for too little."""
    _, analysis = large
    assert len(analysis.against_best) == 4
    for c in analysis.against_best:
        (pair,) = [p for p in analysis.pairs if {p.first, p.second} == {c.first, c.second}]
        assert (c.first, c.p_holm) == (analysis.best, pair.p_holm)
        assert c == (pair if pair.first == c.first else pair.reversed())
        assert c.reversed().difference == (pair if pair.first != c.first else pair.reversed()).difference
    assert sorted(c.p_holm or 0 for c in analysis.pairs) == pytest.approx(
        sorted(stats_holm([c.p or 0 for c in analysis.pairs]))
    )


def stats_holm(ps: list[float]) -> list[float]:
    """Holm's adjustment, by its definition."""
    order = sorted(range(len(ps)), key=lambda k: ps[k])
    return [
        min(1.0, max(ps[order[j]] * (len(ps) - j) for j in range(order.index(k) + 1))) for k in range(len(ps))
    ]


def test_against_the_base_fidelities_are_not_clipped(large: tuple[Rows, Analysis]) -> None:
    rows, analysis = large
    measures = ["subject_fidelity_scaled"] * 5 + ["prompt_fidelity_scaled"] * 5
    assert [c.measure for c in analysis.against_base] == measures
    first = analysis.against_base[0]
    own = rows.confirm[rows.confirm["arm"] == first.first]
    assert first.difference.value == pytest.approx(
        own.groupby("subject")["subject_fidelity_scaled"].mean().mean()
    )
    assert {c.outcome for c in analysis.against_base[:5]} == {"better"}
    assert {c.outcome for c in analysis.against_base[5:]} == {"worse"}


def test_the_base_needs_no_seeds_of_its_own() -> None:
    results = make_results(Study(trials=1, subjects=("a", "b", "c"), seeds=(1, 2)))
    once = results.frame[~((results.frame["arm"] == "base") & (results.frame["seed"] == 2))]
    twice, single = (analyse(prepare(replace(results, frame=f)), QUICK) for f in (results.frame, once))
    assert single.against_base == twice.against_base
    assert single.against_base[0].difference.n == 6
    assert (single.arm("base").n_text, twice.arm("base").n_text) == ("3 (3 × 1)", "3 (3 × 2)")
    for analysis in (single, twice):
        assert analysis.arm("base").estimates["drift"].n == 3


def test_raw_fidelities_stand_in_where_none_is_rescaled() -> None:
    results = make_results(Study(trials=1, subjects=("a", "b", "c")))
    bare = edited(results, subject_fidelity_scaled=np.nan, prompt_fidelity_scaled=np.nan)
    found = analyse(prepare(bare), QUICK).against_base
    assert {c.measure for c in found} == {"subject_fidelity", "prompt_fidelity"}
    assert all(c.p_equivalent is None for c in found)  # the margin is on the scale of quality


# ------------------------------------------------------------------ verdicts of pairs


def two_arms(differences: list[float], margin: float | None = MARGIN) -> Comparison:
    frame = pd.DataFrame(
        [
            {"arm": arm, "subject": f"s{k}", "seed": 1, "quality": 0.5 + (value if arm == "a" else 0.0)}
            for k, value in enumerate(differences)
            for arm in ("a", "b")
        ]
    )
    contrast = values_of(frame, "quality").contrast("a", "b")
    (found,) = compare([contrast], margin, QUICK)
    return found


@pytest.mark.parametrize(
    ("differences", "outcome"),
    [
        ([0.30, 0.25, 0.35, 0.28], "better"),
        ([-0.30, -0.25, -0.35, -0.28], "worse"),
        ([0.01, -0.01, 0.02, -0.02, 0.0], "equivalent"),
        ([0.020, 0.021, 0.019, 0.020], "equivalent"),
        ([0.30, -0.10, 0.25, 0.05], "not enough"),
        ([0.30, 0.31], "not enough"),
    ],
)
def test_four_verdicts(differences: list[float], outcome: str) -> None:
    found = two_arms(differences)
    assert found.outcome == outcome
    assert found.established == (outcome in ("better", "worse"))
    assert (found.subjects_needed is None) == (outcome != "not enough")


def test_what_would_decide_a_pair_follows_from_its_spread() -> None:
    values = [0.30, -0.10, 0.25, 0.05]
    expected = subjects_to_decide(float(np.mean(values)), float(np.std(values, ddof=1)), MARGIN)
    assert two_arms(values).subjects_needed == expected
    assert expected is not None
    assert expected > 4
    assert two_arms([0.5, -0.5, 0.5, -0.5], margin=None).subjects_needed is None


@pytest.mark.parametrize("subjects", [2, 3, 4])
def test_a_small_spread_of_few_subjects_promises_no_verdict_from_a_handful(subjects: int) -> None:
    """Of two subjects, three pairs of arms have but two independent spreads of one degree of freedom each."""
    shifts = {"a": 0.06, "b": 0.03, "c": 0.0}
    frame = pd.DataFrame(
        [
            {"arm": arm, "subject": f"s{k}", "seed": 1, "quality": 0.5 + (-1) ** k * 0.4 * shift + shift}
            for k in range(subjects)
            for arm, shift in shifts.items()
        ]
    )
    values = values_of(frame, "quality")
    found = compare([values.contrast(*pair) for pair in (("a", "b"), ("a", "c"), ("b", "c"))], MARGIN, QUICK)
    lead = next(c for c in found if (c.first, c.second) == ("a", "c"))
    usual = subjects_to_decide(lead.difference.value or 0.0, typical_deviation(1), MARGIN, 0.05 / 3)
    assert (lead.outcome, lead.subjects_needed) == ("not enough", usual)
    assert lead.needed is not None
    assert lead.needed.at_least
    wide = [1.2 - 0.6 * k for k in range(subjects)]  # more than is usual
    own = float(np.std(wide, ddof=1))
    assert two_arms(wide).subjects_needed == subjects_to_decide(float(np.mean(wide)), own, MARGIN)


def test_costs_have_no_usual_spread() -> None:
    frame = pd.DataFrame(
        {
            "arm": ["a", "a", "b", "b"],
            "subject": ["s", "t"] * 2,
            "seed": 1,
            "train_seconds": [9.0, 9.2, 8.0, 7.9],
        }
    )
    (found,) = compare([values_of(frame, "train_seconds").contrast("a", "b")], None, QUICK)
    assert found.subjects_needed == subjects_to_decide(1.15, float(np.std([1.0, 1.3], ddof=1)), None)


def test_lower_costs_are_better() -> None:
    rows, _ = analysed(Study(trials=1, subjects=("a", "b", "c")))
    contrast = values_of(rows.confirm, "train_seconds").contrast("lora-cosine", "dreambooth-cosine")
    (found,) = compare([contrast], None, QUICK)
    assert found.outcome == "better"
    assert (found.difference.value or 0) < 0
    assert found.improvement.value == 1.0
    assert found.improvement.low == pytest.approx(0.292, abs=1e-3)
    turned = found.reversed()
    assert (turned.outcome, turned.improvement.value, turned.improvement.low) == ("worse", 0.0, 0.0)


def test_arms_without_common_subjects_are_not_compared() -> None:
    results = make_results(Study(trials=1, subjects=("a", "b", "c", "d", "e", "f")))
    frame = results.frame
    mine = (frame["arm"] == "lora-cosine") & frame["subject"].isin(["a", "b", "c"])
    others = (frame["arm"] != "lora-cosine") & frame["subject"].isin(["d", "e", "f"])
    rows = prepare(replace(results, frame=frame[mine | others]))
    analysis = analyse(rows, QUICK)
    none = [c for c in analysis.pairs if "lora-cosine" in (c.first, c.second)]
    assert [c.difference.value for c in none] == [None] * 4
    assert [c.p_holm for c in none] == [None] * 4
    assert [c.p_holm is not None for c in analysis.pairs if c not in none] == [True] * 6
    assert "no common subject" in " ".join(judge(rows, analysis).points) or analysis.best != "lora-cosine"


def test_the_margin_is_the_study_files() -> None:
    results = make_results(Study(trials=1, subjects=("a", "b", "c", "d", "e")))
    assert margin_of(prepare(results)) == MARGIN
    spec = {**results.meta["spec"], "report": {"margin": 0.4}}
    rows = prepare(replace(results, meta={**results.meta, "spec": spec}))
    wide = analyse(rows, QUICK)
    assert wide.margin == 0.4
    assert {c.outcome for c in wide.pairs} == {"equivalent"}
    assert "within ±0.4" in " ".join(judge(rows, wide).points)
    assert analyse(rows, replace(QUICK, margin=0.01)).margin == 0.01


# ------------------------------------------------------------------ stability


def test_ranks_share_ties() -> None:
    drawn = np.array([[1.0, 3.0], [2.0, 3.0], [2.0, 1.0]])
    assert ranks_of(drawn).tolist() == [[1.0, 2.5], [2.5, 2.5], [2.5, 1.0]]


def test_chances_of_being_best_add_up_and_follow_the_means(large: tuple[Rows, Analysis]) -> None:
    _, analysis = large
    standings = {s.arm: s for s in analysis.standings}
    assert "base" not in standings
    assert sum(s.best or 0.0 for s in standings.values()) == pytest.approx(1.0)
    assert max(standings.values(), key=lambda s: s.best or 0.0).arm == analysis.best
    assert sum(s.rank or 0.0 for s in standings.values()) == pytest.approx(15)
    for s in standings.values():
        assert 1 <= (s.rank_low or 0) <= (s.rank_high or 0) <= 5
        assert (s.rank_low or 0) - 0.5 < (s.rank or 0) < (s.rank_high or 0) + 0.5
        assert 0 <= (s.on_front or 0) <= 1
    assert standings[analysis.best or ""].on_front == 1.0
    assert standings["dreambooth_lora"].on_front == 0.0  # slower than LoRA, and worse


def test_the_chance_of_the_best_of_two_is_that_of_the_bootstrap() -> None:
    arms = (Arm("a", "lora", gain=0.61), Arm("b", "lora", gain=0.60))
    rows, analysis = analysed(Study(arms=arms, trials=1, subjects=("a", "b", "c", "d", "e", "f")))
    wide = rows.confirm.groupby(["arm", "subject"])["quality"].mean().unstack()
    difference = (wide.loc["a"] - wide.loc["b"]).to_numpy()
    drawn = np.random.default_rng(0).choice(difference, (20_000, 6)).mean(1)
    found = {s.arm: s.best or 0.0 for s in analysis.standings}
    assert found["a"] == pytest.approx(np.mean(drawn > 0), abs=0.08)


def test_the_cost_of_searching_moves_the_front() -> None:
    """A cheap run with a long search is no longer the cheap one."""
    arms = (
        Arm("quick", "lora", gain=0.5, step_seconds=0.05),
        Arm("slow", "lora", gain=0.6, step_seconds=0.06),
    )
    results = make_results(Study(arms=arms, trials=2, subjects=("a", "b", "c")))
    dear = results.frame["train_seconds"].where(
        ~((results.frame["arm"] == "quick") & (results.frame["phase"] == "search")), 500.0
    )
    (quick, slow) = analyse(prepare(edited(results, train_seconds=dear)), QUICK).standings
    assert (quick.on_front, quick.on_front_with_search) == (1.0, 0.0)
    assert (slow.on_front, slow.on_front_with_search) == (1.0, 1.0)
    unknown = edited(results, train_seconds=np.nan)
    assert [s.on_front for s in analyse(prepare(unknown), QUICK).standings] == [None, None]


def test_large_differences_are_established_in_a_large_study(large: tuple[Rows, Analysis]) -> None:
    _, analysis = large
    assert analysis.best == "dreambooth-cosine"
    worst = next(c for c in analysis.against_best if c.second == "dreambooth_lora")
    assert worst.outcome == "better"
    assert worst.difference.n == 15
    assert (worst.improvement.value or 0) > 0.8
    assert analysis.detectable is not None
    assert 0.02 < analysis.detectable < 0.3


def test_schedules_are_compared_per_method(small: tuple[Rows, Analysis]) -> None:
    rows, analysis = small
    assert schedule_pairs(rows) == [
        ("lora", "lora-cosine", "lora-constant"),
        ("dreambooth", "dreambooth-cosine", "dreambooth-constant"),
    ]
    effect = analysis.schedules[0]
    assert effect.comparisons["quality"].difference.n == 4
    assert effect.comparisons["quality"] in (*analysis.pairs, *(c.reversed() for c in analysis.pairs))
    scaled = {"subject_fidelity_scaled", "prompt_fidelity_scaled"}
    assert set(effect.comparisons) == {"quality", *scaled, "train_seconds"}


def test_schedules_are_paired_by_name_where_a_method_has_many_arms() -> None:
    arms = tuple(
        Arm(f"{rank}_{schedule}_lora", "lora", schedule)
        for rank in ("r4", "r16")
        for schedule in ("cosine", "constant")
    )
    rows, analysis = analysed(Study(arms=arms, trials=1))
    assert schedule_pairs(rows) == [
        ("lora", "r4_cosine_lora", "r4_constant_lora"),
        ("lora", "r16_cosine_lora", "r16_constant_lora"),
    ]
    points = " ".join(judge(rows, analysis).points)
    assert "Cosine minus constant for lora (r4_cosine_lora minus r4_constant_lora): " in points


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
