"""The report's statistics on simulated studies of known truth: the small version of ``benchmarks/statistics.py``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.statistics import (
    ARMS,
    FALSE,
    MODELS,
    PAIRS,
    Cell,
    Model,
    draw,
    line,
    main,
    of_base,
    of_pairs,
    results_of,
    simulate,
    whole_way,
)
from study.report.analysis import analyse
from study.report.comparisons import Settings
from study.report.prepared import prepare
from study.statistics.paired import decide

QUICK = Settings(resamples=100)
COVERED = [model for model in MODELS if model.counts]
NAMED = {model.name: model for model in MODELS}
CROSSED, BOUNDED = NAMED["crossed seeds"], NAMED["near the bound"]


@pytest.mark.parametrize("model", COVERED, ids=lambda model: model.name)
@pytest.mark.parametrize(("subjects", "seeds"), [(3, 3), (5, 1), (10, 3)])
def test_intervals_cover_and_verdicts_are_rarely_false(model: Model, subjects: int, seeds: int) -> None:
    cell = simulate(model, subjects, seeds, 3_000, np.random.default_rng([1, subjects]), whole=1)
    assert 0.93 <= cell.differences <= 0.97
    assert 0.93 <= cell.arms <= 0.97
    assert cell.together >= 0.93
    assert max(cell.false_pairs, cell.false_base, cell.false_equivalent) <= FALSE
    assert max(cell.crossed, cell.crossed_equivalent) <= FALSE
    assert cell.ahead <= 0.04
    assert cell.whole == ()


def test_a_real_difference_is_found() -> None:
    """The bars could be held by a test that never finds anything."""
    model = MODELS[2]
    runs = draw(model, 400, 10, 3, np.random.default_rng(2))
    runs[:, 0] += 0.5
    found = of_pairs(runs)
    with_first = np.array([0 in pair for pair in PAIRS])
    assert (found.established[:, with_first] & (found.mean[:, with_first] > 0)).mean() > 0.99
    calm = draw(replace(model, interaction=0.01, run=0.01), 400, 10, 3, np.random.default_rng(3))
    assert of_pairs(calm).equivalent.mean() > 0.99


def test_seeds_that_are_the_same_draw_for_every_subject_are_not_covered() -> None:
    """Why training streams must derive from subject and seed: with seeds crossed, intervals are too narrow."""
    cell = simulate(CROSSED, 10, 3, 600, np.random.default_rng(4), whole=0)
    assert cell.differences < 0.85
    assert cell.false_pairs > 0.2
    assert cell.misses()
    nested = replace(CROSSED, seed=0.0, run=float(np.hypot(CROSSED.run, CROSSED.seed)))
    assert simulate(nested, 10, 3, 600, np.random.default_rng(4), whole=0).differences > 0.93


def test_subjects_that_share_a_search_share_its_luck() -> None:
    """Why a study that asks about methods, and not about configurations, needs as many searches as subjects."""
    covered = {
        name: simulate(NAMED[name], 10, 3, 1_500, np.random.default_rng(9), whole=0).differences
        for name in ("one search", "two searches", "a search a subject")
    }
    assert covered["one search"] < 0.75
    assert covered["two searches"] < 0.9
    assert 0.93 <= covered["a search a subject"] <= 0.97


def test_near_its_bound_quality_is_compared_soundly_but_its_means_are_less_sure() -> None:
    cell = simulate(BOUNDED, 3, 1, 3_000, np.random.default_rng(8), whole=1)
    assert cell.differences >= 0.93
    assert cell.false_pairs <= 0.06
    assert 0.87 < cell.arms < 0.935
    assert cell.whole == ()


def test_runs_are_not_independent_units() -> None:
    """What the report did before: seeds taken as if they were subjects find differences where there are none."""
    runs = draw(MODELS[2], 500, 3, 3, np.random.default_rng(5))
    first, second = zip(*PAIRS, strict=True)
    as_if = (runs[:, list(first)] - runs[:, list(second)]).reshape(500, len(PAIRS), 9)
    assert (decide(as_if, None).p_holm < 0.05).any(-1).mean() > 0.25
    assert (of_pairs(runs).p_holm < 0.05).any(-1).mean() < 0.08


def test_arms_that_are_the_base_plus_noise_are_not_called_ahead_of_it() -> None:
    """Quality is clipped at the base's 0, so its mean is above 0 whatever the arm; the verdict is not made from it."""
    chance = np.random.default_rng(6)
    claims = 0
    for _ in range(16):
        subject = draw(COVERED[2], 1, 5, 3, chance)[0]
        quality = np.clip(subject, 0, 1)
        analysis = analyse(prepare(results_of(quality, subject, np.ones_like(subject))), QUICK)
        means = [analysis.arm(f"arm-{k}").estimates["quality"].value or 0.0 for k in range(ARMS)]
        assert min(means) >= 0
        assert len(analysis.against_base) == 2 * ARMS
        claims += any(c.outcome == "better" for c in analysis.against_base)
    assert claims <= 3  # expected: 0.2; from the clipped quality it was 94 % of them


def test_the_whole_way_is_compared_in_earnest() -> None:
    chance = np.random.default_rng(7)
    runs, subject, prompt = (draw(MODELS[0], 1, 3, 2, chance) for _ in range(3))
    pairs = of_pairs(runs)
    base = of_base(subject, prompt)
    assert whole_way(runs[0], subject[0], prompt[0], pairs, base, 0) == []
    other = runs.copy()
    other[0, 0, 0, 0] += 0.3
    assert len(whole_way(other[0], subject[0], prompt[0], pairs, base, 0)) >= 4


def test_the_command_prints_a_table_and_says_what_it_misses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--studies", "40", "--whole", "0", "--all-count"]) == 1
    out = capsys.readouterr().out
    assert out.count("| crossed seeds |") == 12
    assert "miss: crossed seeds, 16 x 1: false differences in " in out
    good = Cell(MODELS[0], 5, 3, 0.95, 0.95, 0.95, 0.05, 0.05, 0.01, 0.05, 0.05, 0.04)
    assert good.misses() == []
    assert line(good).endswith("| yes |")
    for field in ("differences", "arms"):
        assert (
            len(replace(good, **{field: 0.92}).misses()) == len(replace(good, **{field: 0.98}).misses()) == 1
        )
    for field in ("false_pairs", "false_base", "false_equivalent", "crossed", "crossed_equivalent"):
        assert len(replace(good, **{field: 0.061}).misses()) == 1
