"""Classical augmentation of a batch: mirrored, shifted, in other colours, each image by numbers of its own."""

from __future__ import annotations

import torch

from trainables.config.classifiers import AugmentationConfig

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow
_NUMBERS = 6  # of each image, whatever is configured: flip, row, column, brightness, contrast, saturation


def augment(images: torch.Tensor, config: AugmentationConfig, generator: torch.Generator) -> torch.Tensor:
    """Returns images in [0, 1] of the same shape, [images, 3, side, side].

    Args:
        generator: Of six numbers an image, whatever is configured, so that one change does not alter the others.
    """
    numbers = torch.rand(len(images), _NUMBERS, generator=generator)
    moved = _moved(images, config, numbers)
    return _coloured(moved, config.colour_jitter, numbers[:, 3:]) if config.colour_jitter else moved


def _moved(images: torch.Tensor, config: AugmentationConfig, numbers: torch.Tensor) -> torch.Tensor:
    """Mirrors half of the images and shifts all by up to the padding, what is outside being their reflection."""
    side = images.shape[-1]
    padding = min(round(config.crop_padding * side), side - 1)
    shifts = (numbers[:, 1:3] * (2 * padding + 1)).long() - padding
    rows = _reflected(torch.arange(side) + shifts[:, :1], side)
    columns = _reflected(torch.arange(side) + shifts[:, 1:], side)
    if config.random_flip:
        columns = torch.where(numbers[:, :1] < 0.5, columns.flip(1), columns)
    which = torch.arange(len(images))[:, None, None]
    return images[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _reflected(places: torch.Tensor, side: int) -> torch.Tensor:
    """Brings places up to one side outside back inside, mirrored at the outermost pixels."""
    return side - 1 - (side - 1 - places.abs()).abs()


def _coloured(images: torch.Tensor, jitter: float, numbers: torch.Tensor) -> torch.Tensor:
    """Changes brightness, then contrast about the mean grey, then the distance of colours from grey."""
    factors = (1 + jitter * (2 * numbers - 1))[:, :, None, None, None]
    weights = torch.tensor(_GREY).view(3, 1, 1)
    images = (images * factors[:, 0]).clamp(0, 1)
    grey = (images * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    images = (grey + (images - grey) * factors[:, 1]).clamp(0, 1)
    grey = (images * weights).sum(1, keepdim=True)
    return (grey + (images - grey) * factors[:, 2]).clamp(0, 1)
