"""Test images, what the classifiers of an arm said of them, and resamples of the images.

Resampling takes whole groups (animals, patients), since images of one group are alike, and is stratified by class. A
score of a class that is missing does not exist, and of a rare class that would be so in many resamples: with five
images, in one of 150. Inference is then about test sets with this one's number of images of each class, as usual for
ROC curves (Robin et al. 2011, pROC, doi:10.1186/1471-2105-12-77).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

RESAMPLES = 2_000  # tell a standard error to 1.6 %
_ATTEMPTS = 1_000  # at a resample that holds every class


class Unusable(ValueError):
    """Test images or predictions that no score can be reckoned from; `problems` has all that is wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


@dataclass(frozen=True)
class LabelledImages:
    """The test images, in the order of all predictions.

    Attributes:
        labels: Class of each, 0 to `classes` - 1, shape ``(images,)``.
        classes: Number of classes, at least 2.
        groups: Number of the group that each is from, shape ``(images,)``; None: each image by itself.

    Raises:
        Unusable: Shapes or labels are wrong, or a class is in fewer than two groups (images): how it varies is
        unknown.
    """

    labels: Integers
    classes: int
    groups: Integers | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.classes < 2:
            problems.append(f"at least two classes are needed, got {self.classes}")
        if self.labels.ndim != 1 or not np.issubdtype(self.labels.dtype, np.integer):
            problems.append(f"labels are a row of whole numbers, got {_kind(self.labels)}")
        elif self.labels.size and not 0 <= self.labels.min() <= self.labels.max() < self.classes:
            found = f"{self.labels.min()} to {self.labels.max()}"
            problems.append(f"labels lie between 0 and {self.classes - 1}, got {found}")
        if self.groups is not None and self.groups.shape != self.labels.shape:
            problems.append(f"one group an image: {self.labels.size} images, groups {self.groups.shape}")
        if not problems:
            problems = self._too_few()
        if problems:
            raise Unusable(problems)

    def _too_few(self) -> list[str]:
        what = "image" if self.groups is None else "group"
        counts = [np.unique(self.units[self.labels == k]).size for k in range(self.classes)]
        return [
            f"each class needs test images of at least two {what}s, class {k} has {count}"
            for k, count in enumerate(counts)
            if count < 2
        ]

    @cached_property
    def units(self) -> Integers:
        """Which unit of resampling each image belongs to, 0 to their number - 1."""
        if self.groups is None:
            return np.arange(self.labels.size)
        return np.unique(self.groups, return_inverse=True)[1].astype(np.int64)

    @cached_property
    def strata(self) -> Integers:
        """Of each unit, the rarest of its classes: the class whose number of units is kept in every resample.

        A stratum of one unit, which would never vary, joins the largest one.
        """
        sizes = np.bincount(self.labels, minlength=self.classes)
        rarity = np.argsort(np.argsort(sizes, kind="stable"))  # 0: the rarest
        found = np.full(int(self.units.max()) + 1, self.classes)
        np.minimum.at(found, self.units, rarity[self.labels])
        strata = np.argsort(rarity)[found]
        counts = np.bincount(strata, minlength=self.classes)
        return np.where(counts[strata] > 1, strata, counts.argmax())


