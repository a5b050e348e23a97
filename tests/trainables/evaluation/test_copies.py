"""The copy detector on the embedded world: what it must find, and what it must leave alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmarks.measures import (
    COPIES_BAR,
    OTHERS_BAR,
    Settings,
    measure_copies,
    mirrored,
    near_copies,
    renders_of_templates,
    shifted,
)
from trainables import embedded
from trainables.evaluation.copies import copied


def photograph(seed: int, side: int) -> Image.Image:
    """A picture of smooth random shapes, as detailed at every size."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def test_the_calibration_holds() -> None:
    lines = {line.what: line for line in measure_copies(Settings(embedded.subject_names()[:3], views=2))}
    found = [line for what, line in lines.items() if what.startswith("copies found")]
    spared = [
        line for what, line in lines.items() if what.startswith("taken for copies") and line.bar is not None
    ]
    assert (len(found), len(spared)) == (12, 2)
    assert all(line.value >= COPIES_BAR for line in found), lines
    assert all(line.value <= OTHERS_BAR for line in spared), lines


def test_subjects_of_one_s_own_are_told_apart() -> None:
    cat = embedded.load_subject("cat-1")
    training = cat.training_images()
    assert copied(training, training).all()
    assert not copied(training, embedded.load_subject("cat-2").training_images()).any()
    renders = renders_of_templates(cat, 1, 3)
    mixed = [renders[0], training[2], renders[5], mirrored(training[0])]
    assert copied(mixed, training).tolist() == [False, True, False, True]


@pytest.mark.parametrize("side", [64, 200, 1024])
def test_copies_of_any_size(side: int) -> None:
    training = [photograph(seed, side) for seed in range(3)]
    for kind, images in near_copies(training, 0, autoencoder=False):
        assert copied(images, training).all(), kind
    assert not copied([photograph(seed, side) for seed in range(10, 20)], training).any()
    assert copied([training[1].resize((96, 96))], training).all()  # another size, the same picture


def test_what_is_shifted_too_far_or_changed_in_a_part_is_no_copy() -> None:
    training = embedded.load_subject("dog-1").training_images()
    assert not copied([shifted(image, 8, 0) for image in training], training).any()
    changed = np.array(training[0])
    changed[4:20, 4:20] = 255 - changed[4:20, 4:20]
    assert not copied([Image.fromarray(changed)], training).any()


def test_nothing_to_compare() -> None:
    image = photograph(0, 64)
    assert copied([], [image]).shape == (0,)
    assert copied([image], []).tolist() == [False]
    assert copied([image.convert("RGBA")], [image]).tolist() == [True]
    blank = Image.new("RGB", (64, 64))
    assert copied([blank], [image]).tolist() == [False]
    assert copied([blank], [blank]).dtype == np.bool_
