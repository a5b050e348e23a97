"""Images with classes as tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.class_folders import class_folder, image_of
from tests.helpers.image_folders import picture
from trainables.data.images import square
from trainables.data.labelled_images import labelled, read_labelled_folder
from trainables.data.labelled_tensors import load_labelled
from trainables.errors import InputsChanged, UserError


def test_images_of_several_sizes_are_cut_to_their_middle_squares(tmp_path: Path) -> None:
    class_folder(tmp_path, {"a": 1, "b": 1})
    picture(5, (96, 40)).save(tmp_path / "b" / "wide.png")
    found, _ = read_labelled_folder(tmp_path)
    loaded = load_labelled(found.images, ("b", "a"), 32)
    assert loaded.pixels.shape == (3, 3, 32, 32)
    assert loaded.pixels.dtype == torch.uint8
    assert loaded.labels.tolist() == [1, 0, 0]
    assert loaded.labels.dtype == torch.int64
    for row, image in zip(loaded.pixels, (picture(0), picture(1), picture(5, (96, 40))), strict=True):
        assert np.array_equal(row.permute(1, 2, 0).numpy(), np.asarray(square(image, 32)))


def test_nothing_is_a_tensor_of_nothing() -> None:
    assert load_labelled([], ("a",), 16).pixels.shape == (0, 3, 16, 16)


def test_files_that_changed_since_the_split_are_refused(tmp_path: Path) -> None:
    class_folder(tmp_path, {"a": 2, "b": 2})
    found, _ = read_labelled_folder(tmp_path)
    picture(9).save(tmp_path / "a" / "01.png")
    with pytest.raises(InputsChanged, match=r"a/01\.png: its pixels are not those that were split"):
        load_labelled(found.images, found.classes, 32)


def test_images_that_are_gone_or_too_small_are_told_together(tmp_path: Path) -> None:
    class_folder(tmp_path, {"a": 1})
    images = [*read_labelled_folder(tmp_path)[0].images, labelled(image_of(1), "small", "a")]
    (tmp_path / "a" / "00.png").unlink()
    with pytest.raises(UserError) as raised:
        load_labelled(images, ("a",), 256)
    assert ["00.png: no such file" in one for one in raised.value.problems] == [True, False]
    assert "small: is 32x32 pixels; the shorter side must have at least 64" in raised.value.problems[1]
