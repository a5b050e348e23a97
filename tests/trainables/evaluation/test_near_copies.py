"""Pairs of images that are nearly one picture, and the groups that they make."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from trainables.data.images import square, thumbnail
from trainables.evaluation.copies import SIDE, copies
from trainables.evaluation.near_copies import groups_of, near_pairs


def photograph(seed: int, width: int = 96, height: int = 64) -> Image.Image:
    """A picture of smooth random shapes."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def test_of_squares_pairs_are_the_copies() -> None:
    images = [photograph(seed, 64) for seed in range(12)]
    images += [ImageOps.mirror(images[3]), ImageOps.grayscale(images[5]).convert("RGB"), images[0].copy()]
    table = copies(images, images)
    assert {tuple(pair) for pair in near_pairs(images, images).tolist()} == {
        (int(row), int(column)) for row, column in zip(*np.nonzero(table | table.T), strict=True)
    }


def test_an_image_is_near_itself_and_its_copies_whatever_its_shape() -> None:
    sizes = [(96, 64), (64, 96), (64, 64), (200, 64), (67, 64), (64, 300)]
    images = [photograph(seed, *size) for seed, size in enumerate(sizes)]
    pairs = near_pairs(images, images)
    assert pairs.tolist() == [[number, number] for number in range(len(sizes))]
    again = [ImageOps.mirror(image) for image in reversed(images)]
    assert near_pairs(images, again).tolist() == [[number, 5 - number] for number in range(6)]
    assert near_pairs([], images).shape == near_pairs(images, []).shape == (0, 2)


def test_cuts_are_found_and_what_has_the_same_square_alone_is_not() -> None:
    whole = photograph(1, 160)
    cuts = [whole.crop((left, 0, left + 100, 64)) for left in (0, 25, 60)]
    beyond = Image.new("RGB", (100, 64))  # 40 pixels of another picture at one end
    beyond.paste(photograph(2, 100), (0, 0))
    beyond.paste(whole.crop((0, 0, 60, 64)), (40, 0))
    portrait = Image.new("RGB", (64, 100))  # as much of the whole as a square, and something below
    portrait.paste(photograph(3, 64, 100), (0, 0))
    portrait.paste(whole.crop((48, 0, 112, 64)), (0, 18))
    images = [*cuts, beyond, portrait]
    assert near_pairs(images, [whole]).tolist() == [[0, 0], [1, 0], [2, 0]]
    assert near_pairs([whole], images).tolist() == [[0, 0], [0, 1], [0, 2]]
    assert near_pairs([whole], [*images, whole], cuts=False).tolist() == [[0, 5]]


def test_a_thumbnail_is_the_whole_and_of_a_square_the_square() -> None:
    wide = photograph(4, 300, 200)
    assert thumbnail(wide, SIDE).size == (96, 64)
    ends = [np.asarray(thumbnail(wide, SIDE), dtype=float)[:, column].mean() for column in (0, -1)]
    assert np.allclose(ends, [np.asarray(wide, dtype=float)[:, column].mean() for column in (0, -1)], atol=4)
    even = photograph(5, 130, 130)
    assert thumbnail(even, SIDE).tobytes() == square(even, SIDE).tobytes()
    assert thumbnail(photograph(6, 4000, 20), SIDE).size == (512, 64)


def test_groups_hold_together_what_pairs_do() -> None:
    pairs = np.array([(0, 0), (5, 1), (1, 5), (3, 1), (4, 4), (6, 2)])
    assert groups_of(8, pairs) == [[1, 3, 5], [2, 6]]
    assert groups_of(3, np.empty((0, 2), dtype=np.intp)) == []
