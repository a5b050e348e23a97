"""Scores of a classifier, against closed forms and scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from trainables.classifiers.scores import expected_calibration_error, score
from trainables.errors import UserError

CLASSES = ("a", "b", "c", "d")


def drawn(images: int = 200, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities that know something, with ties, and labels of unequal classes."""
    random = np.random.default_rng(seed)
    labels = random.choice(4, images, p=[0.6, 0.25, 0.1, 0.05])
    labels[:4] = range(4)
    logits = (
        random.normal(size=(images, 4)).round(1)
        + 1.5 * np.eye(4)[labels] * random.random((images, 1)).round()
    )
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probabilities, labels


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_scikit_learn(seed: int) -> None:
    probabilities, labels = drawn(seed=seed)
    predicted = probabilities.argmax(1)
    found = score(probabilities, labels, CLASSES)
    assert found.images == 200
    assert found.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    area = metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert found.auroc == pytest.approx(area)
    recalls = metrics.recall_score(labels, predicted, average=None)
    assert found.recall == pytest.approx(dict(zip(CLASSES, recalls, strict=True)))
    assert np.array_equal(found.confusion, metrics.confusion_matrix(labels, predicted))


def test_scores_of_two_classes_are_those_of_scikit_learn() -> None:
    probabilities, labels = drawn()
    kept = labels < 2
    second = probabilities[kept][:, 1]
    found = score(np.stack([1 - second, second], 1), labels[kept], ("a", "b"))
    assert found.auroc == pytest.approx(metrics.roc_auc_score(labels[kept], second))


def test_scores_in_closed_form() -> None:
    """Six images of a, three of b; four and two of them are right, all with .8."""
    labels = np.array([0] * 6 + [1] * 3)
    predicted = np.array([0] * 4 + [1] * 2 + [1] * 2 + [0])
    probabilities = np.where(np.eye(2)[predicted] == 1, 0.8, 0.2)
    found = score(probabilities, labels, ("a", "b"))
    assert found.confusion == ((4, 2), (1, 2))
    assert found.accuracy == pytest.approx(6 / 9)
    assert found.recall == {"a": pytest.approx(4 / 6), "b": pytest.approx(2 / 3)}
    assert found.balanced_accuracy == pytest.approx((4 / 6 + 2 / 3) / 2)
    assert found.macro_f1 == pytest.approx((8 / 11 + 4 / 7) / 2)
    # Of the pairs of an a and a b, 4 x 2 are told apart, and 4 x 1 and 2 x 2 are ties.
    assert found.auroc == pytest.approx((4 * 2 + 0.5 * (4 * 1 + 2 * 2)) / 18)
    assert found.ece == pytest.approx(abs(6 / 9 - 0.8))
    assert json.loads(json.dumps(found.as_dict()))["confusion"] == [[4, 2], [1, 2]]


@pytest.mark.parametrize(("right", "value"), [(True, 1.0), (False, 0.0)])
def test_scores_of_a_sure_classifier(right: bool, value: float) -> None:
    labels = np.arange(4)
    found = score(np.eye(4)[labels if right else (labels + 1) % 4], labels, CLASSES)
    assert (found.accuracy, found.balanced_accuracy, found.macro_f1) == (value,) * 3
    assert found.ece == 1 - value
    assert found.auroc == (1.0 if right else pytest.approx(1 / 3))


def test_equal_probabilities_are_chance() -> None:
    labels = np.array([0, 0, 0, 1, 2, 3])
    found = score(np.full((6, 4), 0.25), labels, CLASSES)
    assert (found.auroc, found.balanced_accuracy, found.accuracy) == (0.5, 0.25, 0.5)
    assert found.ece == pytest.approx(0.25)


def test_calibration_is_of_each_bin() -> None:
    """Two bins that miss in opposite directions do not cancel; fifteen bins, upper ends belong to the lower bin."""
    confidence = np.array([0.95] * 4 + [0.55] * 4)
    right = np.array([1, 1, 0, 0, 1, 1, 1, 0], dtype=bool)
    probabilities = np.stack([confidence, 1 - confidence], 1)
    labels = np.where(right, 0, 1)
    assert expected_calibration_error(probabilities, labels) == pytest.approx((0.45 + 0.2) / 2)
    on_an_end = np.array([[0.8, 0.2], [0.79, 0.21]])  # 0.8 is 12 / 15
    assert expected_calibration_error(on_an_end, np.array([0, 1])) == pytest.approx(abs(0.5 - 0.795))


def test_a_calibrated_classifier_has_little_error() -> None:
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 20_000)
    labels = (random.random(20_000) >= confidence).astype(int)
    assert expected_calibration_error(np.stack([confidence, 1 - confidence], 1), labels) < 0.02


def test_classes_without_a_test_image_are_named() -> None:
    with pytest.raises(
        UserError, match="no test image is of b, d, so that recall and AUROC of them are not known"
    ):
        score(np.full((3, 4), 0.25), [0, 2, 2], CLASSES)


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.full((3, 3), 1 / 3), [0, 1, 2], r"have shape \(images, 4\)"),
        (np.full((2, 4), 0.25), [0, 1, 2], r"got \(2, 4\) and \(3,\)"),
        (np.zeros((0, 4)), [], "have shape"),
        (np.full((4, 4), 0.25), [0, 1, 2, 4], "whole numbers from 0 to 3"),
        (np.full((4, 4), 0.25), [0.0, 1, 2, 3], "whole numbers from 0 to 3"),
        (np.full((4, 4), 0.3), [0, 1, 2, 3], "sum to 1; 4 of 4 images"),
        (
            np.array([[0.25] * 4] * 3 + [[np.nan] * 4]),
            [0, 1, 2, 3],
            "1 of 4 images have others, the first is image 3",
        ),
        (np.array([[0.25] * 4] * 3 + [[1.5, -0.5, 0, 0]]), [0, 1, 2, 3], "1 of 4 images"),
    ],
)
def test_what_cannot_be_scored_is_said(
    probabilities: NDArray[np.float64], labels: list[int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        score(probabilities, labels, CLASSES)


def test_all_problems_are_said_at_once() -> None:
    with pytest.raises(UserError) as error:
        score(np.full((2, 2), 0.3), [0, 0], ("a", "b"))
    assert len(error.value.problems) == 2
