"""The copy detector on the embedded world: what it must find, and what it must leave alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

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
from trainables.evaluation.copies import (
    SAME_PART,
    SAME_WHOLE,
    SHIFT,
    SIDE,
    _alignments,
    _compared,
    _reduced,
    _squares,
    _standardised,
    copied,
    copies,
)


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


def test_comparing_only_pairs_that_may_be_copies_finds_what_comparing_all_finds() -> None:
    generator = np.random.default_rng(3)
    wide = [photograph(seed, 96).resize((128, 96)) for seed in range(3)]
    flat = [Image.new("RGB", (64, 64), (200, 10, 10)), Image.new("RGB", (64, 64), (200, 12, 10))]
    noise = [Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(2)]
    subject = embedded.load_subject("cat-1")
    training = [
        *subject.training_images(),
        *wide,
        *flat,
        *noise,
        *[photograph(seed, 64) for seed in range(60)],
    ]
    images = [*training[:12], *[shifted(image, 2, -2) for image in training[:14]]]
    images += [ImageOps.mirror(image) for image in (*noise, *wide)]
    images += [image for _, near in near_copies(training[:5], 0, autoencoder=False) for image in near]
    images += [Image.blend(training[1], training[2], share / 40) for share in range(8)]  # about the limit
    found = copies(images, training)
    assert (found == in_full(images, training)).all()
    assert 30 < found.sum() < len(images) * 3
    assert (found[:5, :5] == np.eye(5, dtype=bool)).all()
    assert copies([], training).shape == (0, len(training))


def in_full(images: list[Image.Image], training: list[Image.Image]) -> NDArray[np.bool_]:
    """Every image against every training image at every alignment, as the module states it."""
    inner = slice(SHIFT, SIDE - SHIFT)
    rows = np.stack([_standardised(_reduced(image)[inner, inner]) for image in images])
    table = np.zeros((len(images), len(training)), dtype=np.bool_)
    for column, image in enumerate(training):
        aligned = np.concatenate([_alignments(_reduced(view)) for view in _squares(image)])
        correlation, difference = _compared(rows, aligned)
        table[:, column] = (correlation >= SAME_WHOLE) & (difference <= SAME_PART)
    return table
