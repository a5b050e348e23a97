"""Classical augmentation."""

from __future__ import annotations

import pytest
import torch

from trainables.classifiers.augmentation import augment
from trainables.config.classifiers import AugmentationConfig

FLIP = AugmentationConfig(crop_padding=0, colour_jitter=0)
CROP = AugmentationConfig(random_flip=False, crop_padding=0.25, colour_jitter=0)
COLOUR = AugmentationConfig(random_flip=False, crop_padding=0, colour_jitter=0.3)


def noise(images: int = 40, side: int = 8) -> torch.Tensor:
    return torch.rand(images, 3, side, side, generator=torch.Generator().manual_seed(1))


def augmented(images: torch.Tensor, config: AugmentationConfig, seed: int = 0) -> torch.Tensor:
    return augment(images, config, torch.Generator().manual_seed(seed))


def test_images_are_mirrored_or_left_as_they_are() -> None:
    images = noise(400)
    found = augmented(images, FLIP)
    mirrored = torch.tensor([torch.equal(a, b.flip(2)) for a, b in zip(found, images, strict=True)])
    left = torch.tensor([torch.equal(a, b) for a, b in zip(found, images, strict=True)])
    assert bool((mirrored ^ left).all())
    assert 150 < int(mirrored.sum()) < 250


def test_crops_are_those_of_the_reflected_image() -> None:
    images = noise()
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="reflect")
    places = set()
    for image, whole in zip(augmented(images, CROP), padded, strict=True):
        at = [
            (y, x) for y in range(5) for x in range(5) if torch.equal(image, whole[:, y : y + 8, x : x + 8])
        ]
        assert len(at) == 1
        places.update(at)
    assert {y for y, _ in places} == {x for _, x in places} == set(range(5))


def test_colours_are_changed_in_turn() -> None:
    """Of one grey: brightness alone; with brightness left as it is, contrast and saturation by their formulas."""
    grey = torch.full((50, 3, 4, 4), 0.5)
    found = augmented(grey, COLOUR)
    assert torch.allclose(found, found.mean((1, 2, 3), keepdim=True).expand_as(found), atol=1e-6)
    values = found[:, 0, 0, 0]
    assert 0.35 <= float(values.min()) < 0.4 < 0.6 < float(values.max()) <= 0.65
    image = (
        torch.tensor([0.6, 0.4, 0.2]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    )  # of one colour: contrast keeps its grey
    numbers = torch.rand(1, 6, generator=torch.Generator().manual_seed(3))[0, 3:].tolist()
    brightness, contrast, saturation = (1 + 0.3 * (2 * number - 1) for number in numbers)
    shade = brightness * (0.299 * 0.6 + 0.587 * 0.4 + 0.114 * 0.2)
    expected = [shade + (brightness * v - shade) * contrast * saturation for v in (0.6, 0.4, 0.2)]
    assert augmented(image, COLOUR, 3)[0, :, 0, 0].tolist() == pytest.approx(expected, abs=1e-5)


def test_values_stay_in_range() -> None:
    found = augmented(noise(), AugmentationConfig(colour_jitter=0.9))
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


def test_what_is_configured_changes_no_other_number() -> None:
    images = noise()
    both = AugmentationConfig(crop_padding=0.25, colour_jitter=0)
    flipped = augmented(images, FLIP) != images
    moved, alone = augmented(images, both), augmented(images, CROP)
    for image, other, flip in zip(moved, alone, flipped.flatten(1).any(1).tolist(), strict=True):
        assert torch.equal(image, other.flip(2) if flip else other)


@pytest.mark.parametrize("config", [FLIP, CROP, COLOUR])
def test_each_image_has_its_own_numbers(config: AugmentationConfig) -> None:
    found = augmented(noise(1).expand(30, 3, 8, 8), config)
    assert len({tuple(image.flatten().tolist()) for image in found}) > 1


def test_padding_of_nearly_a_whole_side_is_possible() -> None:
    assert augmented(noise(), AugmentationConfig(crop_padding=0.99)).shape == (40, 3, 8, 8)
