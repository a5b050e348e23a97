"""Statistics against closed forms, scipy and naive implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from study.report.random_streams import stream
from study.statistics.paired import (
    BOOTSTRAP_FROM,
    Estimate,
    bootstrap_t_interval,
    chance_interval,
    decide,
    effect_size,
    equivalence_test,
    groups_of,
    holm,
    iqm,
    mean_interval,
    moments,
    pareto_front,
    resampled_means,
    shares_of,
    subject_draws,
    t_interval,
    t_test,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ------------------------------------------------------------------ intervals


@pytest.mark.parametrize("n", [3, 4, 9, 25])
def test_interval_and_p_are_those_of_scipy(n: int) -> None:
    values = rng(n).normal(0.4, 2, n)
    theirs = stats.ttest_1samp(values, 0)
    for level in (0.9, 0.95):
        expected = theirs.confidence_interval(level)
        assert np.stack(t_interval(values, level)) == pytest.approx([expected.low, expected.high])
        found = mean_interval(values, level=level)
        assert (found.value, found.low, found.high) == pytest.approx(
            (values.mean(), expected.low, expected.high)
        )
    assert t_test(values) == pytest.approx(theirs.pvalue)


def test_runs_of_one_subject_are_averaged_and_not_counted_as_subjects() -> None:
    """Fifteen runs on three subjects have the interval of three numbers."""
    subjects = [name for name in "abc" for _ in range(5)]
    values = np.repeat([0.2, 0.5, 0.9], 5) + rng(1).normal(0, 0.01, 15)
    found = mean_interval(values, subjects)
    means = values.reshape(3, 5).mean(1)
    expected = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.n, found.n_subjects) == (15, 3)


def test_mean_weighs_subjects_equally() -> None:
    found = mean_interval([1, 1, 1, 1, 3], ["a", "a", "a", "a", "b"])
    assert found.value == pytest.approx(2.0)
    assert (found.n, found.n_subjects) == (5, 2)


@pytest.mark.parametrize("subjects", [["a"] * 8, list("aaaabbbb")])
def test_fewer_than_three_subjects_have_a_value_and_no_interval(subjects: list[str]) -> None:
    values = rng(2).normal(0.5, 0.1, 8)
    found = mean_interval(values, subjects)
    assert found.value is not None
    assert (found.low, found.high, found.half_width) == (None, None, None)
    units = [group.mean() for group in groups_of(values, subjects)]
    assert np.isnan([t_test(units), equivalence_test(units, 0.1)]).all()
    assert effect_size(units).value is None
    assert chance_interval([1.0] * len(units)) == Estimate(1.0, None, None, len(units), len(units))


def test_degenerate_samples() -> None:
    assert mean_interval([], []) == Estimate(None)
    assert mean_interval([math.nan, math.inf], ["a", "b"]).value is None
    same = mean_interval([0.3] * 6, list("aabbcc"))
    assert (same.low, same.high, same.half_width) == (pytest.approx(0.3), pytest.approx(0.3), 0.0)
    three = mean_interval([1.0, 2.0, 3.0, math.nan], list("abcd"))
    assert (three.n, three.n_subjects) == (3, 3)


def test_interval_is_independent_of_order() -> None:
    values, clusters = list(rng(1).normal(0, 1, 9)), list("abcdefghi")
    assert mean_interval(values, clusters) == mean_interval(values[::-1], clusters[::-1])


def test_values_are_left_out_where_they_are_missing() -> None:
    units = rng(3).normal(0, 1, (4, 6))
    units[0, 1] = units[2, 3:] = units[3, 1:] = math.nan
    count, mean, deviation = moments(units)
    low, high = t_interval(units)
    for k, row in enumerate(units):
        known = row[np.isfinite(row)]
        assert count[k] == known.size
        assert mean[k] == pytest.approx(known.mean())
        if known.size > 2:
            assert deviation[k] == pytest.approx(known.std(ddof=1))
            expected = stats.ttest_1samp(known, 0).confidence_interval(0.95)
            assert (low[k], high[k]) == pytest.approx((expected.low, expected.high))
        else:
            assert np.isnan(low[k])


def test_differences_without_spread_are_certain() -> None:
    assert t_test([0.2, 0.2, 0.2]) == 0.0
    assert t_test([0.0, 0.0, 0.0]) == 1.0
    assert t_test([0.1 + 0.2, 0.3, 0.3]) == 0.0  # a spread of rounding is none
    assert equivalence_test([0.0, 0.0, 0.0], 0.05) == 0.0
    assert equivalence_test([0.2, 0.2, 0.2], 0.05) == 1.0


def test_groups_drop_what_is_not_finite() -> None:
    groups = groups_of([1, math.nan, 3, 4], ["b", "a", "a", "b"])
    assert [group.tolist() for group in groups] == [[3.0], [1.0, 4.0]]
    with pytest.raises(ValueError, match="label"):
        groups_of([1, 2], ["a"])


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    values = [100.0, 1, 2, 3, 4, 5, 6, -90]
    assert iqm(values) == pytest.approx(np.mean([2, 3, 4, 5]))
    assert iqm([2.0, math.nan]) == 2.0
    assert iqm([]) is None


# ------------------------------------------------------------------ tests


@pytest.mark.parametrize("shift", [0.0, 0.03, -0.2])
def test_equivalence_is_two_one_sided_tests(shift: float) -> None:
    values, margin = rng(4).normal(shift, 0.04, 7), 0.1
    below = stats.ttest_1samp(values, margin, alternative="less").pvalue
    above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    assert equivalence_test(values, margin) == pytest.approx(max(below, above))


def test_equivalence_is_the_interval_of_90_percent_within_the_margin() -> None:
    for k in range(60):
        values = rng(k).normal(0.02, 0.05, 6)
        low, high = t_interval(values, 0.90)
        assert (equivalence_test(values, 0.06) < 0.05) == (low > -0.06 and high < 0.06)


def test_holm_is_the_textbook_step_down() -> None:
    nan = math.nan
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]).tolist() == [1.0, 1.0]
    assert holm([nan, 0.02, nan, 0.04]).tolist() == pytest.approx([nan, 0.04, nan, 0.04], nan_ok=True)
    assert holm([]).tolist() == []
    assert holm([[0.01, 0.04], [0.5, nan]]).tolist() == [[0.02, 0.04], [0.5, pytest.approx(nan, nan_ok=True)]]


def test_holm_rejects_what_the_sequential_procedure_rejects() -> None:
    chance, some = rng(16), 0
    for _ in range(50):
        ps = chance.uniform(0, 0.1, 6)
        order, rejected = np.argsort(ps), set()
        for rank, k in enumerate(order):
            if ps[k] > 0.05 / (6 - rank):
                break
            rejected.add(int(k))
        some += bool(rejected)
        assert set(np.flatnonzero(holm(ps) <= 0.05).tolist()) == rejected
    assert 10 < some < 50


def test_weighted_holm_rejects_what_the_sequential_procedure_rejects() -> None:
    """Holm (1979), section 3: the least p / weight is compared with the level over the weights that are left."""
    chance, sizes = rng(17), []
    for _ in range(300):
        ps, weights = chance.uniform(0, 0.12, 6) * chance.uniform(0, 1, 6), chance.uniform(0.2, 3, 6)
        left, rejected = set(range(6)), set()
        while left:
            k = min(left, key=lambda k: ps[k] / weights[k])
            if ps[k] > 0.05 * weights[k] / sum(weights[j] for j in left):
                break
            rejected.add(k)
            left.remove(k)
        sizes.append(len(rejected))
        assert set(np.flatnonzero(holm(ps, weights) <= 0.05).tolist()) == rejected
        assert holm(ps, weights).tolist() == pytest.approx(holm(ps, 7 * weights).tolist())
        assert holm(ps, np.full(6, 0.3)).tolist() == pytest.approx(holm(ps).tolist())
    assert {0, 1, 2, 6} <= set(sizes)
    nan = math.nan  # what was not asked keeps no share
    assert holm([0.01, nan, 0.02], [0.5, 0.25, 0.25]).tolist() == pytest.approx(
        [0.015, nan, 0.02], nan_ok=True
    )


def test_families_have_equal_shares_whatever_their_sizes() -> None:
    assert shares_of([28, 3]).tolist() == pytest.approx([1 / 56] * 28 + [1 / 6] * 3)
    assert shares_of([4, 0]).tolist() == shares_of([4]).tolist() == [0.25] * 4
    assert shares_of([0, 0]).tolist() == []


def test_weights_reach_intervals_and_both_tests() -> None:
    units, weights = rng(18).normal(0.03, 0.05, (3, 8)), [0.5, 0.3, 0.2]
    found = decide(units, 0.05, weights=weights)
    for k, weight in enumerate(weights):
        expected = stats.ttest_1samp(units[k], 0).confidence_interval(1 - 0.05 * weight)
        assert (found.family_low[k], found.family_high[k]) == pytest.approx((expected.low, expected.high))
    assert found.p_holm.tolist() == pytest.approx(holm(t_test(units), weights).tolist())
    inside = holm(equivalence_test(units, 0.05), weights)
    assert found.p_equivalent.tolist() == pytest.approx(inside.tolist())
    assert found.p_holm.tolist() != pytest.approx(decide(units, 0.05).p_holm.tolist())


def test_family_intervals_are_bonferronis_and_agree_with_the_verdict() -> None:
    excluded = established = 0
    for k in range(80):
        units = rng(k).normal(rng(k + 1000).normal(0, 0.15, (6, 1)), 0.1, (6, 6))
        units[5] = math.nan  # a pair without common subjects is no comparison
        found = decide(units, None)
        expected = stats.ttest_1samp(units[0], 0).confidence_interval(1 - 0.05 / 5)
        assert (found.family_low[0], found.family_high[0]) == pytest.approx((expected.low, expected.high))
        without_0 = (found.family_low > 0) | (found.family_high < 0)
        assert (found.established | ~without_0).all()  # without 0: established
        excluded, established = excluded + without_0.sum(), established + found.established.sum()
        assert np.isnan(found.p_holm[5])
        assert not found.established[5]
        assert np.isnan(found.p_equivalent).all()
    assert established > excluded > 50  # Holm's is the stronger of the two


def test_a_shown_difference_within_the_margin_is_equivalent() -> None:
    units = np.array([[0.010, 0.011, 0.012, 0.011], [0.2, 0.21, 0.2, 0.19]])
    found = decide(units, 0.05)
    assert (found.p_holm < 0.05).all()
    assert found.equivalent.tolist() == [True, False]
    assert found.established.tolist() == [False, True]


# ------------------------------------------------------------------ beside the tests


def test_bootstrap_t_agrees_with_a_naive_loop() -> None:
    values = rng(5).lognormal(0, 0.6, 9)
    chance, statistics = rng(6), []
    for _ in range(8_000):
        drawn = chance.choice(values, 9)
        if drawn.std() > 0:
            statistics.append((drawn.mean() - values.mean()) / (drawn.std(ddof=1) / 3))
    error = values.std(ddof=1) / 3
    low, high = (values.mean() - np.quantile(statistics, q) * error for q in (0.975, 0.025))
    found = bootstrap_t_interval(values, rng(7), resamples=40_000)
    assert found is not None
    assert found[0] == pytest.approx(low, abs=0.08 * error)
    assert found[1] == pytest.approx(high, abs=0.35 * error)  # the long tail
    assert found[1] - values.mean() > values.mean() - found[0]  # skewed as the values are


def test_bootstrap_t_covers_the_mean_of_normal_values() -> None:
    chance = rng(8)
    hits = []
    for _ in range(300):
        found = bootstrap_t_interval(chance.normal(0, 1, 8), chance, resamples=500)
        assert found is not None
        hits.append(found[0] <= 0 <= found[1])
    assert 0.91 <= np.mean(hits) <= 0.985


def test_bootstrap_t_needs_subjects_that_differ() -> None:
    assert bootstrap_t_interval(np.arange(BOOTSTRAP_FROM - 1.0), rng()) is None
    assert bootstrap_t_interval(np.ones(9), rng()) is None
    assert bootstrap_t_interval([1, 2, 3, 4, 5, math.nan], rng()) is not None


def test_effect_size_inverts_the_noncentral_t() -> None:
    values = rng(9).normal(0.8, 1, 8)
    found, root = effect_size(values), math.sqrt(8)
    d = values.mean() / values.std(ddof=1)
    assert found.value == pytest.approx(d)
    assert found.low is not None
    assert found.high is not None
    assert stats.nct.sf(d * root, 7, found.low * root) == pytest.approx(0.025, abs=1e-6)
    assert stats.nct.cdf(d * root, 7, found.high * root) == pytest.approx(0.025, abs=1e-6)
    mirrored = effect_size(-values)
    assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx(
        (-found.value, -found.high, -found.low), rel=1e-5
    )


def test_effect_size_of_any_spread_has_an_interval() -> None:
    for scale in (1e-6, 1e-3, 0.1, 10.0):
        for sign in (-1, 1):
            found = effect_size(sign + scale * np.array([0.0, 1.0, 3.0]))
            assert found.low is not None
            assert found.value is not None
            assert found.high is not None
            assert found.low < found.value < found.high
    assert effect_size([0.5, 0.5, 0.5]).value is None


def test_interval_of_a_chance_is_clopper_and_pearsons() -> None:
    for wins, n in ((0, 4), (3, 3), (5, 8), (16, 16)):
        expected = stats.binomtest(wins, n).proportion_ci(0.95, method="exact")
        found = chance_interval([1.0] * wins + [0.0] * (n - wins))
        assert (found.value, found.low, found.high) == pytest.approx((wins / n, expected.low, expected.high))
    assert chance_interval([]).value is None
    all_of_three = chance_interval([1.0, 1.0, 1.0])
    assert (all_of_three.low, all_of_three.high) == (pytest.approx(0.2924, abs=1e-4), 1.0)


def test_interval_of_a_chance_covers_mixed_subjects() -> None:
    chance = rng(10)
    draws = chance.beta(0.5, 0.5, (500, 6))
    found = [chance_interval(row) for row in draws]
    assert np.mean([(e.low or 0) <= 0.5 <= (e.high or 1) for e in found]) >= 0.95


def test_resampled_means_draw_the_same_subjects_for_every_row() -> None:
    units = rng(11).normal(0, 1, (3, 5))
    draws = subject_draws(5, rng(12), 200)
    assert resampled_means(units, draws) == pytest.approx(
        np.array([[row[draw].mean() for draw in draws] for row in units])
    )
    assert resampled_means(units, draws).std() == pytest.approx(
        math.sqrt((units.var(axis=1) / 5).mean()), rel=0.35
    )


# ------------------------------------------------------------------ fronts


def naive_front(points: np.ndarray, signs: np.ndarray) -> list[bool]:
    array = points * signs
    return [not any(np.all(other <= point) and np.any(other < point) for other in array) for point in array]


@pytest.mark.parametrize("directions", [("max", "min"), ("min", "min"), ("max", "max", "min")])
def test_pareto_front_agrees_with_the_definition(directions: tuple) -> None:
    points = rng(21).integers(0, 6, (40, len(directions))).astype(float)  # with ties
    signs = np.array([-1.0 if d == "max" else 1.0 for d in directions])
    assert pareto_front(points, directions).tolist() == naive_front(points, signs)


def test_pareto_front_keeps_ties_and_leaves_out_nan() -> None:
    points = [[1, 1], [1, 1], [2, 1], [math.nan, 0], [0.5, 2]]
    assert pareto_front(points, ("min", "min")).tolist() == [True, True, False, False, True]
    assert pareto_front(np.empty((0, 2)), ("max", "min")).tolist() == []


def test_fronts_of_many_resamples_at_once() -> None:
    points = rng(22).integers(0, 4, (7, 5, 2)).astype(float)
    found = pareto_front(points, ("max", "min"))
    assert found.tolist() == [pareto_front(each, ("max", "min")).tolist() for each in points]
    assert found.any(axis=1).all()
    assert not found.all()


# ------------------------------------------------------------------ streams


def test_streams_depend_on_seed_and_name_only() -> None:
    assert stream(0, "a", "b").integers(10**9) == stream(0, "a", "b").integers(10**9)
    drawn = {
        int(stream(seed, *names).integers(10**9))
        for seed in (0, 1)
        for names in (("a", "b"), ("ab",), ("b", "a"))
    }
    assert len(drawn) == 6
