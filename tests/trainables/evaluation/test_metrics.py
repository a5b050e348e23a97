"""The pure metrics against closed forms and independent implementations."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from trainables.evaluation import metrics
from trainables.evaluation.checks import MIN_DISTRIBUTION_IMAGES


def rows(count: int, features: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, features))


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def test_subject_fidelity_is_the_mean_over_all_pairs() -> None:
    generated, references = rows(5), rows(7, seed=1)
    expected = np.mean([cosine(x, y) for x in generated for y in references])
    assert metrics.subject_fidelity(generated, references) == pytest.approx(expected)
    assert metrics.subject_fidelity(3 * generated, 0.1 * references) == pytest.approx(expected)
    assert metrics.subject_fidelity(generated, references[:0]) is None


def test_closed_forms_of_angles() -> None:
    angles = np.array([0.0, np.pi / 3])
    first = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    second = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert metrics.paired_cosine(first, second) == pytest.approx((1 + np.sqrt(3) / 2) / 2)
    assert metrics.drift(first, second) == pytest.approx(1 - (1 + np.sqrt(3) / 2) / 2)
    assert metrics.drift(first, 5 * first) == pytest.approx(0)
    assert metrics.drift(first, -first) == pytest.approx(2)


def test_mismatched_prompts() -> None:
    images, texts, own = rows(4), rows(3, seed=5), [0, 0, 1, 2]
    expected = np.mean(
        [
            cosine(image, text)
            for image, mine in zip(images, own, strict=True)
            for number, text in enumerate(texts)
            if number != mine
        ]
    )
    assert metrics.mismatched_prompt_fidelity(images, texts, own) == pytest.approx(expected)
    assert metrics.mismatched_prompt_fidelity(images, texts[:1], [0] * 4) is None


def test_consistency_is_between_prompts_and_weighs_each_pair_of_prompts_alike() -> None:
    images, prompts = rows(7), [0, 0, 0, 1, 2, 2, 5]
    of = {prompt: [row for row, own in enumerate(prompts) if own == prompt] for prompt in set(prompts)}
    by_pair = [
        np.mean([cosine(images[one], images[other]) for one in of[first] for other in of[second]])
        for first, second in combinations(sorted(of), 2)
    ]
    assert len(by_pair) == 6
    assert metrics.consistency(images, prompts, [""] * 7) == pytest.approx(np.mean(by_pair))
    assert metrics.consistency(3 * images, prompts, [""] * 7) == pytest.approx(np.mean(by_pair))


def test_consistency_of_known_angles() -> None:
    """Two images of prompt 0 at 0 and 60 degrees, of prompt 1 one at 90: cosines 0 and cos 30."""
    angles = np.radians([0, 60, 90])
    images = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert metrics.consistency(images, [0, 0, 1], [""] * 3) == pytest.approx(np.cos(np.pi / 6) / 2)
    # The two images of prompt 0 are no pair: as one and the same image they would change nothing.
    twice = images[[0, 0, 2]]
    assert metrics.consistency(twice, [0, 0, 1], [""] * 3) == pytest.approx(0)
    assert metrics.consistency(images[:2], [0, 0], [""] * 2) is None
    assert metrics.consistency(images[:0], [], []) is None


def test_consistency_pairs_prompts_about_one_character_alone() -> None:
    images, shows = rows(5), ["momo", "momo", "bibi", "bibi", None]
    expected = (cosine(images[0], images[1]) + cosine(images[2], images[3])) / 2
    assert metrics.consistency(images, range(5), shows) == pytest.approx(expected)
    assert metrics.consistency(images, range(5), ["a", "b", "c", None, None]) is None


def test_real_similarity() -> None:
    references, training = rows(5), rows(3, seed=1)
    among = np.mean([cosine(x, y) for x, y in combinations(references, 2)])
    assert metrics.real_similarity(references, training) == pytest.approx(among)
    few = [cosine(references[0], references[1])]
    few += [cosine(x, y) for x in references[:2] for y in training]
    assert metrics.real_similarity(references[:2], training) == pytest.approx(np.mean(few))
    assert metrics.real_similarity(references[:1], training[:0]) is None


def test_the_error_of_real_similarity_is_a_jackknife() -> None:
    references, training = rows(4), rows(3, seed=1)

    def expected(left: list[float]) -> float:
        count = len(left)
        return float(np.sqrt((count - 1) / count * sum((value - np.mean(left)) ** 2 for value in left)))

    without = [
        float(np.mean([cosine(x, y) for x, y in combinations(np.delete(references, index, axis=0), 2)]))
        for index in range(4)
    ]  # three are left, and the training images stay out all the same
    assert metrics.real_similarity_error(references, training) == pytest.approx(expected(without))
    two = [float(np.mean([cosine(one, y) for y in training])) for one in (references[1], references[0])]
    assert metrics.real_similarity_error(references[:2], training) == pytest.approx(expected(two))
    assert metrics.real_similarity_error(references[:2], training[:0]) is None
    assert metrics.real_similarity_error(references[:1], training) is None


def test_the_error_of_real_similarity_is_that_of_its_repetition() -> None:
    found = [rows(16, seed=seed) + 1.0 for seed in range(300)]  # alike, as pictures of one subject are
    stated = [metrics.real_similarity_error(one, one[:0]) or 0 for one in found]
    scatter = np.std([metrics.real_similarity(one, one[:0]) for one in found])
    assert np.mean(stated) == pytest.approx(scatter, rel=0.15)


def naive_kid(x: np.ndarray, y: np.ndarray) -> float:
    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    m, n = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    xy = sum(kernel(a, b) for a in x for b in y) / (m * n)
    return xx + yy - 2 * xy


def polynomial_mmd(x: np.ndarray, y: np.ndarray) -> float:
    return metrics.mmd(x, y, metrics.polynomial_kernel)


def test_kid_against_a_double_loop() -> None:
    x, y = rows(6), rows(9, seed=3) + 0.5
    assert polynomial_mmd(x, y) == pytest.approx(naive_kid(x, y))
    assert polynomial_mmd(y, x) == pytest.approx(naive_kid(x, y))
    many, others = rows(50), rows(51, seed=3) + 0.5
    assert metrics.kid(many, others) == pytest.approx(naive_kid(many, others))


@pytest.mark.parametrize("measure", [metrics.kid, metrics.kid_interval, metrics.cmmd, metrics.cmmd_interval])
def test_distributions_take_fifty_images_on_either_side(measure: Callable[..., object]) -> None:
    assert MIN_DISTRIBUTION_IMAGES == 50
    assert measure(rows(49), rows(60, seed=1)) is None
    assert measure(rows(60), rows(49, seed=1)) is None
    assert measure(rows(50), rows(50, seed=1)) is not None


def test_kid_is_unbiased() -> None:
    same = [polynomial_mmd(rows(8, 4, s), rows(8, 4, s + 1000)) for s in range(400)]
    assert abs(np.mean(same)) < 4 * np.std(same) / 20
    assert min(same) < 0  # an estimate that cannot be negative would be biased
    apart = [polynomial_mmd(rows(8, 4, s) + 1, rows(8, 4, s + 1000)) for s in range(100)]
    # E k(x, y) by Monte Carlo with many pairs.
    x, y = rows(4000, 4, 7), rows(4000, 4, 8)
    truth = (
        ((((x + 1) * (y + 1)).sum(1) / 4 + 1) ** 3).mean()
        + (((x * y).sum(1) / 4 + 1) ** 3).mean()
        - 2 * ((((x + 1) * y).sum(1) / 4 + 1) ** 3).mean()
    )
    assert np.mean(apart) == pytest.approx(truth, rel=0.1)


def naive_biased_cmmd(x: np.ndarray, y: np.ndarray) -> float:
    """The reference's estimate, written with loops: every image is paired with itself as well."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a / math.dist(a, 0 * a), b / math.dist(b, 0 * b)
        return math.exp(-(math.dist(a, b) ** 2) / (2 * 10**2))

    def mean(some: np.ndarray, others: np.ndarray) -> float:
        return sum(kernel(a, b) for a in some for b in others) / (len(some) * len(others))

    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


