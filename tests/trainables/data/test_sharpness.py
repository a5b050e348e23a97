"""The measure of blur: its definition, and its limits on the embedded world and on made pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.helpers.scenes import scene
from trainables import embedded
from trainables.data.images import square
from trainables.data.sharpness import blur_limit, blur_of


def blurred(image: Image.Image, radius: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


def test_the_definition_on_a_step() -> None:
    """One edge from 0 to 250 over a window of five: what blurring leaves of its difference is a fifth."""
    pixels = np.zeros((60, 60), dtype=np.uint8)
    pixels[:, 30:] = 250
    assert blur_of(Image.fromarray(pixels)) == pytest.approx(1 / 5)
    assert blur_of(Image.fromarray(pixels.T.copy())) == pytest.approx(1 / 5)


def test_a_slope_is_as_blurred_as_can_be() -> None:
    slope = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (60, 1))
    assert blur_of(Image.fromarray(slope)) > 0.9


@pytest.mark.parametrize("side", [16, 64, 300])
def test_where_nothing_is_to_see_nothing_is_blurred(side: int) -> None:
    assert blur_of(Image.new("RGB", (side, side), "teal")) == 0
    assert blur_of(Image.new("L", (2, 2))) == 0


def test_renders_are_sharp_and_blurred_ones_are_not() -> None:
    names = embedded.subject_names()[::6]
    for image in (picture for name in names for picture in embedded.load_subject(name).training_images()):
        assert blur_of(image) < blur_limit(image)
        assert blur_of(blurred(image, 2)) > blur_limit(image)


@pytest.mark.parametrize(("side", "radius"), [(64, 2), (128, 2), (256, 3), (512, 3)])
def test_made_pictures(side: int, radius: float) -> None:
    for seed in range(4):
        image = square(scene(seed, 640), side)
        assert blur_of(image) < blur_limit(image)
        assert blur_of(blurred(image, radius)) > blur_limit(image)
        assert blur_of(image) < blur_of(blurred(image, 1)) < blur_of(blurred(image, 2))


def test_motion_in_one_direction_is_blur() -> None:
    pixels = np.asarray(scene(7, 256), dtype=float)
    moved = np.mean([np.roll(pixels, step, axis=1) for step in range(20)], axis=0)
    image = Image.fromarray(moved.astype(np.uint8))
    assert blur_of(image) > blur_limit(image)