@dataclass(frozen=True)
class Runs:
    """What the classifiers of one arm said of the test images, each trained with another seed.

    One of the three arrays is needed. Their first axes are generator seeds and classifier seeds; arms without
    generated images have no generator seeds, and arrays without that axis.

    Attributes:
        classifier_seeds: Their numbers; runs of two arms with equal numbers are compared with each other.
        generator_seeds: Of the generators whose images they were trained on.
        probabilities: Of each class, sum 1, shape ``(generators, classifiers, images, classes)``.
        predicted: The class that each image was taken for, shape ``(generators, classifiers, images)``.
        correct: Whether it was its own; enough for accuracies and recalls.

    Raises:
        Unusable: Arrays are missing, of another shape than seeds say, or not finite; seeds come twice.
    """

    classifier_seeds: tuple[int, ...]
    generator_seeds: tuple[int, ...] = ()
    probabilities: Floats | None = None
    predicted: Integers | None = None
    correct: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        seeds = ((len(self.generator_seeds),) if self.generator_seeds else ()) + (len(self.classifier_seeds),)
        problems = []
        for name, axes in (("classifier", self.classifier_seeds), ("generator", self.generator_seeds)):
            if len(set(axes)) < len(axes):
                problems.append(f"{name} seeds come once each, got {', '.join(map(str, axes))}")
        given = {name: getattr(self, name) for name in ("probabilities", "predicted", "correct")}
        if all(array is None for array in given.values()):
            problems.append(f"one of {', '.join(given)} is needed")
        for name, array in given.items():
            if array is None:
                continue
            rest = 2 if name == "probabilities" else 1
            if array.ndim != len(seeds) + rest or array.shape[: len(seeds)] != seeds:
                problems.append(
                    f"{name}: {seeds} seeds and {rest} more axes are expected, got shape {array.shape}"
                )
            elif not np.isfinite(array).all():
                problems.append(f"{name}: {(~np.isfinite(array)).sum()} values are not finite")
        if problems:
            raise Unusable(problems)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of generator seeds (1 without) and of classifier seeds."""
        return max(1, len(self.generator_seeds)), len(self.classifier_seeds)

    def probabilities_of(self, images: LabelledImages) -> Floats:
        """Shape ``(runs, images, classes)``."""
        return self._rows(self.probabilities, "probabilities", (images.labels.size, images.classes))

    def predicted_of(self, images: LabelledImages) -> Integers:
        """Shape ``(runs, images)``; of equal probabilities the first class."""
        if self.predicted is None and self.probabilities is not None:
            return self.probabilities_of(images).argmax(-1)
        return self._rows(self.predicted, "predicted", images.labels.shape)

    def correct_of(self, images: LabelledImages) -> NDArray[np.bool_]:
        """Shape ``(runs, images)``."""
        if self.predicted is None and self.probabilities is None:
            return self._rows(self.correct, "correct", images.labels.shape)
        return np.asarray(self.predicted_of(images) == images.labels)

    def _rows(self, array: NDArray | None, name: str, shape: tuple[int, ...]) -> NDArray:
        if array is None:
            raise Unusable([f"this score needs {name}"])
        rows = array.reshape(-1, *array.shape[-len(shape) :])
        if rows.shape[1:] != shape:
            raise Unusable([f"{name} of {shape} images (and classes) are expected, got {rows.shape[1:]}"])
        return rows


@dataclass(frozen=True)
class ImageDraws:
    """How often each test image counts, in the test set itself and in its resamples; the same for all arms and scores.

    Attributes:
        weights: Shape ``(1 + resamples, images)``; the first row is the test set itself, all ones.
        freedom: Degrees of freedom of a variance over them: units less strata.
    """

    weights: Floats
    freedom: int


def draw_images(images: LabelledImages, rng: np.random.Generator, resamples: int = RESAMPLES) -> ImageDraws:
    """Resamples the test images by group within each class.

    Of the m units of a stratum m - 1 are drawn with replacement, and count m / (m - 1) times: the variance of a mean
    is then right, where that of m draws is too small by (m - 1) / m, much for a rare class (McCarthy and Snowden
    1985, The bootstrap and finite population sampling; Rao and Wu 1988, doi:10.1080/01621459.1988.10478591). A group
    that holds several classes is in the stratum of its rarest one; resamples in which another class vanishes are
    drawn anew.

    Raises:
        Unusable: A class vanishes nearly always.
    """
    units = _draw_units(images.strata, rng, resamples)
    for _ in range(_ATTEMPTS):
        lost = np.flatnonzero(_misses_a_class(units[:, images.units], images))
        if not lost.size:
            break
        units[lost] = _draw_units(images.strata, rng, lost.size)
    else:
        raise Unusable(["too few groups: most resamples of them miss a class"])
    weights = np.concatenate([np.ones((1, images.labels.size)), units[:, images.units]])
    return ImageDraws(weights, images.strata.size - np.unique(images.strata).size)


def _draw_units(strata: Integers, rng: np.random.Generator, resamples: int) -> Floats:
    found = np.ones((resamples, strata.size))
    for stratum in np.unique(strata):
        inside = np.flatnonzero(strata == stratum)
        m = inside.size
        if m > 1:
            cells = rng.integers(0, m, (resamples, m - 1)) + m * np.arange(resamples)[:, None]
            counts = np.bincount(cells.ravel(), minlength=resamples * m).reshape(resamples, m)
            found[:, inside] = counts * (m / (m - 1))
    return found


def _misses_a_class(weights: Floats, images: LabelledImages) -> NDArray[np.bool_]:
    """Which resamples miss a class."""
    totals = weights @ np.eye(images.classes)[images.labels]
    return np.asarray((totals <= 0).any(-1))


def _kind(array: ArrayLike) -> str:
    found = np.asarray(array)
    return f"{found.dtype} of shape {found.shape}"
