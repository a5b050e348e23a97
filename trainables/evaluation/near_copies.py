"""Which images of two sets are nearly one picture, or one a plain cut of the other: whole images, whatever their shape.

``copies.py`` compares squares. Here an image is a thumbnail whose shorter side is as long as these, and is seen
through squares along its longer side: two are one picture if their ratios of sides are alike and what is in the
middle and at both ends is, and one is cut from the other if all of it is found along the other. So two panoramas with
one middle are two pictures.

Found are cuts that keep the shorter side, wherever along the longer one they begin: a landscape cut to a square, or
to a less wide landscape. Not found, since that takes a search over places and sizes for each pair, are cuts of both
sides (details that are enlarged) but for a few per cent, and portraits that are cut out of landscapes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainables.evaluation.copies import SHIFT, SIDE, copy_pairs

SAME_RATIO = 0.06  # |log ratio| of alike shapes: a cut of twice the shift that `copies` allows for

Size = tuple[int, int]  # width and height in pixels
Pairs = NDArray[np.intp]  # shape (pairs, 2), in order


def near_pairs(images: Sequence[Image.Image], others: Sequence[Image.Image], *, cuts: bool = True) -> Pairs:
    """Returns the numbers of images and others that show one picture, or of which one is cut from the other.

    Args:
        images: Thumbnails of whole images (`trainables.data.images.thumbnail`, of `copies.SIDE` pixels).
        others: Likewise; the same object is a copy of itself, unless it is flat.
        cuts: Look for cuts too, which takes the longer the more shapes there are: an image of another shape is looked
            for in some ten squares of each.
    """
    shapes, other_shapes = _shapes(images), _shapes(others)
    found = [_alike(images, others, shapes, other_shapes)]
    if cuts:
        found.append(_cuts(images, others, shapes, other_shapes))
        found.append(_cuts(others, images, other_shapes, shapes)[:, ::-1])
    return np.unique(np.concatenate(found), axis=0)


def groups_of(count: int, pairs: Pairs) -> list[list[int]]:
    """Returns numbers below `count` that pairs hold together, directly or through others: groups of two and more, each
    ascending, in the order of their first.
    """
    above = list(range(count))

    def root(number: int) -> int:
        while above[number] != number:
            above[number] = above[above[number]]
            number = above[number]
        return number

    for one, other in pairs.tolist():
        first, second = sorted((root(one), root(other)))
        above[second] = first
    groups: dict[int, list[int]] = {}
    for number in range(count):
        groups.setdefault(root(number), []).append(number)
    return [group for group in groups.values() if len(group) > 1]


def _shapes(images: Sequence[Image.Image]) -> NDArray[np.float64]:
    """Logarithms of width by height: 0 is a square, portraits are below."""
    return np.array([math.log(image.width / image.height) for image in images], dtype=np.float64)


class _Views(Sequence[Image.Image]):
    """Squares of images, cut when they are asked for: all of them at once would take gigabytes.

    Attributes:
        owners: Number of the image of each.
    """

    def __init__(
        self, images: Sequence[Image.Image], numbers: Iterable[int], places: Callable[[Size], list[int]]
    ) -> None:
        self._images = images
        self._cuts = [(number, place) for number in numbers for place in places(images[number].size)]
        self.owners = np.array([number for number, _ in self._cuts], dtype=np.intp)

    def __len__(self) -> int:
        return len(self._cuts)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...

    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number, place = self._cuts[index]
        image = self._images[number]
        if _is_square(image.size):
            return image
        left, top = (place, 0) if image.width > image.height else (0, place)
        return image.crop((left, top, left + SIDE, top + SIDE))


def _alike(
    images: Sequence[Image.Image],
    others: Sequence[Image.Image],
    shapes: NDArray[np.float64],
    other_shapes: NDArray[np.float64],
) -> Pairs:
    """Pairs of one shape that show one picture."""
    middles = _Views(images, range(len(images)), _middle)
    of_others = middles if others is images else _Views(others, range(len(others)), _middle)
    pairs = np.stack(copy_pairs(middles, of_others), axis=1)
    pairs = pairs[np.abs(shapes[pairs[:, 0]] - other_shapes[pairs[:, 1]]) <= SAME_RATIO]
    itself = np.array([images[i] is others[j] for i, j in pairs.tolist()], dtype=np.bool_)
    return np.concatenate([pairs[itself], _confirmed(pairs[~itself], images, others, _along)])


def _cuts(
    images: Sequence[Image.Image],
    others: Sequence[Image.Image],
    shapes: NDArray[np.float64],
    other_shapes: NDArray[np.float64],
) -> Pairs:
    """Pairs of which the image is cut from the other one."""
    if not len(images) or not len(others):
        return np.empty((0, 2), dtype=np.intp)
    # Only where shapes differ is there anything to look for along the longer side.
    wide = np.flatnonzero(np.abs(other_shapes) > np.abs(shapes).min() + SAME_RATIO).tolist()
    narrow = np.flatnonzero(np.abs(shapes) < np.abs(other_shapes).max() - SAME_RATIO).tolist()
    pairs = _matching(_Views(images, narrow, _middle), _Views(others, wide, _everywhere))
    one, other = shapes[pairs[:, 0]], other_shapes[pairs[:, 1]]
    same_way = (one * other >= 0) | (np.abs(one) <= SAME_RATIO)
    pairs = pairs[(np.abs(one) < np.abs(other) - SAME_RATIO) & same_way]
    return _confirmed(pairs, images, others, _everywhere)


def _confirmed(
    pairs: Pairs,
    images: Sequence[Image.Image],
    others: Sequence[Image.Image],
    places: Callable[[Size], list[int]],
) -> Pairs:
    """Pairs of which all squares along the image are found among squares of the other one."""
    for number in range(max((len(_along(images[row].size)) for row in np.unique(pairs[:, 0])), default=0)):
        count = np.array([len(_along(images[row].size)) for row in pairs[:, 0].tolist()], dtype=np.intp)
        asked = (count > 1) & (count > number)  # a square has been compared as the middle
        rows, columns = (np.unique(pairs[asked, side]).tolist() for side in range(2))
        squares = _Views(images, rows, functools.partial(_one_along, number))
        found = set(map(tuple, _matching(squares, _Views(others, columns, places)).tolist()))
        pairs = pairs[
            [not of or pair in found for of, pair in zip(asked, map(tuple, pairs.tolist()), strict=True)]
        ]
    return pairs


def _matching(views: _Views, others: _Views) -> Pairs:
    """Images of which some views are copies of each other, each pair once."""
    rows, columns = copy_pairs(views, others)
    return np.unique(np.stack([views.owners[rows], others.owners[columns]], axis=1), axis=0)


def _is_square(size: Size) -> bool:
    return abs(math.log(size[0] / size[1])) <= SAME_RATIO


def _middle(size: Size) -> list[int]:
    """Where the square in the middle begins along the longer side."""
    return [0 if _is_square(size) else (max(size) - SIDE) // 2]


def _along(size: Size) -> list[int]:
    """Where squares begin that together cover an image, the ends among them; a square is one."""
    return [0] if _is_square(size) else _spread(size, max(2, math.ceil(max(size) / SIDE)))


def _one_along(number: int, size: Size) -> list[int]:
    return _along(size)[number : number + 1]


def _everywhere(size: Size) -> list[int]:
    """Where squares begin that are so close that every square of an image is one of them but for a copy's shift."""
    return [0] if _is_square(size) else _spread(size, 1 + math.ceil((max(size) - SIDE) / (2 * SHIFT)))


def _spread(size: Size, count: int) -> list[int]:
    return [round(place) for place in np.linspace(0, max(size) - SIDE, count)]
