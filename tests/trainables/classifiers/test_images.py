"""Labelled images, and what is wrong with those of a training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.labelled_images import CLASSES, coloured, some_data, spread
from trainables.classifiers.images import TensorImages, TrainingData, data_problems
from trainables.config.classifiers import ClassifierConfig
from trainables.errors import UserError

PIXELS = torch.zeros(2, 3, 8, 8)


def problems(data: TrainingData, **fields: Any) -> list[str]:
    return data_problems(ClassifierConfig(network="small_cnn", **fields), data)


def test_pictures_become_images_from_0_to_1() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    images = TensorImages.from_pictures([Image.fromarray(each) for each in pixels], [1, 0])
    assert images.size == 8
    assert images.labels.tolist() == [1, 0]
    taken = images.take(torch.tensor([1, 0, 1]))
    assert taken.dtype == torch.float32
    assert torch.equal(taken[1], torch.from_numpy(pixels[0]).permute(2, 0, 1) / 255)


def test_grey_pictures_become_colour() -> None:
    images = TensorImages.from_pictures([Image.new("L", (8, 8), 51)], [0])
    assert torch.equal(images.take(torch.tensor([0])), torch.full((1, 3, 8, 8), 0.2))


def test_a_digest_names_pixels_and_labels() -> None:
    first = coloured([0, 1])
    assert first.digest == coloured([0, 1]).digest
    assert len({first.digest, coloured([1, 0]).digest, coloured([0, 1], 1).digest}) == 3
    assert TensorImages(PIXELS, [0, 1]).digest != TensorImages(PIXELS.double(), [0, 1]).digest


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (PIXELS[:, :1], [0, 1], r"got \(2, 1, 8, 8\)"),
        (PIXELS[:, :, :4], [0, 1], r"got \(2, 3, 4, 8\)"),
        (PIXELS, [0], "there are 2 images and 1 labels"),
        (PIXELS.long(), [0, 1], "got torch.int64"),
        (PIXELS + 2, [0, 1], "got values from 2 to 2"),
        (PIXELS * float("nan"), [0, 1], "got values from nan to nan"),
    ],
)
def test_other_images_are_refused(images: torch.Tensor, labels: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TensorImages(images, labels)


def test_pictures_of_several_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="have one size, got 8x8, 9x8"):
        TensorImages.from_pictures([Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))], [0, 1])


def test_nothing_is_wrong_with_good_data() -> None:
    assert problems(some_data()) == []
    assert problems(some_data(generated=(0, 2, 2)), generated_probability=0.5) == []
    assert problems(some_data((1, 0, 0), (1, 1, 1)), generated_probability=1) == []


@pytest.mark.parametrize(
    ("data", "fields", "message"),
    [
        (some_data((4, 0, 0)), {}, "no training image is of green, blue, which cannot be learned"),
        (some_data((0, 0, 0)), {}, "there are no training images"),
        (replace(some_data(), validation=coloured([0, 2])), {}, "no validation image is of green"),
        (replace(some_data(), validation=coloured([0, 3])), {}, "labels of validation images are 0 to 2, got 3"),
        (replace(some_data(), validation=coloured([0, 1, 2], side=8)), {}, "training 16, validation 8; resize"),
        (replace(some_data(), classes=("a", "b", "a")), {}, "at least 2 classes of different names"),
        (some_data(), {"generated_probability": 0.5}, "is 0.5, and there are no generated images"),
        (some_data(generated=(1, 1, 1)), {}, "generated_probability is 0: they would never be drawn"),
        (some_data(generated=(1, 1, 0)), {"generated_probability": 1}, "no generated image is of blue"),
        (
            some_data(generated=(1, 1, 0)),
            {"generated_probability": 0.8, "sampling": "balanced"},
            "only 2 of 3 classes have generated images, which are 0.8 of all draws; take a generated_probability of "
            "0.667 at most",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(data: TrainingData, fields: dict[str, Any], message: str) -> None:
    found = problems(data, **fields)
    assert len(found) == 1
    assert message in found[0]


def test_all_problems_are_said_at_once() -> None:
    data = TrainingData(CLASSES, coloured([0, 1]), coloured([1, 2]), coloured(spread((1, 1, 1))))
    assert len(problems(data)) == 3