def test_cmmd_against_loops_over_the_reference_s_formula() -> None:
    x, y = rows(50), 3 * (rows(60, seed=3) + 0.5)
    found = metrics.cmmd(x, y)
    assert found is not None
    # The biased estimate adds the kernel's diagonal (1000) to the mean within each side.
    bias = 0.0
    for side in (x, y):
        within = metrics.gaussian_kernel(side, side)
        off = (within.sum() - np.trace(within)) / (len(side) * (len(side) - 1))
        bias += (1000 - off) / len(side)
    assert found + bias == pytest.approx(naive_biased_cmmd(x, y), rel=1e-9)
    assert bias > 0.1
    assert metrics.cmmd(5 * x, y) == pytest.approx(found)  # embeddings are normalised
    same = [metrics.cmmd(rows(50, 4, s), rows(50, 4, s + 1000)) for s in range(60)]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(len(same))


@pytest.mark.parametrize(
    ("measure", "of"), [(metrics.kid_interval, metrics.kid), (metrics.cmmd_interval, metrics.cmmd)]
)
def test_intervals_contain_the_estimate_and_narrow(
    measure: Callable[..., Any], of: Callable[..., float]
) -> None:
    def width(count: int) -> float:
        x, y = rows(count, 6, 1), rows(count, 6, 2) + 0.5
        interval = measure(x, y, seed=4)
        assert interval[0] < of(x, y) < interval[1]
        assert interval == measure(x, y, seed=4)
        return interval[1] - interval[0]

    assert width(400) < 0.6 * width(50)


def test_kid_interval_covers_the_truth() -> None:
    x, y = rows(200_000, 4, 7), rows(200_000, 4, 8)
    truth = (
        ((((x + 0.7) * (y + 0.7)).sum(1) / 4 + 1) ** 3).mean()
        + (((x * y).sum(1) / 4 + 1) ** 3).mean()
        - 2 * ((((x + 0.7) * y).sum(1) / 4 + 1) ** 3).mean()
    )
    covered = 0
    for seed in range(100):
        interval = metrics.kid_interval(
            rows(50, 4, seed) + 0.7, rows(50, 4, seed + 500), resamples=300, seed=seed
        )
        assert interval is not None
        covered += interval[0] <= truth <= interval[1]
    assert covered >= 86  # nominal 95 of 100; the percentile bootstrap of a small sample falls a little short


def test_zero_rows_give_no_nan() -> None:
    assert metrics.subject_fidelity(np.zeros((2, 4)), rows(2, 4)) == 0.0
