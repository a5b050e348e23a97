"""What a classifier is worth on test images: scores from its probabilities of the classes.

All are in [0, 1], and higher is better but for the calibration error. Chance is 1 / classes for balanced accuracy and
1/2 for AUROC, whatever the shares of the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainables.errors import UserError
from trainables.util.text import some

ECE_BINS = 15  # Guo et al. 2017, arXiv 1706.04599
_SUM_TOLERANCE = 1e-3  # of the probabilities of an image: those of single precision miss 1 by less


@dataclass(frozen=True)
class Scores:
    """Scores on a test set.

    Attributes:
        images: Number of test images.
        accuracy: Share of images whose most probable class is the right one (the first of equal ones).
        balanced_accuracy: Mean of the recalls of the classes.
        macro_f1: Mean over classes of F1; 0 for one that is never predicted rightly.
        auroc: Mean over classes of the area under the curve of one class against the rest: the chance that an image of
            the class has a higher probability of it than an image of another, ties counted half (Hanley and McNeil
            1982).
        recall: By class.
        ece: Expected calibration error: the mean over images of the difference between accuracy and confidence in
            their bin, of 15 bins of equal width.
        confusion: Number of images, one row for each right class, one column for each predicted one.
    """

    images: int
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    auroc: float
    recall: dict[str, float]
    ece: float
    confusion: tuple[tuple[int, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns the scores as JSON values."""
        content = asdict(self)
        return content | {"confusion": [list(row) for row in self.confusion]}


def score(probabilities: ArrayLike, labels: ArrayLike, classes: Sequence[str]) -> Scores:
    """Returns all scores of a test set.

    Args:
        probabilities: Of each class, shape (images, classes); rows sum to 1.
        labels: The right class of each image, from 0, shape (images,).
        classes: Their names.

    Raises:
        UserError: With a message for each thing that is wrong, such as classes that no test image is of.
    """
    values, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    problems = _problems(values, truth, classes)
    if problems:
        raise UserError(*problems)
    confusion = confusion_matrix(truth, values.argmax(1), len(classes))
    recalls = _recalls(confusion)
    return Scores(
        images=len(truth),
        accuracy=float(np.trace(confusion) / len(truth)),
        balanced_accuracy=float(recalls.mean()),
        macro_f1=macro_f1(confusion),
        auroc=auroc(values, truth),
        recall={name: float(recall) for name, recall in zip(classes, recalls, strict=True)},
        ece=expected_calibration_error(values, truth),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def missing_classes(labels: ArrayLike, classes: Sequence[str]) -> list[str]:
    """Returns the names of the classes that no label is of."""
    there = set(np.asarray(labels).tolist())
    return [name for number, name in enumerate(classes) if number not in there]


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Returns counts, shape (classes, classes): right classes in rows, predicted ones in columns."""
    pairs = np.asarray(labels) * classes + np.asarray(predicted)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def balanced_accuracy(confusion: NDArray[np.int64]) -> float:
    """Returns the mean recall of the classes; each has an image."""
    return float(_recalls(confusion).mean())


def macro_f1(confusion: NDArray[np.int64]) -> float:
    """Returns the mean over classes of 2 TP / (2 TP + FP + FN); each has an image."""
    right = np.diag(confusion)
    return float(np.mean(2 * right / (confusion.sum(0) + confusion.sum(1))))


def auroc(probabilities: NDArray[np.float64], labels: NDArray[Any]) -> float:
    """Returns the mean over classes of the area under the ROC curve of one against the rest; each has an image."""
    from scipy.stats import rankdata

    areas = []
    for number in range(probabilities.shape[1]):
        inside = labels == number
        count, others = int(inside.sum()), int((~inside).sum())
        ranks = rankdata(probabilities[:, number])[inside].sum()
        areas.append((ranks - count * (count + 1) / 2) / (count * others))
    return float(np.mean(areas))


def expected_calibration_error(
    probabilities: NDArray[np.float64], labels: NDArray[Any], bins: int = ECE_BINS
) -> float:
    """Returns the sum over bins of their share of images times |accuracy - confidence| (Guo et al. 2017, equation 3).

    A bin holds the confidences above its lower end, up to and with its upper one.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(places, right - confidence, minlength=bins)  # in each bin images times difference
    return float(np.abs(gaps).sum() / len(labels))


def _recalls(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    recalls: NDArray[np.float64] = np.diag(confusion) / confusion.sum(1)
    return recalls


def _problems(values: NDArray[np.float64], truth: NDArray[Any], classes: Sequence[str]) -> list[str]:
    count = len(classes)
    problems = []
    if count < 2 or len(set(classes)) < count:
        problems.append(
            f"scores need at least 2 classes of different names, got {', '.join(classes) or 'none'}"
        )
    if truth.ndim != 1 or values.shape != (len(truth), count) or not len(truth):
        return [
            *problems,
            f"probabilities of {len(classes)} classes have shape (images, {count}) and labels (images,), got "
            f"{values.shape} and {truth.shape}",
        ]
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= count:
        return [
            *problems,
            f"labels are whole numbers from 0 to {count - 1}, got {sorted(set(truth.tolist()))[:8]}",
        ]
    bad = ~np.isfinite(values).all(1) | (values < 0).any(1) | (abs(values.sum(1) - 1) > _SUM_TOLERANCE)
    if bad.any():
        first = int(np.argmax(bad))
        problems.append(
            f"probabilities of an image are finite, at least 0 and sum to 1; {int(bad.sum())} of {len(truth)} images "
            f"have others, the first is image {first}: {values[first].tolist()[:8]}"
        )
    if missing := missing_classes(truth, classes):
        problems.append(
            f"no test image is of {some(missing)}, so that recall and AUROC of {'it' if len(missing) == 1 else 'them'} "
            "are not known; put images of every class into the test set"
        )
    return problems
