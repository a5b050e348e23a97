"""Statistics against closed forms, scipy and naive implementations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from study.report.randomness import stream
from study.report.statistics import (
    Estimate,
    bootstrap_means,
    bootstrap_statistic,
    coverage_bound,
    expanded_level,
    groups_of,
    holm,
    hypervolume_2d,
    iqm,
    mean_interval,
    normal_interval,
    normal_probability_of_improvement,
    pareto_front,
    probability_of_improvement,
    sign_flip_test,
    wilcoxon_test,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ------------------------------------------------------------------ intervals


def test_bootstrap_of_independent_values_agrees_with_scipy() -> None:
    values = rng(1).normal(3, 2, 25)
    ours = mean_interval(values, rng=rng(2), resamples=40_000, expand=False)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=40_000, method="percentile", rng=rng(3))
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.03)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.03)


def test_bootstrap_variance_has_its_closed_form() -> None:
    values = rng(4).normal(0, 1, 12)
    means = bootstrap_means([np.array([value]) for value in values], rng(5), 60_000)
    assert means.mean() == pytest.approx(values.mean(), abs=0.01)
    assert means.var() == pytest.approx(
        values.var() / len(values), rel=0.03
    )  # (n - 1) / n of the unbiased one


def test_two_level_bootstrap_variance_has_its_closed_form() -> None:
    groups = [rng(k).normal(k, 0.7, 4) for k in range(5)]
    means = bootstrap_means(groups, rng(6), 60_000)
    between = np.var([group.mean() for group in groups]) / 5
    within = np.mean([group.var() / 4 for group in groups]) / 5
    assert means.var() == pytest.approx(between + within, rel=0.04)


def test_two_level_bootstrap_agrees_with_a_naive_loop_on_unequal_groups() -> None:
    groups = [np.array([1.0, 2.0, 4.0]), np.array([3.0]), np.array([0.0, 5.0])]
    chance = rng(7)
    naive = []
    for _ in range(6_000):
        drawn = [groups[k] for k in chance.integers(0, 3, 3)]
        naive.append(np.mean([chance.choice(group, group.size).mean() for group in drawn]))
    fast = bootstrap_means(groups, rng(8), 30_000)
    assert fast.mean() == pytest.approx(np.mean(naive), abs=0.05)
    for level in (0.05, 0.25, 0.75, 0.95):
        assert np.quantile(fast, level) == pytest.approx(np.quantile(naive, level), abs=0.12)


def test_any_statistic_can_be_bootstrapped_over_two_levels() -> None:
    groups = [rng(k).normal(0, 1, 3) for k in range(6)]
    slow = bootstrap_statistic(groups, lambda values: float(values.mean()), rng(1), 4_000)
    fast = bootstrap_means(groups, rng(2), 30_000)
    assert slow.std() == pytest.approx(fast.std(), rel=0.05)


@pytest.mark.parametrize(
    ("subjects", "seeds", "between", "within", "least"),
    [(5, 3, 0.1, 0.05, 0.91), (8, 2, 0.1, 0.1, 0.93), (10, 1, 0.1, 0.1, 0.92), (16, 2, 0.1, 0.1, 0.93)],
)
def test_interval_covers_the_truth(
    subjects: int, seeds: int, between: float, within: float, least: float
) -> None:
    chance, hits, trials = rng(9), 0, 400
    clusters = [str(k) for k in range(subjects) for _ in range(seeds)]
    for _ in range(trials):
        values = chance.normal(0, between, subjects)[:, None] + chance.normal(0, within, (subjects, seeds))
        found = mean_interval(values, clusters, rng=chance, resamples=400)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0 <= found.high
    assert least <= hits / trials <= 0.995


def test_plain_percentile_interval_of_few_subjects_covers_less() -> None:
    """Why the interval is expanded: without it, five subjects give about 85 %."""
    chance, hits = rng(10), [0, 0]
    for _ in range(400):
        values = chance.normal(0, 1, 5)
        for k, expand in enumerate((False, True)):
            found = mean_interval(values, range(5), rng=chance, resamples=400, expand=expand)
            assert found.low is not None
            assert found.high is not None
            hits[k] += found.low <= 0 <= found.high
    assert hits[0] / 400 < 0.90 < hits[1] / 400


def test_mean_weighs_subjects_equally() -> None:
    found = mean_interval([1, 1, 1, 1, 3], ["a", "a", "a", "a", "b"], rng=rng())
    assert found.value == pytest.approx(2.0)
    assert (found.n, found.n_subjects) == (5, 2)


def test_degenerate_samples() -> None:
    assert mean_interval([], [], rng=rng()) == Estimate(None)
    assert mean_interval([math.nan, math.inf], ["a", "b"], rng=rng()).value is None
    one = mean_interval([0.5, math.nan], ["a", "b"], rng=rng())
    assert (one.value, one.low, one.high, one.n, one.n_subjects, one.half_width) == (
        0.5,
        None,
        None,
        1,
        1,
        None,
    )
    same = mean_interval([0.3] * 4, list("aabb"), rng=rng())
    assert same.low == pytest.approx(0.3)
    assert same.high == pytest.approx(0.3)
    two = mean_interval([1.0, 2.0], ["a", "b"], rng=rng())
    assert (two.low, two.high) == (1.0, 2.0)  # the range, and no more
    seeds = mean_interval([1.0, 2.0, 3.0], ["a"] * 3, rng=rng())
    assert seeds.n_subjects == 1
    assert seeds.low is not None


def test_interval_is_seeded_and_independent_of_order() -> None:
    values, clusters = list(rng(1).normal(0, 1, 9)), list("abcdefghi")
    first = mean_interval(values, clusters, rng=rng(3))
    assert first == mean_interval(values, clusters, rng=rng(3))
    assert first == mean_interval(values[::-1], clusters[::-1], rng=rng(3))
    assert first != mean_interval(values, clusters, rng=rng(4))


def test_expanded_level_approaches_the_nominal_one() -> None:
    levels = [expanded_level(0.95, n) for n in (2, 3, 5, 10, 30, 1000)]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == pytest.approx(0.95, abs=1e-3)
    assert levels[0] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="at least two"):
        expanded_level(0.95, 1)


def test_coverage_bound_is_that_of_the_range() -> None:
    assert [coverage_bound(n) for n in (0, 1, 2, 5)] == [0.0, 0.0, 0.5, 0.9375]
    chance = rng(11)
    draws = chance.normal(0, 1, (4_000, 3))
    assert np.mean((draws.min(1) < 0) & (draws.max(1) > 0)) == pytest.approx(coverage_bound(3), abs=0.03)


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


def test_normal_interval_is_students() -> None:
    values = rng(12).normal(1, 2, 9)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    found = normal_interval(values.mean(), values.std(ddof=1), 9, 0.9)
    assert found == pytest.approx((expected.low, expected.high))


# ------------------------------------------------------------------ tests


@pytest.mark.parametrize("n", [2, 3, 5, 8, 11])
def test_sign_flip_test_agrees_with_scipy(n: int) -> None:
    differences = rng(n).normal(0.5, 1, n)
    expected = stats.permutation_test(
        (differences, np.zeros(n)), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples",
        n_resamples=np.inf, vectorized=True,
    )  # fmt: skip
    assert sign_flip_test(differences, rng=rng()) == pytest.approx(expected.pvalue)


def test_sign_flip_test_by_enumeration_and_its_least_p() -> None:
    assert sign_flip_test([1.0, 2.0, 3.0, 4.0], rng=rng()) == 2 * 2**-4
    values = [0.3, -0.1, 0.25, 0.4, -0.05]
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in itertools.product((1, -1), repeat=5)
    ]
    assert sign_flip_test(values, rng=rng()) == pytest.approx(
        np.mean([s >= abs(sum(values)) - 1e-12 for s in sums])
    )
    assert sign_flip_test([], rng=rng()) is None
    assert sign_flip_test([0.0, 0.0], rng=rng()) == 1.0


def test_sign_flip_test_samples_where_it_cannot_enumerate() -> None:
    values = rng(13).normal(0.45, 1, 30)
    found = sign_flip_test(values, rng=rng(1), samples=40_000)
    assert found == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.01)
    never_zero = sign_flip_test(np.ones(40), rng=rng(1), samples=1_000)
    assert never_zero is not None
    assert never_zero > 0


def test_sign_flip_test_by_cluster_flips_subjects() -> None:
    values, subjects = [1.0, 2.0, 3.0, 4.0], list("aabb")
    assert sign_flip_test(values, subjects, rng=rng()) == 0.5  # two units: 2 of 4 patterns


def test_sign_flip_test_keeps_its_level() -> None:
    chance = rng(14)
    ps = [sign_flip_test(chance.normal(0, 1, 7), rng=chance) or 0.0 for _ in range(1_500)]
    assert np.mean(np.array(ps) <= 0.05) <= 0.065
    assert np.mean(np.array(ps) <= 0.5) == pytest.approx(0.5, abs=0.04)


def test_wilcoxon_agrees_with_scipy() -> None:
    values = rng(15).normal(0.3, 1, 12)
    assert wilcoxon_test(values) == pytest.approx(stats.wilcoxon(values, method="exact").pvalue)
    assert wilcoxon_test([0.0, 0.0]) == 1.0
    assert wilcoxon_test([math.nan]) is None
    assert wilcoxon_test([1.0, 2.0, 3.0, 4.0]) == 0.125


def test_holm_is_the_textbook_step_down() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([None, 0.02, None, 0.04]) == [None, 0.04, None, 0.04]
    assert holm([]) == []


def test_holm_rejects_what_the_sequential_procedure_rejects() -> None:
    chance = rng(16)
    for _ in range(50):
        ps = list(chance.uniform(0, 0.1, 6))
        order, rejected = np.argsort(ps), set()
        for rank, k in enumerate(order):
            if ps[k] > 0.05 / (6 - rank):
                break
            rejected.add(int(k))
        assert {k for k, p in enumerate(holm(ps)) if p is not None and p <= 0.05} == rejected


def test_probability_of_improvement() -> None:
    assert probability_of_improvement([3, 4], [1, 2]) == 1.0
    assert probability_of_improvement([1, 2], [1, 2]) == 0.5
    x, y = rng(17).normal(0.4, 1, 40), rng(18).normal(0, 1, 30)
    expected = stats.mannwhitneyu(x, y).statistic / (40 * 30)
    assert probability_of_improvement(x, y) == pytest.approx(expected)
    by_subject = probability_of_improvement([1, 9], [2, 8], ["a", "b"], ["a", "b"])
    assert by_subject == 0.5  # loses on one subject, wins on the other; levels of subjects do not mix
    assert probability_of_improvement([1.0], [2.0], ["a"], ["b"]) is None
    assert probability_of_improvement([math.nan], [2.0]) is None


def test_probability_of_improvement_of_normals() -> None:
    expected = normal_probability_of_improvement(0.5, 1.0, 0.0, 0.5)
    x, y = rng(19).normal(0.5, 1, 3_000), rng(20).normal(0, 0.5, 3_000)
    assert probability_of_improvement(x, y) == pytest.approx(expected, abs=0.02)
    assert normal_probability_of_improvement(1, 1, 1, 2) == pytest.approx(0.5)


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


def test_hypervolume_against_a_grid_count() -> None:
    points = rng(22).uniform(0, 1, (12, 2))
    grid = (np.arange(400) + 0.5) / 400
    xs, ys = np.meshgrid(grid, grid)
    covered = np.zeros_like(xs, dtype=bool)
    for x, y in points:
        covered |= (xs >= x) & (ys >= y)
    assert hypervolume_2d(points, (1, 1), ("min", "min")) == pytest.approx(covered.mean(), abs=0.01)


def test_hypervolume_of_known_shapes() -> None:
    assert hypervolume_2d([[0.5, 2.0]], (0.0, 3.0), ("max", "min")) == pytest.approx(0.5)
    assert hypervolume_2d([[1, 1], [1, 1], [2, 2]], (3, 3), ("min", "min")) == pytest.approx(4.0)
    assert hypervolume_2d([[4, 0], [math.nan, 1]], (3, 3), ("min", "min")) == 0.0
    assert hypervolume_2d(np.empty((0, 2)), (3, 3), ("min", "min")) == 0.0


# ------------------------------------------------------------------ streams


def test_streams_depend_on_seed_and_name_only() -> None:
    assert stream(0, "a", "b").integers(10**9) == stream(0, "a", "b").integers(10**9)
    drawn = {
        int(stream(seed, *names).integers(10**9))
        for seed in (0, 1)
        for names in (("a", "b"), ("ab",), ("b", "a"))
    }
    assert len(drawn) == 6
