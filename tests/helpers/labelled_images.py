"""Labelled images that a classifier can be taught in a few steps: each class is a colour, in noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainables.classifiers.images import TensorImages, TrainingData

CLASSES = ("red", "green", "blue")


def coloured(
    labels: Sequence[int], seed: int = 0, side: int = 16, shown: Sequence[int] | None = None
) -> TensorImages:
    """Images of noise with more of one colour.

    Args:
        labels: What they are said to show.
        shown: What they do show; None: their labels. 3: no colour more than others.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(len(labels), 3, side, side, generator=generator) * 0.6
    for image, colour in zip(images, labels if shown is None else shown, strict=True):
        if colour < 3:
            image[colour] += 0.4
    return TensorImages((images * 255).round().to(torch.uint8), labels)


def some_data(
    train: Sequence[int] = (4, 4, 4), generated: Sequence[int] | None = None, side: int = 16
) -> TrainingData:
    """Training images of each class, four for validation and, where said, generated ones, which are right."""
    made = None if generated is None else coloured(spread(generated), 2, side)
    return TrainingData(CLASSES, coloured(spread(train), 0, side), coloured(spread((4, 4, 4)), 1, side), made)


def spread(counts: Sequence[int]) -> list[int]:
    """Labels with so many of each class."""
    return [label for label, count in enumerate(counts) for _ in range(count)]
