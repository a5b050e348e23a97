"""The data set ``digits``: real images as a control, 1,797 handwritten digits that come with scikit-learn.

Each has 8x8 pixels of 17 grey levels; they are spread over 0..255 (rounded half to even), enlarged to 64x64 by Pillow's
bicubic filter and repeated in three channels: white ink on black. Nobody knows who wrote which, so there are no groups.
Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (CC BY 4.0), its test part.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

from trainables.embedded.class_folder import ClassPicture, ClassSet

if TYPE_CHECKING:
    from PIL import Image

RARE, KEPT = 8, 0.1  # the digit that is rare by default, and the share of its images that is kept
_LEVELS = 16  # the brightest of scikit-learn's values
_SIDE = 64
_SEED = 2024


def digits(rare: int | None = RARE, kept: float = KEPT) -> ClassSet:
    """Returns the digits as a set of ten classes, ``digit-0`` to ``digit-9``, in scikit-learn's order.

    Args:
        rare: The digit of which most images are left out; None leaves out none.
        kept: Share of its images that stays, above 0 and at most 1, rounded, but one at least. Which ones is drawn from
            a fixed seed; a larger share has those of a smaller one.

    Raises:
        ValueError: An argument is none of these; the message names all of them.
        ModuleNotFoundError: scikit-learn is not installed.
    """
    import numpy as np

    problems = []
    if rare is not None and rare not in range(10):
        problems.append(f"the rare digit must be 0 to 9, or None, not {rare}")
    if not 0 < kept <= 1:
        problems.append(f"the share that is kept must be above 0 and at most 1, not {kept}")
    if problems:
        raise ValueError("\n".join(problems))
    _, labels = _data()
    numbers = list(range(len(labels)))
    if rare is not None:
        of_rare = [number for number in numbers if labels[number] == rare]
        order = np.random.default_rng([_SEED, rare]).permutation(len(of_rare))
        left_out = {of_rare[int(place)] for place in order[max(1, round(kept * len(of_rare))) :]}
        numbers = [number for number in numbers if number not in left_out]
    pictures = tuple(ClassPicture(f"digit-{number:04}", f"digit-{labels[number]}") for number in numbers)
    return ClassSet(
        "digits", tuple(f"digit-{digit}" for digit in range(10)), pictures, partial(_images, tuple(numbers))
    )


@cache
def _data() -> tuple[tuple[bytes, ...], tuple[int, ...]]:
    """Of each image the 64 grey values and the digit."""
    import numpy as np

    try:
        from sklearn.datasets import load_digits  # not named in pyproject.toml: mlflow requires scikit-learn
    except ModuleNotFoundError as error:
        if error.name not in ("sklearn", "sklearn.datasets"):
            raise
        raise ModuleNotFoundError(
            "the data set digits comes with scikit-learn, which is not installed (mlflow brings it, mlflow-skinny does "
            "not): pip install scikit-learn",
            name=error.name,
        ) from None
    loaded = load_digits()
    grey = np.round(loaded.images * (255 / _LEVELS)).astype(np.uint8)
    return tuple(image.tobytes() for image in grey), tuple(int(label) for label in loaded.target)


@cache
def _images(numbers: tuple[int, ...]) -> tuple[Image.Image, ...]:
    from PIL import Image

    grey, _ = _data()
    return tuple(
        Image.frombytes("L", (8, 8), grey[number])
        .resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        .convert("RGB")
        for number in numbers
    )
