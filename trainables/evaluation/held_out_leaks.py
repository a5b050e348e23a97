"""Whether images that something learns from are held out as well: the same pixels, or nearly the same picture.

Asked when a data set is split, and again before anything trains (`assert_no_leak`), of generated images too. Copies are
found where they were compressed anew, resized, mirrored, brightened, slightly shifted, or cut along the longer side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainables.data.labelled_images import LabelledImage, Look
from trainables.errors import UserError
from trainables.evaluation.near_copies import Pairs, near_pairs
from trainables.util.text import shown, some


@dataclass(frozen=True)
class Leak:
    """An image that is learnt from, and a held-out one that shows the same.

    Attributes:
        is_exact: They have the same pixels; otherwise nearly the same.
    """

    trained: LabelledImage
    held_out: LabelledImage
    is_exact: bool

    def __str__(self) -> str:
        return f"{shown(self.held_out.name)} (as {shown(self.trained.name)})"


def leaks(
    training: Sequence[LabelledImage], held_out: Sequence[LabelledImage], *, near: bool = True
) -> tuple[Leak, ...]:
    """Returns every pair of images of which one is learnt from and one held out, and which show the same.

    Files are looked at as they are now, whatever they were when the data set was read.

    Args:
        near: Look for pictures that are nearly the same, too. Off, only equal pixels count: for worlds in which honest
            new images look like old ones, as handwritten digits do.

    Raises:
        UserError: Files cannot be read; all of them are named.
    """
    return _leaks(training, held_out, _looked_at([*training, *held_out]), near)


def _leaks(
    training: Sequence[LabelledImage], held_out: Sequence[LabelledImage], looks: Sequence[Look], near: bool
) -> tuple[Leak, ...]:
    """See `leaks`; the looks are those of all images, in this order."""
    trained, kept = looks[: len(training)], looks[len(training) :]
    pairs = dict.fromkeys(map(tuple, _same_pixels(trained, kept).tolist()), True)
    if near:
        for pair in near_pairs([one.small for one in trained], [one.small for one in kept]).tolist():
            pairs.setdefault(tuple(pair), False)
    return tuple(
        Leak(training[row], held_out[column], is_exact) for (row, column), is_exact in sorted(pairs.items())
    )


def assert_no_leak(
    training: Sequence[LabelledImage], held_out: Sequence[LabelledImage], *, near: bool = True
) -> None:
    """Raises unless nothing that is held out is learnt from: to be called before a generator or a classifier trains.

    Args:
        training: Of the data set, or generated.
        held_out: To validate and to test with.
        near: As for `leaks`.

    Raises:
        UserError: Naming both images of each pair, files that cannot be read, and those whose pixels have changed since
            the data set was split.
    """
    both = [*training, *held_out]
    looks = _looked_at(both)
    problems = leak_problems(_leaks(training, held_out, looks, near), "trained on and held out")
    changed = [
        shown(image.name) for image, look in zip(both, looks, strict=True) if look.digest != image.digest
    ]
    if changed:
        problems.append(
            f"images whose pixels are no longer those that were split: {some(changed)}; split them again"
        )
    if problems:
        raise UserError(*problems)


def leak_problems(found: Sequence[Leak], where: str) -> list[str]:
    """Returns leaks in words: one message for those of the same pixels, one for the others.

    Args:
        where: Words for the two sides, as "in train and in test".
    """
    told = (
        ([leak for leak in found if leak.is_exact], "the same picture is"),
        ([leak for leak in found if not leak.is_exact], "nearly the same picture is"),
    )
    return [
        f"{begin} {where}: {some([str(leak) for leak in some_of])}; what is learnt of one is known of "
        "the other: remove one, or give both the same group"
        for some_of, begin in told
        if some_of
    ]


def copies_among(images: Sequence[LabelledImage]) -> tuple[Pairs, Pairs]:
    """Returns the pairs of images that have the same pixels, and those that nearly show the same or cuts of it.

    Returns:
        Two arrays of numbers of images, shape (pairs, 2), the first smaller, in order; no pair is in both.

    Raises:
        UserError: As `leaks`.
    """
    found = _looked_at(images)
    small = [one.small for one in found]
    exact, near = _same_pixels(found, found), near_pairs(small, small)
    exact = exact[exact[:, 0] < exact[:, 1]]
    near = np.unique(np.sort(near[near[:, 0] != near[:, 1]], axis=1), axis=0)
    known = set(map(tuple, exact.tolist()))
    return exact, near[np.array([pair not in known for pair in map(tuple, near.tolist())], dtype=np.bool_)]


def _looked_at(images: Sequence[LabelledImage]) -> list[Look]:
    found: list[Look] = []
    problems: list[str] = []
    for image in images:
        try:
            found.append(image.look())
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return found


def _same_pixels(looks: Sequence[Look], others: Sequence[Look]) -> Pairs:
    """Pairs of numbers of those that have the same digest."""
    places: dict[str, list[int]] = {}
    for number, look in enumerate(others):
        places.setdefault(look.digest, []).append(number)
    pairs = [(row, column) for row, look in enumerate(looks) for column in places.get(look.digest, ())]
    return np.array(pairs, dtype=np.intp).reshape(-1, 2)
