"""What a classifier says of held-out images: ``predictions.csv``, and scores under the names of evaluations."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.classifiers.scores import Scores
from trainables.data.labelled_images import LabelledImage
from trainables.util.files import replacing

VALIDATION, TEST = "validation", "test"
NAMES = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece")
RECALL = "recall/"  # and the name of the class's folder
HEAD = ("part", "image", "group", "label")

Parts = Sequence[tuple[str, Sequence[LabelledImage], NDArray[np.float64]]]


def write_predictions(path: Path, classes: Sequence[str], parts: Parts) -> int:
    """Writes probabilities, [images, classes], of the images of each part in one step; returns the size in bytes.

    Columns: part, image (its name in the prepared folder), group, label (the number of its class), and ``p0``, ``p1``,
    ... with 6 significant digits.
    """
    numbers = {label: number for number, label in enumerate(classes)}
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*HEAD, *(f"p{number}" for number in range(len(classes)))])
        for part, images, probabilities in parts:
            for image, row in zip(images, probabilities.tolist(), strict=True):
                said = [f"{value:.6g}" for value in row]
                writer.writerow([part, image.name, image.group, numbers[image.label], *said])
    return path.stat().st_size


def metrics_of(
    validation: Scores, test: Scores | None, folders: Mapping[str, str]
) -> dict[str, float | None]:
    """Returns the metrics of an evaluation; those of test images alone have no word before them.

    Args:
        folders: Of each class the name of its folders.
    """
    found: dict[str, float | None] = {f"{VALIDATION}_{name}": getattr(validation, name) for name in NAMES}
    if test is not None:
        found |= {name: getattr(test, name) for name in NAMES}
        found |= {f"{RECALL}{folders[label]}": value for label, value in test.recall.items()}
    return found
