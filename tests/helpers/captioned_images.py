"""Data sets made by hand: images of several sizes, each with a caption, as `resolve_subject` gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy
from PIL import Image

from trainables.data.subjects import Subject

RESOLUTION = 16
TRIGGER = "red dog"
#: Width and height -> images.
TWO_BUCKETS = {(16, 16): 3, (24, 8): 2}
TAGS = ("a cat", "red hat", "green grass", "big dog")  # words of the tiny models


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    """Returns random pixels; equal arguments give equal ones."""
    width, height = size
    pixels = numpy.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=numpy.uint8)
    return Image.fromarray(pixels)


def data_set(
    buckets: Mapping[tuple[int, int], int] = TWO_BUCKETS,
    *,
    trigger: str = TRIGGER,
    captions: Sequence[str] | None = None,
    name: str = "cat",
) -> Subject:
    """Returns a data set with so many images of each size, in turn, each file twice as large as its image."""
    left = dict(buckets)
    sizes: list[tuple[int, int]] = []
    while any(left.values()):
        for size in [size for size, count in left.items() if count]:
            sizes.append(size)
            left[size] -= 1
    images = tuple(picture(size, number) for number, size in enumerate(sizes))
    begin = f"{trigger}, " if trigger else ""
    texts = captions or [
        ", ".join(TAGS[number % 4 :] + TAGS[: number % 4]) + f", {number} dog" for number in range(len(sizes))
    ]
    references = tuple(picture((RESOLUTION, RESOLUTION), 1000 + number) for number in range(2))
    return Subject(
        name=name,
        instance_prompt=begin,
        class_prompt="",
        images=images,
        captions=tuple(begin + text for text in texts),
        references=references,
        image_names=tuple(f"{number}.png" for number in range(len(sizes))),
        reference_names=("r0.png", "r1.png"),
        sizes=tuple((2 * width, 2 * height) for width, height in sizes),
        is_data_set=True,
        reference_captions=tuple(f"{begin}{TAGS[number]}" for number in range(2)),
        side=RESOLUTION,
    )
