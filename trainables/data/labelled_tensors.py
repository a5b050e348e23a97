"""Images with classes as tensors of one resolution, for classifiers.

Whatever sizes images have, each is cut to the square in its middle and resized, anti-aliased (``images.square``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch

from trainables.data.images import image_digest, size_problem, square
from trainables.data.labelled_images import LabelledImage
from trainables.errors import InputsChanged, UserError
from trainables.util.text import shown


@dataclass(frozen=True)
class LabelledTensors:
    """Images and the numbers of their classes.

    Attributes:
        pixels: RGB, uint8 in 0..255, shape (images, 3, resolution, resolution).
        labels: int64 in 0..classes - 1, shape (images,).
    """

    pixels: torch.Tensor
    labels: torch.Tensor


def load_labelled(
    images: Sequence[LabelledImage], classes: Sequence[str], resolution: int
) -> LabelledTensors:
    """Reads images as tensors, in the order given.

    Args:
        classes: In the order that numbers stand for.
        resolution: Side in pixels.

    Raises:
        InputsChanged: Files have other pixels than when they were split; what is loaded is what was split.
        UserError: Images cannot be read, or are too small: enlarged by more than `images.MAX_ENLARGEMENT`.
    """
    pixels = numpy.empty((len(images), resolution, resolution, 3), dtype=numpy.uint8)
    problems: list[str] = []
    changed: list[str] = []
    for number, image in enumerate(images):
        try:
            whole = image.open()
        except UserError as error:
            problems += error.problems
            continue
        too_small = size_problem(shown(image.name), whole.size, resolution)
        problems += [too_small] if too_small is not None else []
        if image_digest(whole) != image.digest:
            changed.append(
                f"{shown(image.name)}: its pixels are not those that were split; begin again with a new split"
            )
        pixels[number] = numpy.asarray(square(whole, resolution))
    if problems:
        raise UserError(*problems, *changed)
    if changed:
        raise InputsChanged(*changed)
    numbers = {label: number for number, label in enumerate(classes)}
    labels = torch.tensor([numbers[image.label] for image in images], dtype=torch.int64)
    return LabelledTensors(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels)
