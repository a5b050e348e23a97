"""Scores of classifiers on test images that count with weights, so that all resamples are reckoned at once.

Each is scikit-learn's with `sample_weight`: ``accuracy``, ``balanced_accuracy`` (mean recall over classes),
``macro_f1``, ``auroc`` (one class against the rest, mean over classes; of two classes that of the second),
``recall:K`` of class K; and ``ece``, the expected calibration error with 15 bins of equal width of the highest
probability (Guo et al. 2017, arXiv:1706.04599), which is too large on few images, for all arms alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from study.statistics.downstream.images import Floats, ImageDraws, LabelledImages, Runs, Unusable

BINS = 15
_RECALL = "recall:"


def scores_of(name: str, images: LabelledImages, runs: Runs, draws: ImageDraws) -> Floats:
    """A score of every run, of the test images and of each resample.

    Args:
        name: See above.

    Returns:
        Shape ``(1 + resamples, generators, classifiers)``, 0 to 1; the first is of the test images themselves.

    Raises:
        Unusable: No such score, or the runs lack what it needs.
    """
    if name.startswith(_RECALL):
        found = _recalls(images, runs, draws.weights, [_class_of(name, images)])[0]
    elif name in _SCORES:
        found = _SCORES[name](images, runs, draws.weights)
    else:
        raise Unusable([f"no score {name!r}; there are {', '.join(_SCORES)} and {_RECALL}CLASS"])
    return found.reshape(len(draws.weights), *runs.shape)


def direction_of(name: str) -> Literal[1, -1]:
    """1 where larger is better, -1 where smaller is."""
    return -1 if name == "ece" else 1


def _class_of(name: str, images: LabelledImages) -> int:
    number = name.removeprefix(_RECALL)
    if not number.isdecimal() or int(number) >= images.classes:
        raise Unusable([f"{_RECALL}K takes a class between 0 and {images.classes - 1}, got {name!r}"])
    return int(number)


def _accuracy(images: LabelledImages, runs: Runs, weights: Floats) -> Floats:
    return weights @ runs.correct_of(images).T.astype(float) / weights.sum(-1, keepdims=True)


def _recalls(images: LabelledImages, runs: Runs, weights: Floats, classes: list[int]) -> list[Floats]:
    correct = runs.correct_of(images).T.astype(float)
    found = []
    for k in classes:
        inside = images.labels == k
        own = weights[:, inside]
        found.append(own @ correct[inside] / own.sum(-1, keepdims=True))
    return found


def _balanced_accuracy(images: LabelledImages, runs: Runs, weights: Floats) -> Floats:
    return np.mean(_recalls(images, runs, weights, list(range(images.classes))), axis=0)


def _macro_f1(images: LabelledImages, runs: Runs, weights: Floats) -> Floats:
    predicted = runs.predicted_of(images).T
    total = np.zeros((len(weights), predicted.shape[1]))
    for k in range(images.classes):
        taken, inside = (predicted == k).astype(float), images.labels == k
        right = weights[:, inside] @ taken[inside]
        total += 2 * right / (weights @ taken + weights[:, inside].sum(-1, keepdims=True))
    return total / images.classes


def _auroc(images: LabelledImages, runs: Runs, weights: Floats) -> Floats:
    """From placements: of each image of a class the share of the others that it beats, and so for the others.

    A resample's area is the mean placement of the class plus that of the others less the area itself (DeLong, DeLong
    and Clarke-Pearson 1988, doi:10.2307/2531595), which is the area but for a part that varies as 1 / (images x
    others) does.
    """
    probabilities = runs.probabilities_of(images)
    classes = [1] if images.classes == 2 else range(images.classes)
    found = np.zeros((len(weights), len(probabilities)))
    for k in classes:
        inside = images.labels == k
        ranks = stats.rankdata(probabilities[..., k], axis=-1)
        beaten = ranks[:, inside] - stats.rankdata(probabilities[:, inside, k], axis=-1)
        behind = ranks[:, ~inside] - stats.rankdata(probabilities[:, ~inside, k], axis=-1)
        own, others = weights[:, inside], weights[:, ~inside]
        wins = own @ (beaten.T / (~inside).sum()) / own.sum(-1, keepdims=True)
        losses = others @ (behind.T / inside.sum()) / others.sum(-1, keepdims=True)
        found += wins - losses + 1 - beaten.mean(-1) / (~inside).sum()
    return found / len(classes)


def _ece(images: LabelledImages, runs: Runs, weights: Floats) -> Floats:
    probabilities, correct = runs.probabilities_of(images), runs.correct_of(images)
    confidence = probabilities.max(-1)
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    found = np.empty((len(weights), len(probabilities)))
    for run in range(len(probabilities)):
        gaps = np.eye(BINS)[bins[run]] * (correct[run] - confidence[run])[:, None]
        found[:, run] = np.abs(weights @ gaps).sum(-1)
    return found / weights.sum(-1, keepdims=True)


def confusion_matrix(images: LabelledImages, runs: Runs) -> NDArray[np.int64]:
    """Images by class and by the class that they were taken for, shape ``(generators, classifiers, class, taken)``."""
    predicted = runs.predicted_of(images)
    found = np.zeros((len(predicted), images.classes, images.classes), dtype=np.int64)
    for run, taken in enumerate(predicted):
        np.add.at(found[run], (images.labels, taken), 1)
    return found.reshape(*runs.shape, images.classes, images.classes)


_SCORES: dict[str, Callable[[LabelledImages, Runs, Floats], Floats]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "auroc": _auroc,
    "ece": _ece,
}
