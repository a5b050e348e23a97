"""Resamples of test images: by group, with every class, and with the variance of stratified sampling."""

from __future__ import annotations

import numpy as np
import pytest

from study.statistics.downstream.images import LabelledImages, Runs, Unusable, draw_images


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_test_set_itself_comes_first_and_classes_keep_their_size() -> None:
    images = LabelledImages(np.repeat([0, 1, 2], [50, 20, 2]), 3)
    draws = draw_images(images, rng(), 300)
    assert (draws.weights[0] == 1).all()
    assert draws.weights.shape == (301, 72)
    assert draws.freedom == 69
    for k, size in enumerate((50, 20, 2)):
        assert draws.weights[:, images.labels == k].sum(1) == pytest.approx(size)
    assert draws.weights[1:].std() > 0.5


def test_the_variance_of_a_mean_is_that_of_stratified_sampling() -> None:
    """Without the factor for small strata, that of the class with three images would be a third too small."""
    images = LabelledImages(np.repeat([0, 1], [12, 3]), 2)
    values = rng(1).normal(size=15) + 3 * images.labels
    means = draw_images(images, rng(2), 60_000).weights[1:] @ values / 15
    strata = [values[:12], values[12:]]
    expected = sum((part.size / 15) ** 2 * part.var(ddof=1) / part.size for part in strata)
    assert means.var() == pytest.approx(expected, rel=0.02)
    assert means.mean() == pytest.approx(values.mean(), abs=4 * np.sqrt(expected / 60_000))


def test_images_of_a_group_are_drawn_together() -> None:
    groups = np.repeat(np.arange(6) * 7, 4)
    images = LabelledImages(np.repeat([0, 1], 12), 2, groups)
    draws = draw_images(images, rng(), 100)
    by_group = draws.weights.reshape(-1, 6, 4)
    assert (by_group == by_group[..., :1]).all()
    assert draws.freedom == 4


def test_groups_of_several_classes_are_in_the_stratum_of_the_rarest_and_no_class_vanishes() -> None:
    """Class 0 is in all groups, class 1 in three, class 2 in two of them."""
    groups = np.repeat(np.arange(8), 3)
    labels = np.zeros(24, dtype=np.int64)
    labels[[0, 3, 6]] = 1
    labels[[1, 10]] = 2
    images = LabelledImages(labels, 3, groups)
    assert images.strata.tolist() == [2, 1, 1, 2, 0, 0, 0, 0]
    weights = draw_images(images, rng(), 2_000).weights
    for k in range(3):
        assert weights[:, labels == k].sum(1).min() > 0


def test_resamples_that_nearly_always_miss_a_class_are_refused() -> None:
    """Two hundred groups in a ring, each with its own class and the next one's: two neighbours are always missing."""
    own = np.arange(200)
    images = LabelledImages(np.r_[own, (own + 1) % 200], 200, np.r_[own, own])
    with pytest.raises(Unusable, match="too few groups"):
        draw_images(images, rng(), 2)


def test_draws_hang_on_the_generator_alone() -> None:
    images = LabelledImages(np.repeat([0, 1], 20), 2)
    first, again = (draw_images(images, rng(5), 50).weights for _ in range(2))
    assert (first == again).all()
    assert (first != draw_images(images, rng(6), 50).weights).any()


def test_what_is_wrong_with_test_images_is_said() -> None:
    with pytest.raises(Unusable, match="labels lie between 0 and 1, got 0 to 2; one group an image"):
        LabelledImages(np.array([0, 1, 2]), 2, np.zeros(4, dtype=int))
    with pytest.raises(Unusable) as found:
        LabelledImages(np.array([0, 0, 0, 1, 1]), 3, np.array([1, 2, 2, 3, 3]))
    assert found.value.problems == (
        "each class needs test images of at least two groups, class 1 has 1",
        "each class needs test images of at least two groups, class 2 has 0",
    )
    with pytest.raises(Unusable, match="row of whole numbers, got float64"):
        LabelledImages(np.array([0.0, 1.0]), 2)


def test_what_is_wrong_with_runs_is_said_at_once() -> None:
    with pytest.raises(Unusable) as found:
        Runs((1, 1), (4, 5), probabilities=np.full((2, 3, 4, 2), 0.5), correct=np.full((2, 2, 4), np.nan))
    assert len(found.value.problems) == 3
    assert "classifier seeds come once each, got 1, 1" in str(found.value)
    assert "probabilities: (2, 2) seeds and 2 more axes are expected, got shape (2, 3, 4, 2)" in str(
        found.value
    )
    assert "correct: 16 values are not finite" in str(found.value)
    with pytest.raises(Unusable, match="one of probabilities, predicted, correct is needed"):
        Runs((1,))
