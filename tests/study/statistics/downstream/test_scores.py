"""Scores with weights against scikit-learn, resample by resample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics

from study.statistics.downstream.images import Floats, ImageDraws, LabelledImages, Runs, Unusable, draw_images
from study.statistics.downstream.scores import BINS, confusion_matrix, direction_of, scores_of
from trainables.classifiers.scores import score

SEEDS = 3
Score = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


def example(classes: int, seed: int = 0) -> tuple[LabelledImages, Runs, ImageDraws]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), [40, 15, 6][:classes]))
    logits = rng.normal(size=(2, SEEDS, labels.size, classes)) + np.eye(classes)[labels]
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    images = LabelledImages(labels, classes)
    runs = Runs(tuple(range(SEEDS)), (7, 8), probabilities=np.round(chances, 2))  # with ties
    return images, runs, draw_images(images, rng, 20)


def theirs(name: str, labels: np.ndarray, chances: np.ndarray, weights: np.ndarray) -> float:
    taken = chances.argmax(-1)
    if name == "accuracy":
        return metrics.accuracy_score(labels, taken, sample_weight=weights)
    if name == "balanced_accuracy":
        return metrics.balanced_accuracy_score(labels, taken, sample_weight=weights)
    if name == "macro_f1":
        return metrics.f1_score(labels, taken, average="macro", sample_weight=weights)
    return metrics.recall_score(labels, taken, labels=[1], average="macro", sample_weight=weights)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "macro_f1", "recall:1"])
def test_every_resample_has_the_score_of_scikit_learn(name: str, classes: int) -> None:
    images, runs, draws = example(classes)
    found = scores_of(name, images, runs, draws)
    assert found.shape == (21, 2, SEEDS)
    assert runs.probabilities is not None
    for resample in (0, 1, 7):
        for run in np.ndindex(2, SEEDS):
            expected = theirs(name, images.labels, runs.probabilities[run], draws.weights[resample])
            assert found[(resample, *run)] == pytest.approx(expected)


def exact_areas(images: LabelledImages, runs: Runs, draws: ImageDraws) -> Floats:
    """One class against the rest, from scikit-learn with weights."""
    chances = runs.probabilities_of(images)
    classes = [1] if images.classes == 2 else range(images.classes)
    return np.array(
        [
            [
                np.mean(
                    [metrics.roc_auc_score(images.labels == k, one[:, k], sample_weight=w) for k in classes]
                )
                for one in chances
            ]
            for w in draws.weights
        ]
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_the_area_is_that_of_scikit_learn_and_its_resamples_are_near(classes: int) -> None:
    images, runs, _ = example(classes)
    assert runs.probabilities is not None
    one = Runs((0,), probabilities=runs.probabilities[0, :1])
    draws = draw_images(images, np.random.default_rng(1), 150)
    found = scores_of("auroc", images, one, draws).reshape(151, 1)
    expected = exact_areas(images, one, draws)
    assert found[0] == pytest.approx(expected[0])
    assert np.abs(found - expected).max() < 0.06
    assert found[1:].std() == pytest.approx(expected[1:].std(), rel=0.08)


def test_calibration_error_is_the_mean_gap_of_bins() -> None:
    images, runs, draws = example(3)
    found = scores_of("ece", images, runs, draws)
    assert runs.probabilities is not None
    chances, weights = runs.probabilities[1, 2], draws.weights[4]
    sure, right = chances.max(-1), chances.argmax(-1) == images.labels
    expected = 0.0
    for k in range(BINS):
        inside = (sure > k / BINS) & (sure <= (k + 1) / BINS)
        if weights[inside].sum():
            gap = np.average(right[inside], weights=weights[inside]) - np.average(
                sure[inside], weights=weights[inside]
            )
            expected += weights[inside].sum() / weights.sum() * abs(gap)
    assert found[4, 1, 2] == pytest.approx(expected)
    assert direction_of("ece") == -1
    assert direction_of("auroc") == 1


def test_calibrated_and_overconfident_classifiers_have_known_errors() -> None:
    labels = np.repeat([0, 1], [75, 25])
    images = LabelledImages(labels, 2)
    draws = ImageDraws(np.ones((1, 100)), 98)
    calibrated = Runs((1,), probabilities=np.tile([0.75, 0.25], (1, 100, 1)))
    sure = Runs((1,), probabilities=np.tile([1.0, 0.0], (1, 100, 1)))
    assert scores_of("ece", images, calibrated, draws) == pytest.approx(0)
    assert scores_of("ece", images, sure, draws) == pytest.approx(0.25)


def test_correctness_alone_is_enough_for_accuracies_and_no_more() -> None:
    images, runs, draws = example(3)
    correct = runs.correct_of(images).reshape(2, SEEDS, -1)
    alone = Runs(runs.classifier_seeds, runs.generator_seeds, correct=correct)
    for name in ("accuracy", "balanced_accuracy", "recall:2"):
        assert (scores_of(name, images, alone, draws) == scores_of(name, images, runs, draws)).all()
    with pytest.raises(Unusable, match="needs predicted"):
        scores_of("macro_f1", images, alone, draws)
    with pytest.raises(Unusable, match="needs probabilities"):
        scores_of("auroc", images, alone, draws)


def test_the_confusion_matrix_is_that_of_scikit_learn() -> None:
    images, runs, _ = example(3)
    found = confusion_matrix(images, runs)
    assert found.shape == (2, SEEDS, 3, 3)
    expected = metrics.confusion_matrix(images.labels, runs.predicted_of(images)[4])
    assert (found[1, 1] == expected).all()


@pytest.mark.parametrize("name", ["acuracy", "recall:3", "recall:x"])
def test_a_score_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(Unusable, match=r"there are accuracy|class between 0 and 2"):
        scores_of(name, *example(3))


def test_predictions_of_other_images_are_refused() -> None:
    images, _, draws = example(3)
    with pytest.raises(Unusable, match="expected, got"):
        scores_of("accuracy", images, Runs((1,), predicted=np.zeros((1, 5), dtype=int)), draws)


@pytest.mark.parametrize("classes", [2, 3])
def test_without_weights_they_are_those_of_a_classifiers_record(classes: int) -> None:
    """One definition of each score: what runs record of themselves, and what reports test."""
    images, _, draws = example(classes)
    chances = np.random.default_rng(1).dirichlet(np.ones(classes), size=(2, SEEDS, images.labels.size))
    runs = Runs(tuple(range(SEEDS)), (7, 8), probabilities=chances)
    names = [f"class {k}" for k in range(classes)]
    recorded = [[score(of_run, images.labels, names) for of_run in row] for row in chances]
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece"):
        found = scores_of(name, images, runs, draws)[0]
        assert found == pytest.approx(
            np.array([[getattr(one, name) for one in row] for row in recorded]), abs=1e-12
        )
