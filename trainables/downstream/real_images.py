"""Which real images a classifier learns from: a share of those for training, and what an imbalance left out beyond.

The sets of all shares are nested, so that a row of them is a learning curve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from trainables.data.labelled_images import LabelledImage, counts_of
from trainables.data.labelled_subsets import ranked
from trainables.errors import UserError
from trainables.evaluation.class_data_sets import ClassDataSet
from trainables.evaluation.prepared_classes import LEFT_OUT
from trainables.util.text import some

_SEED = 0  # of the order in which smaller sets are filled, the same for every run


def real_images(data: ClassDataSet, share: float) -> tuple[LabelledImage, ...]:
    """Returns the images of a share: 1 is `data.train`, 0 is none, above 1 `data.left_out` comes in.

    Of each class it is the share of its training images, to the nearest number and one at least. A class of which less
    was left out has all that there is.

    Raises:
        UserError: No class has so many images.
    """
    if share == 0:
        return ()
    there = counts_of(data.train, data.classes)
    problem = share_problem(there, counts_of(data.left_out, data.classes), share)
    if problem is not None:
        raise UserError(problem)
    wanted = _wanted(there, share)
    kept: set[str] = set()
    for label in data.classes:
        order = [*_ranked(data.train, label), *_ranked(data.left_out, label)]
        kept |= {image.name for image in order[: wanted[label]]}
    # Training images first, as they are without the others: an image keeps its place whatever the share adds.
    return tuple(image for image in (*data.train, *data.left_out) if image.name in kept)


def share_problem(there: Mapping[str, int], further: Mapping[str, int], share: float) -> str | None:
    """Returns why no class has the images of a share; None if one has.

    Args:
        there: Training images of each class; `further`: those that were left out.
    """
    wanted = _wanted(there, share)
    lacking = [label for label in there if wanted[label] > there[label] + further[label]]
    if len(lacking) < len(there):
        return None
    said = [f"{label!r} {wanted[label]} of {there[label] + further[label]}" for label in lacking]
    return (
        f"real_share {share:g} asks for more images of every class than there are to train on: {some(said)} "
        f"({LEFT_OUT!r} images among them); take a smaller share"
    )


def _wanted(there: Mapping[str, int], share: float) -> dict[str, int]:
    return {label: max(1, math.floor(share * count + 0.5)) for label, count in there.items()}


def _ranked(images: Sequence[LabelledImage], label: str) -> list[LabelledImage]:
    return ranked((image for image in images if image.label == label), _SEED)
