"""Means over images and seeds against closed forms: variances, degrees of freedom, pairing, families."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from study.statistics.downstream.comparison import (
    ScoreTable,
    combined,
    decide_means,
    difference,
    score_table,
    seed_mean,
    verdicts,
)
from study.statistics.downstream.images import Floats, LabelledImages, Runs, Unusable, draw_images
from study.statistics.paired import holm


def table(
    values: Floats,
    noise: Floats | None = None,
    generators: tuple[int, ...] | None = None,
    score: str = "accuracy",
) -> ScoreTable:
    """Scores of shape ``(generators, classifiers)``, and resamples that add `noise` to them."""
    draws = values + (np.zeros((2, 1, 1)) if noise is None else noise)
    seeds = tuple(range(len(values))) if generators is None else generators
    return ScoreTable(score, np.concatenate([values[None], draws]), seeds, tuple(range(values.shape[1])), 50)


def test_without_image_variance_and_generators_it_is_students_paired_test() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.7, 0.02, (2, 1, 5))
    found = seed_mean(difference(table(first, generators=()), table(second, generators=())))
    theirs = stats.ttest_rel(first[0], second[0])
    expected = theirs.confidence_interval(0.95)
    assert found.freedom == pytest.approx(4)
    assert found.interval() == pytest.approx((expected.low, expected.high))
    assert found.p == pytest.approx(theirs.pvalue)
    shifted = stats.ttest_1samp(first[0] - second[0] - np.sign(found.mean) * 0.05, 0)
    assert found.p_equivalent(0.05) == pytest.approx(
        shifted.pvalue / 2 if abs(found.mean) < 0.05 else 1 - shifted.pvalue / 2
    )
    record = found.estimate()
    assert (record.value, record.low, record.n, record.n_subjects) == (
        found.mean, found.interval()[0], 5, 5
    )  # fmt: skip


def test_where_only_generators_differ_they_are_the_sample() -> None:
    """Fifteen runs of three generators have the interval of three numbers, with two degrees of freedom."""
    levels = np.array([0.6, 0.63, 0.7])
    found = seed_mean(table(np.repeat(levels[:, None], 5, axis=1)))
    expected = stats.ttest_1samp(levels, 0).confidence_interval(0.95)
    assert found.freedom == pytest.approx(2)
    assert found.interval() == pytest.approx((expected.low, expected.high))


def test_image_noise_that_runs_share_is_counted_and_that_of_single_runs_is_not() -> None:
    """The latter is in what differs between seeds, and would count twice."""
    rng = np.random.default_rng(1)
    shared, own = rng.normal(0, 0.03, (20_000, 1, 1)), rng.normal(0, 0.05, (20_000, 3, 5))
    of_rows, of_columns = rng.normal(0, 0.05, (20_000, 3, 1)), rng.normal(0, 0.05, (20_000, 1, 5))
    found = seed_mean(table(np.full((3, 5), 0.7), shared + own + of_rows + of_columns))
    assert found.of_images == pytest.approx(0.03**2, rel=0.08)
    single = seed_mean(table(np.full((1, 5), 0.7), shared + own[:, :1], generators=()))
    assert single.of_images == pytest.approx(0.03**2, rel=0.05)


def test_degrees_of_freedom_are_satterthwaites() -> None:
    rng = np.random.default_rng(2)
    values, noise = rng.normal(0.7, 0.03, (3, 5)), rng.normal(0, 0.02, (400, 1, 1))
    found = seed_mean(table(values, noise))
    rows, columns = values.mean(1).var(ddof=1) / 3, values.mean(0).var(ddof=1) / 5
    images = noise.var(ddof=1)
    total = rows + columns + images
    assert found.of_images == pytest.approx(images)
    assert found.of_seeds == pytest.approx(rows + columns)
    assert found.freedom == pytest.approx(total**2 / (rows**2 / 2 + columns**2 / 4 + images**2 / 50))
    half = stats.t.ppf(0.975, found.freedom) * np.sqrt(total)
    assert found.interval() == pytest.approx((found.mean - half, found.mean + half))


def test_the_variance_over_images_of_two_fixed_classifiers_is_mcnemars() -> None:
    """Of accuracies of classifiers that no seed changes: (b + c - (b - c)^2 / n) / (n (n - 1)) within one class."""
    rng = np.random.default_rng(3)
    count = 300
    labels = np.r_[np.zeros(count, dtype=int), 1, 1]
    images = LabelledImages(labels, 2)
    draws = draw_images(images, rng, 20_000)
    first, second = rng.random((2, count + 2)) < 0.7
    first[-2:] = second[-2:] = True

    def fixed(correct: np.ndarray) -> Runs:
        return Runs((1, 2, 3), correct=np.tile(correct, (3, 1)))

    found = seed_mean(
        difference(*(score_table("recall:0", images, fixed(one), draws) for one in (first, second)))
    )
    b, c = (first & ~second)[:count].sum(), (~first & second)[:count].sum()
    expected = (b + c - (b - c) ** 2 / count) / (count * (count - 1))
    assert found.of_seeds == 0
    assert found.of_images == pytest.approx(expected, rel=0.04)
    assert found.freedom == pytest.approx(count + 2 - 2)


def test_runs_are_paired_by_the_numbers_of_their_seeds() -> None:
    """A failed run drops its seed from both arms; an arm without generators stands beside every generator."""
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(3, 3, 5)), rng.normal(size=(3, 1, 4))
    arm = ScoreTable("accuracy", first, (10, 11, 12), (1, 2, 3, 4, 5), 9)
    base = ScoreTable("accuracy", second, (), (5, 3, 1, 9), 9)
    found = difference(arm, base)
    assert found.classifier_seeds == (1, 3, 5)
    assert found.generator_seeds == (10, 11, 12)
    assert found.values == pytest.approx(first[:, :, [0, 2, 4]] - second[:, :, [2, 1, 0]])
    other = ScoreTable("accuracy", first, (12, 10, 7), (1, 2, 3, 4, 5), 9)
    between = difference(arm, other)
    assert between.generator_seeds == (10, 12)
    assert between.values == pytest.approx(first[:, [0, 2]] - first[:, [1, 0]])


def test_what_cannot_be_paired_is_refused() -> None:
    values = np.zeros((3, 1, 3))
    arm = ScoreTable("accuracy", values, (), (1, 2, 3), 9)
    with pytest.raises(Unusable, match=r"share no classifier seed: \{1, 2, 3\}, \{4, 5, 6\}"):
        difference(arm, ScoreTable("accuracy", values, (), (4, 5, 6), 9))
    for other in (
        ScoreTable("ece", values, (), (1, 2, 3), 9),
        ScoreTable("accuracy", values[:2], (), (1, 2, 3), 9),
    ):
        with pytest.raises(Unusable, match="one score, on the same resamples"):
            combined([arm, other], [1, -1])


@pytest.mark.parametrize("shape", [(1, 2), (2, 5), (3, 2)])
def test_with_fewer_than_three_seeds_of_a_kind_there_is_a_value_and_no_interval(
    shape: tuple[int, int],
) -> None:
    values = np.random.default_rng(5).normal(size=shape)
    found = seed_mean(table(values, generators=() if shape[0] == 1 else None))
    assert found.mean == pytest.approx(values.mean())
    assert np.isnan([*found.interval(), found.p, found.p_equivalent(1)]).all()
    assert (found.estimate().low, found.estimate().high) == (None, None)


def test_arms_that_never_differ_have_no_interval_and_are_not_called_equivalent() -> None:
    found = seed_mean(table(np.zeros((3, 5))))
    assert found.p == 1
    assert np.isnan([found.error, *found.interval(), found.p_equivalent(0.1)]).all()
    always = seed_mean(table(np.full((3, 5), 0.2)))
    assert np.isnan(always.p)


def test_verdicts_share_one_level_by_holms_procedure() -> None:
    rng = np.random.default_rng(6)
    means = [
        seed_mean(table(level + rng.normal(0, spread, (3, 5)), rng.normal(0, spread / 9, (300, 1, 1))))
        for level, spread in ((0.10, 0.005), (-0.10, 0.005), (0.0, 0.004), (0.03, 0.05))
    ]
    found = decide_means(means, 0.02)
    assert verdicts(found, "accuracy") == ("better", "worse", "equivalent", "not enough")
    assert verdicts(found, "ece") == ("worse", "better", "equivalent", "not enough")
    assert found.p == pytest.approx([one.p for one in means])
    assert found.p_holm == pytest.approx(holm(found.p))
    assert found.p_equivalent == pytest.approx(holm([one.p_equivalent(0.02) for one in means]))
    for k, one in enumerate(means):
        assert (found.family_low[k], found.family_high[k]) == pytest.approx(one.interval(1 - 0.05 / 4))
    assert "equivalent" not in verdicts(decide_means(means, None), "accuracy")
    assert decide_means([], 0.02).mean.size == 0
