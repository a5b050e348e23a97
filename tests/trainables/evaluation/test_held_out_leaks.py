"""That no held-out image reaches what learns, whatever form its copy has."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from tests.helpers.class_folders import class_folder, image_of
from tests.helpers.image_folders import picture
from trainables.data.images import FINGERPRINT_SIDE
from trainables.data.labelled_images import LabelledImage, labelled
from trainables.data.labelled_split import Shares
from trainables.errors import UserError
from trainables.evaluation.class_data_sets import ClassDataSet, read_class_data_set
from trainables.evaluation.copies import SIDE
from trainables.evaluation.held_out_leaks import assert_no_leak, copies_among, leaks


@pytest.fixture
def split(tmp_path: Path) -> ClassDataSet:
    class_folder(tmp_path, {"a": 8, "b": 8})
    return read_class_data_set(tmp_path, shares=Shares(0.5, 0.25, 0.25))


def recompressed(image: Image.Image) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "jpeg", quality=60)
    return Image.open(content)


def problems_of(
    training: list[LabelledImage], held_out: tuple[LabelledImage, ...], near: bool = True
) -> list[str]:
    with pytest.raises(UserError) as raised:
        assert_no_leak(training, held_out, near=near)
    return list(raised.value.problems)


def test_pictures_are_compared_at_the_side_at_which_copies_are_looked_for() -> None:
    assert FINGERPRINT_SIDE == SIDE


def test_a_split_has_no_leak(split: ClassDataSet) -> None:
    assert_no_leak(split.train, split.held_out)
    assert_no_leak([], split.held_out)
    assert_no_leak(split.train, [])


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize(
    ("suffix", "changed", "is_exact"),
    [
        (".png", lambda image: image, True),
        (".bmp", lambda image: image, True),
        (".jpg", recompressed, False),
        (".png", lambda image: image.resize((150, 150), Image.Resampling.BICUBIC), False),
        (".png", lambda image: image.resize((40, 40), Image.Resampling.LANCZOS), False),
        (".png", ImageOps.mirror, False),
    ],
)
def test_a_copy_of_a_held_out_image_that_somebody_puts_into_training(
    tmp_path: Path, split: ClassDataSet, part: str, suffix: str, changed: object, is_exact: bool
) -> None:
    held_out: LabelledImage = getattr(split, part)[0]
    path = tmp_path / f"put there{suffix}"
    changed(held_out.open()).save(path)  # type: ignore[operator]
    again = labelled(path, "a/put there", "a")
    begin = "the same" if is_exact else "nearly the same"
    said = problems_of([*split.train, again], split.held_out)
    assert len(said) == 1
    assert said[0].startswith(f"{begin} picture is trained on and held out: {held_out.name} (as a/put there)")
    found = leaks([*split.train, again], split.held_out, near=False)
    assert [(leak.trained, leak.held_out, leak.is_exact) for leak in found] == [
        (again, held_out, True)
    ] * is_exact


def test_a_held_out_image_itself_and_a_file_that_is_overwritten_with_one(split: ClassDataSet) -> None:
    assert "the same picture" in problems_of([*split.train, split.test[1]], split.held_out)[0]
    assert isinstance(split.train[2].source, Path)
    split.test[0].open().save(split.train[2].source)
    said = problems_of(list(split.train), split.held_out)
    assert f"{split.test[0].name} (as {split.train[2].name})" in said[0]
    assert f"no longer those that were split: {split.train[2].name}" in said[1]


def test_a_file_that_is_overwritten_with_anything(split: ClassDataSet) -> None:
    assert isinstance(split.test[0].source, Path)
    picture(77).save(split.test[0].source)
    said = problems_of(list(split.train), split.held_out, near=False)
    assert said == [
        f"images whose pixels are no longer those that were split: {split.test[0].name}; split them again"
    ]


def test_generated_images_are_compared_as_files_are(split: ClassDataSet) -> None:
    honest = labelled(picture(500), "generated 0", "a")
    assert_no_leak([honest], split.held_out)
    memory = labelled(recompressed(split.validation[0].open()), "generated 1", "a")
    assert "(as generated 1)" in problems_of([honest, memory], split.held_out)[0]


def test_files_that_are_gone_are_all_named(split: ClassDataSet) -> None:
    for image in (split.train[0], split.test[0]):
        assert isinstance(image.source, Path)
        image.source.unlink()
    assert ["no such file" in one for one in problems_of(list(split.train), split.held_out)] == [True, True]


def test_flat_pictures_of_equal_pixels_are_copies_and_others_are_not() -> None:
    flat = [
        labelled(Image.new("RGB", (20, 20), (shade,) * 3), f"{n}", "a") for n, shade in enumerate((9, 9, 200))
    ]
    exact, near = copies_among(flat)
    assert (exact.tolist(), near.tolist()) == ([[0, 1]], [])
    assert [leak.is_exact for leak in leaks(flat[:1], flat[1:])] == [True]


def test_pairs_are_exact_or_near() -> None:
    images = [labelled(image_of(n), f"{n}", "a") for n in (0, 1, 0)]
    images.append(labelled(ImageOps.mirror(image_of(1)), "3", "a"))
    exact, near = copies_among(images)
    assert (exact.tolist(), near.tolist()) == ([[0, 2]], [[1, 3]])
    assert [pairs.shape for pairs in copies_among([])] == [(0, 2), (0, 2)]
