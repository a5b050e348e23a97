"""Faults of a set of photographs: each that is made is found, and sound sets are left alone."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from tests.helpers.scenes import scene
from trainables import embedded
from trainables.config.fields import SubjectConfig
from trainables.data.subjects import check_subject
from trainables.run.data_set import data_set_notes, leaks

SIDE = 160


def recompressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    return Image.open(file).convert("RGB")


def shifted(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.roll(np.asarray(image), 3, axis=(0, 1)))


COPIES = {
    "recompressed": recompressed,
    "mirrored": ImageOps.mirror,
    "brightened": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "resized": lambda image: image.resize((100, 100)),
    "shifted": shifted,
}


@pytest.fixture
def subject(tmp_path: Path) -> SubjectConfig:
    """Five photographs to train on and three held out, all different."""
    for folder, seeds in (("images", range(5)), ("held", range(5, 8))):
        (tmp_path / folder).mkdir()
        for seed in seeds:
            scene(seed, SIDE).save(tmp_path / folder / f"{seed}.png")
    return SubjectConfig(
        name="dog",
        images=str(tmp_path / "images"),
        references=str(tmp_path / "held"),
        instance_prompt="a sks dog",
        class_prompt="a dog",
    )


def test_a_sound_set_is_left_alone(subject: SubjectConfig) -> None:
    assert leaks(subject) == []
    assert data_set_notes(subject, SIDE) == []
    one_folder = subject.model_copy(update={"references": None, "holdout": 2})
    assert leaks(one_folder) == []
    assert data_set_notes(one_folder, None) == []


@pytest.mark.parametrize("kind", COPIES)
def test_a_near_copy_among_the_references_is_a_leak(
    kind: str, subject: SubjectConfig, tmp_path: Path
) -> None:
    COPIES[kind](scene(2, SIDE)).save(tmp_path / "held" / "6.png")
    (problem,) = leaks(subject)
    assert problem.startswith(
        f"subject 'dog': {tmp_path}/held/6.png is nearly the same picture as 2.png, which is"
    )
    assert problem.endswith("remove one of them")
    assert check_subject(subject, 64) == []  # whose pixels are others


def wide(seed: int, width: int = 2 * SIDE) -> Image.Image:
    """Scenes beside each other; the first and the last tell what is in between apart."""
    image = Image.new("RGB", (width, SIDE))
    for number in range(-(-width // SIDE)):
        image.paste(scene(10 * seed + number, SIDE), (number * SIDE, 0))
    return image


def tall(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.ROTATE_90)


@pytest.mark.parametrize("turned", [lambda image: image, tall])
def test_wide_pictures_with_one_middle_are_two(
    turned: Callable[[Image.Image], Image.Image], subject: SubjectConfig, tmp_path: Path
) -> None:
    one, other = wide(20, 3 * SIDE), wide(30, 3 * SIDE)
    other.paste(one.crop((SIDE, 0, 2 * SIDE, SIDE)), (SIDE, 0))
    turned(one).save(tmp_path / "images" / "8.png")
    turned(other).save(tmp_path / "images" / "9.png")
    turned(other).save(tmp_path / "held" / "8.png")
    middles = [image.crop((SIDE, 0, 2 * SIDE, SIDE)).tobytes() for image in (one, other)]
    assert middles[0] == middles[1]
    (problem,) = check_subject(subject, 64)
    assert "8.png is the same picture as 9.png, which" in problem
    (tmp_path / "images" / "9.png").unlink()
    assert check_subject(subject, 64) == leaks(subject) == []
    recompressed(ImageOps.mirror(turned(one))).save(tmp_path / "held" / "8.png")
    (problem,) = leaks(subject)
    assert "held/8.png is nearly the same picture as 8.png, which" in problem


@pytest.mark.parametrize("turned", [lambda image: image, tall])
@pytest.mark.parametrize("left", [0, 83, 160])
def test_a_cut_of_a_wide_picture_is_a_leak_in_either_direction(
    left: int, turned: Callable[[Image.Image], Image.Image], subject: SubjectConfig, tmp_path: Path
) -> None:
    whole = wide(20)
    for width in (SIDE, 220):
        begin = min(left, whole.width - width)
        cut = recompressed(whole.crop((begin, 0, begin + width, SIDE)))
        for one, other in ((whole, cut), (cut, whole)):
            turned(one).save(tmp_path / "images" / "9.png")
            turned(other).save(tmp_path / "held" / "9.png")
            (problem,) = leaks(subject)
            assert "held/9.png is nearly the same picture as 9.png, which" in problem
        # The half of it is there, and the rest is another picture.
        cut.paste(scene(77, SIDE).crop((0, 0, width - width // 2, SIDE)), (width // 2, 0))
        turned(cut).save(tmp_path / "held" / "9.png")
        turned(whole).save(tmp_path / "images" / "9.png")
        assert leaks(subject) == []


def test_the_same_pixels_are_told_once(subject: SubjectConfig, tmp_path: Path) -> None:
    scene(2, SIDE).save(tmp_path / "held" / "6.bmp")
    (problem,) = check_subject(subject, 64)
    assert "is the same picture as 2.png" in problem
    assert leaks(subject) == []


def test_a_folder_that_is_split_by_chance_leaks_too(subject: SubjectConfig, tmp_path: Path) -> None:
    one_folder = subject.model_copy(update={"references": None, "holdout": 2})
    for seed in range(5):
        recompressed(scene(seed, SIDE)).save(tmp_path / "images" / f"{seed}-again.png")
    assert leaks(one_folder)


def test_duplicates_on_either_side_are_noted(subject: SubjectConfig, tmp_path: Path) -> None:
    recompressed(scene(1, SIDE)).save(tmp_path / "images" / "7.png")
    scene(1, SIDE).save(tmp_path / "images" / "8.png")
    ImageOps.mirror(scene(6, SIDE)).save(tmp_path / "held" / "9.png")
    assert leaks(subject) == []
    assert data_set_notes(subject, SIDE) == [
        "subject 'dog': 1.png, 7.png and 8.png are nearly the same picture, which is trained on more often than the "
        "others; remove all but one",
        "subject 'dog': 6.png and 9.png are nearly the same picture, which is counted more often in every score than "
        "the others; remove all but one",
    ]


def test_blur_is_noted_at_the_size_at_which_it_is_trained_on(subject: SubjectConfig, tmp_path: Path) -> None:
    place = tmp_path / "images" / "3.png"
    scene(3, 640).filter(ImageFilter.GaussianBlur(6)).save(place)
    (note,) = data_set_notes(subject.model_copy(update={"references": None, "holdout": 1}), 512)[1:]
    assert note.startswith("subject 'dog': blurred at the size that runs train at: 3.png (0.")
    assert "where sharp photographs have less than 0.6 (Crete" in note
    assert note.count(".png") == 1
    assert data_set_notes(subject, 32) == []  # what is reduced to it is sharp


def test_small_photographs_are_noted(subject: SubjectConfig, tmp_path: Path) -> None:
    assert data_set_notes(subject, SIDE) == []
    Image.new("RGB", (200, 100)).save(tmp_path / "images" / "4.png")
    (note,) = data_set_notes(subject, SIDE)
    assert "smaller than the 160 pixels that runs train at" in note
    assert "4.png (200 x 100); take larger photographs" in note
    assert data_set_notes(subject, 100) == []
    assert data_set_notes(subject, None) == []


def test_a_file_that_has_changed_is_looked_at_again(subject: SubjectConfig, tmp_path: Path) -> None:
    assert leaks(subject) == []
    place = tmp_path / "held" / "7.png"
    recompressed(scene(0, SIDE)).save(place)
    assert len(leaks(subject)) == 1
    scene(7, SIDE).save(place)
    os.utime(place, ns=(1, 1))
    assert leaks(subject) == []


def test_what_cannot_be_read_is_told_elsewhere(subject: SubjectConfig, tmp_path: Path) -> None:
    (tmp_path / "images" / "0.png").write_bytes(b"no picture")
    assert leaks(subject) == []
    assert data_set_notes(subject, SIDE) == []
    assert leaks(subject.model_copy(update={"images": str(tmp_path / "nowhere")})) == []


def test_the_embedded_world_has_no_faults(tmp_path: Path) -> None:
    """Neither by its name nor as files: other scenes of one creature are no copies, and small renders are sharp.

    References show each setting several times, hardly changed: the first eight are all different.
    """
    config = SubjectConfig(name="cat-1")
    assert leaks(config) == []
    assert data_set_notes(config, 512) == []
    for name in embedded.subject_names()[::16]:
        one = embedded.load_subject(name)
        for folder, images in (("a", one.training_images()), ("b", one.reference_images()[:8])):
            (tmp_path / name / folder).mkdir(parents=True)
            for number, image in enumerate(images):
                image.save(tmp_path / name / folder / f"{number}.png")
        files = SubjectConfig(
            name="it",
            images=str(tmp_path / name / "a"),
            references=str(tmp_path / name / "b"),
            instance_prompt="a sks cat",
            class_prompt="a cat",
        )
        assert leaks(files) == []
        assert data_set_notes(files, 64) == []
