"""Data sets with classes that come with the project, by name: graded lesions, and real digits as a control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

from trainables.embedded.class_folder import ClassPicture, ClassSet
from trainables.embedded.graded_lesions import (
    ANIMALS,
    GRADED_LESIONS,
    IMAGES,
    SHARES,
    LesionPicture,
    lesion_pictures,
)
from trainables.embedded.lesions import SCORES

if TYPE_CHECKING:
    from PIL import Image

DIGITS = "digits"
LARGE = "graded-lesions-large"  # of the first kind of animal, for test sets that can tell small differences
LARGE_IMAGES, LARGE_ANIMALS = 1000, 100
CLASS_SETS = {
    **{name: f"{class_name}s with a lesion of score 1 to 4" for name, class_name in GRADED_LESIONS.items()},
    LARGE: f"{LARGE_IMAGES:,} pictures of {LARGE_ANIMALS} cats with a lesion of score 1 to 4",
    DIGITS: "scikit-learn's handwritten digits, all of them",
}


def load_class_set(name: str) -> ClassSet:
    """Returns the set of this name as it is by default; draws nothing.

    Raises:
        ValueError: There is none; the message tells which names there are.
        ModuleNotFoundError: The digits are asked for, and scikit-learn is not installed.
    """
    if name == DIGITS:
        from trainables.embedded.digits import digits

        return digits(rare=None)
    if name == LARGE:
        return replace(graded_lesions(images=LARGE_IMAGES, animals=LARGE_ANIMALS), name=LARGE)
    if name not in GRADED_LESIONS:
        raise ValueError(
            f"no data set {name!r} with classes comes with the project; there are: {', '.join(CLASS_SETS)}"
        )
    return graded_lesions(name)


def animal_of(name: str | None) -> str | None:
    """Returns the kind of animal of a set of graded lesions, e.g. "cat"; None for any other set, or none."""
    return GRADED_LESIONS["graded-lesions"] if name == LARGE else GRADED_LESIONS.get(name or "")


def graded_lesions(
    name: str = "graded-lesions",
    images: int = IMAGES,
    animals: int = ANIMALS,
    shares: Sequence[float] = SHARES,
) -> ClassSet:
    """Returns `lesion_pictures` as a set of four classes, ``score-1`` to ``score-4``, whose groups are the animals.

    Raises:
        ValueError: As `lesion_pictures`.
    """
    pictures = lesion_pictures(name, images, animals, shares)
    return class_set_of(name, pictures)


def class_set_of(name: str, pictures: Sequence[LesionPicture]) -> ClassSet:
    """Returns pictures of lesions, such as `further_pictures`, as a set of the four scores."""
    kept = tuple(pictures)
    return ClassSet(
        name,
        tuple(f"score-{score}" for score in SCORES),
        tuple(ClassPicture(one.name, f"score-{one.score}", one.animal, one.severity) for one in kept),
        partial(_drawn, kept),
    )


@cache
def _drawn(pictures: tuple[LesionPicture, ...]) -> tuple[Image.Image, ...]:
    return tuple(one.draw() for one in pictures)  # seconds for hundreds: once a process
