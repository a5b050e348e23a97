"""The verdict in words."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from study.report import results_tables as tables
from study.report.analysis import Analysis, analyse
from study.report.effect_tables import effects_table
from study.report.prepared import Rows, prepare
from study.report.search_history import histories
from study.report.verdict import cost_words, judge, percent, rival_words
from study.statistics.power import typical_deviation
from tests.helpers.made_reports import QUICK, analysed, edited
from tests.helpers.synthetic_results import ARMS, Arm, Study, make_results


def test_verdict_of_a_small_study_is_modest(small: tuple[Rows, Analysis]) -> None:
    verdict = judge(*small)
    assert "does not establish" in verdict.headline
    assert "n = 4 runs on 2 subjects" in verdict.headline
    assert "there are 2 subjects, and nothing can be said of chance with fewer than 3" in verdict.headline
    assert re.search(
        r"to decide a single pair takes at least about \d+ to \d+ subjects \(if they vary as usual\), since a lead "
        "that was picked as the largest is too large on average",
        verdict.headline,
    )
    assert "80 %" not in verdict.headline
    text = " ".join((verdict.headline, *verdict.points))
    assert "[" not in text  # no interval
    assert "Pareto" not in text
    beware = " ".join(verdict.warnings)
    assert "No intervals: n = 4 runs on 2 subjects" in beware
    usual = f"the usual one (standard deviation {typical_deviation(2):.2f})"
    assert f"the larger of two spreads, that of all pairs together and {usual}" in beware
    assert "such a lead is too large on average; if the true one is smaller, it takes more subjects" in beware
    assert "resident set" in beware


def test_of_many_arms_the_nearest_are_named(large: tuple[Rows, Analysis]) -> None:
    analysis = large[1]
    (one,) = [c for c in analysis.against_best if c.outcome == "better"][:1]
    many = tuple(replace(one, second=f"arm-{number}") for number in range(20))
    (words,) = rival_words(replace(analysis, pairs=many))
    assert "arm-7 (" in words
    assert "arm-8" not in words
    assert words.endswith(" and 12 more (in the table of comparisons with the best).")
    assert "more" not in rival_words(replace(analysis, pairs=many[:8]))[0]


def test_verdict_of_a_large_study_names_leads_and_ties(large: tuple[Rows, Analysis]) -> None:
    verdict = judge(*large)
    text = " ".join((verdict.headline, *verdict.points))
    assert verdict.headline.startswith("dreambooth-cosine")
    assert "n = 15 runs on 5 subjects" in verdict.headline
    assert "Better in quality, paired by subject and seed, than" in text
    assert re.search(r"dreambooth_lora \(\+0\.\d+ \[", text)
    assert "Subject fidelity above that of the untrained base model beyond chance: every trained arm" in text
    assert "Prompt fidelity below that of the untrained base model" in text
    assert "Cost of dreambooth-cosine per run" in " ".join(cost_words(large[1]))
    assert "Highest mean quality when subjects are resampled: dreambooth-cosine" in text
    assert (
        "On the Pareto front of quality and training time (in brackets: with the training time of the search)"
        in text
    )
    assert "is found in 80 % of studies" in text
    assert not any("No intervals" in warning for warning in verdict.warnings)


def test_enough_subjects_are_reckoned_with_their_own_spread() -> None:
    chance = np.random.default_rng(0)
    results = make_results(Study(arms=ARMS[1:3], trials=1, subjects=tuple("abcdef"), seeds=(1,)))
    first = results.frame["arm"].eq(ARMS[1].name) & results.frame["phase"].eq("confirm")
    frame = results.frame.assign(quality=0.5 + 0.15 * first + chance.normal(0, 0.2, len(first)))
    rows = prepare(replace(results, frame=frame))
    analysis = analyse(rows, QUICK)
    (pair,) = analysis.against_best
    assert pair.outcome == "not enough"
    verdict = judge(rows, analysis)
    assert re.search(r"at least about \d+ subjects, since a lead", verdict.headline)
    assert "with the difference as it was seen and the spread that it showed." in " ".join(verdict.warnings)


def test_a_lead_within_the_margin_may_take_fewer_subjects() -> None:
    """Smaller than it was seen, it is shown to be equivalent sooner: the number is no lower bound."""
    results = make_results(Study(arms=ARMS[1:3], trials=1, subjects=("a", "b"), seeds=(1,)))
    rows = prepare(edited(results, quality=0.5 + 0.04 * results.frame["arm"].eq(ARMS[1].name)))
    headline = judge(rows, analyse(rows, QUICK)).headline
    assert re.search(r"; a decision takes about \d+ subjects \(if they vary as usual\)\.$", headline)


def test_verdict_says_that_arms_are_equivalent() -> None:
    arms = tuple(Arm(name, "lora", gain=0.6) for name in ("a", "b"))
    rows = prepare(make_results(Study(arms=arms, trials=1, subjects=tuple("abcdefgh"), seeds=(1, 2, 3))))
    verdict = judge(rows, analyse(rows, replace(QUICK, margin=0.1)))
    assert "it is equivalent to" in verdict.headline
    assert "Equivalent in quality (within ±0.1)" in " ".join(verdict.points)


def test_a_mean_that_is_highest_for_want_of_runs_is_not_called_best() -> None:
    """The easy subjects only: ahead by its mean, behind wherever both have run."""
    arms = (Arm("lucky", "lora", gain=0.6), Arm("steady", "lora", gain=0.6))
    results = make_results(Study(arms=arms, trials=1, subjects=tuple("abcdef"), seeds=(1,)))
    frame = results.frame
    easy = frame["subject"].isin(list("abc"))
    frame = frame.assign(quality=np.where(easy, 0.9, 0.2) - np.where(frame["arm"] == "lucky", 0.1, 0.0))
    frame["quality"] += np.arange(len(frame)) * 1e-4
    rows = prepare(replace(results, frame=frame[easy | (frame["arm"] == "steady")]))
    analysis = analyse(rows, QUICK)
    assert analysis.best == "lucky"
    verdict = judge(rows, analysis)
    assert "is behind steady on the subjects that they have in common" in verdict.headline
    assert "Worse in quality" in verdict.points[0]


def test_a_lead_for_want_of_runs_is_none_where_nothing_is_decided() -> None:
    """Behind by little wherever both have run, and ahead by its mean: that is neither a lead nor the best."""
    arms = (Arm("lucky", "lora", gain=0.6), Arm("steady", "lora", gain=0.6), Arm("other", "lora", gain=0.6))
    results = make_results(Study(arms=arms, trials=1, subjects=tuple("abcdef"), seeds=(1,)))
    frame, rng = results.frame, np.random.default_rng(1)
    easy = frame["subject"].isin(list("abc"))
    noise = rng.normal(0, 0.1, len(frame))
    frame = frame.assign(quality=np.where(easy, 0.8, 0.2) + noise)
    both = frame[easy & (frame["phase"] == "confirm")].pivot(index="subject", columns="arm", values="quality")
    shift = (both["lucky"] - both["steady"]).mean() + 0.03
    frame.loc[frame["arm"] == "lucky", "quality"] -= shift
    rows = prepare(replace(results, frame=frame[easy | (frame["arm"] != "lucky")]))
    analysis = analyse(rows, QUICK)
    assert analysis.best == "lucky"
    (behind,) = (c for c in analysis.against_best if c.second == "steady")
    assert behind.outcome == "not enough"
    verdict = judge(rows, analysis)
    assert "is behind" in verdict.headline
    assert "steady" in verdict.headline
    assert "Lead in quality" not in " ".join(verdict.points)
    assert "Difference in quality that is not established" in " ".join(verdict.points)


def test_arms_that_score_the_same_to_the_last_digit_share_the_lead_where_they_are_equivalent() -> None:
    arms = tuple(Arm(name, "lora", gain=0.6) for name in ("a", "b"))
    results = make_results(Study(arms=arms, trials=1, subjects=tuple("abcdef"), seeds=(1, 2)))
    level = {subject: 0.3 + 0.05 * number for number, subject in enumerate("abcdef")}
    rows = prepare(replace(results, frame=results.frame.assign(quality=results.frame["subject"].map(level))))
    analysis = analyse(rows, QUICK)
    assert [c.outcome for c in analysis.pairs] == ["equivalent"]
    assert "a and b share the highest mean" in judge(rows, analysis).headline


def test_runs_without_a_quality_are_told_of() -> None:
    rows = prepare(edited(make_results(Study(failing=())), quality=0.5))
    confirm = rows.frame["phase"] == "confirm"
    first = rows.frame.index[confirm & (rows.frame["arm"] == rows.trained_arms[0])][0]
    frame = rows.frame.assign(quality=rows.frame["quality"].where(rows.frame.index != first))
    less = replace(rows, frame=frame)
    told = judge(less, analyse(less, QUICK)).warnings
    assert any(line.startswith("1 confirm run of") and "without a quality" in line for line in told)


def test_shares_that_are_not_certain_are_not_shown_as_certain() -> None:
    assert [percent(x) for x in (None, 0.0, 0.001, 0.834, 0.9999, 1.0)] == [
        "--",
        "0 %",
        "< 1 %",
        "83 %",
        "> 99 %",
        "100 %",
    ]


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
    assert any("No intervals: n = 1 run on 1 subject" in warning for warning in one_run.warnings)
    one_subject = judge(*analysed(Study(subjects=("a",), seeds=(1, 2, 3))))
    assert any("No intervals: n = 3 runs on 1 subject" in warning for warning in one_subject.warnings)
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
    assert all(c.p_equivalent is None for c in analysis.pairs)  # the margin is in quality
    assert len(analysis.pairs) == 10
    assert analysis.margin is None
    wide = prepare(
        edited(
            make_results(Study(subjects=("dog-1", "bird-1", "cat-2", "fox-1", "cow-1", "owl-1"))),
            quality=np.nan,
        )
    )
    analysis = analyse(wide, QUICK)
    words = [*judge(wide, analysis).points, *effects_table(analysis).notes, tables.test_note(analysis)]
    assert any("differ beyond chance" in line for line in words)
    assert not any("equivalent within" in line or "±" in line for line in words)
    assert any("p (equivalent): not asked, since the margin is one of quality" in line for line in words)


def test_arms_that_score_the_same_share_the_lead() -> None:
    """All at 0, as after too few steps: the alphabet decides nothing."""
    results = edited(make_results(Study()), quality=0.0)
    rows = prepare(results)
    headline = judge(rows, analyse(rows, QUICK)).headline
    assert "share the highest mean (quality 0.00," in headline
    assert all(arm in headline for arm in rows.trained_arms)
