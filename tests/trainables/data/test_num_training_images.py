"""How many of a subject's images a run trains on: the same ones for every arm, fewer a part of more."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.config.fields import DataSetConfig, SubjectConfig
from trainables.data.images import image_digest
from trainables.data.subjects import Subject, check_subject, resolve_subject
from trainables.embedded import evaluation_prompts, load_subject
from trainables.embedded.captions import compose
from trainables.embedded.subjects import FURTHER_SETTINGS, REFERENCE_SCENES, TRAINING_SETTINGS

NAME = "bear-3"


def write_photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    patches = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(patches).resize((60, 48), Image.Resampling.BICUBIC).save(path)


def config(folder: Path, **fields: object) -> SubjectConfig:
    values = {"images": str(folder), "instance_prompt": "a sks teapot", "class_prompt": "a teapot", **fields}
    return SubjectConfig.model_validate({"name": "teapot", **values})


def pixels(subject: Subject) -> list[str]:
    return [image_digest(image) for image in subject.images]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(8):
        write_photo(tmp_path / "teapot" / f"{number}.png", number)
        (tmp_path / "teapot" / f"{number}.txt").write_text(f"a sks teapot, {number}")
    return tmp_path / "teapot"


def test_fewer_are_a_part_of_more_and_do_not_hang_on_names(folder: Path, tmp_path: Path) -> None:
    subject = resolve_subject(config(folder), 32, "files")
    chosen = [subject.trained_on(count) for count in range(1, 7)]
    assert [len(one.images) for one in chosen] == [1, 2, 3, 4, 5, 6]
    for few, more in itertools.pairwise(chosen):
        assert set(pixels(few)) < set(pixels(more))
    held = [folder / name for name in subject.reference_names]
    for path in held:  # references of their own, and names that sort otherwise
        write_photo(tmp_path / "held" / path.name, 50 + int(path.stem))
        path.unlink()
        path.with_suffix(".txt").unlink()
    renamed = shutil.copytree(folder, tmp_path / "renamed")
    for path in list(renamed.iterdir()):
        path.rename(path.with_stem(f"other-{9 - int(path.stem)}"))
    other = resolve_subject(config(renamed, references=str(tmp_path / "held")), 32, "files")
    assert set(pixels(other.trained_on(3))) == set(pixels(chosen[2]))
    assert set(other.trained_on(3).captions) == set(chosen[2].captions)


def test_captions_masks_and_sizes_go_with_their_images() -> None:
    subject = resolve_subject(SubjectConfig(name=NAME), 64, "files", masked=True)
    one = subject.trained_on(1)
    row = pixels(subject).index(pixels(one)[0])
    assert one.captions == (subject.captions[row],)
    assert image_digest(one.masks[0]) == image_digest(subject.masks[row])
    assert (one.sizes, one.image_names) == ((subject.sizes[row],), (subject.image_names[row],))
    assert one.references == subject.references
    assert subject.trained_on(None) is subject
    assert one.digest != subject.digest


def test_characters_and_squares_of_a_data_set_go_with_them_too() -> None:
    entries = {
        field.name: tuple(range(4))
        for field in dataclasses.fields(Subject)
        if field.name in ("captions", "image_names", "masks", "sizes", "characters", "squares")
    }
    images = resolve_subject(SubjectConfig(name=NAME), 64).images[:4]
    few = Subject("x", "a sks bear", "a bear", references=(), images=images, **entries).trained_on(2)
    assert {len(getattr(few, name)) for name in (*entries, "images")} == {2}


def test_embedded_subjects_have_ten() -> None:
    ten = resolve_subject(SubjectConfig(name=NAME), 64, "files", count=10)
    five = resolve_subject(SubjectConfig(name=NAME), 64, "files", count=3)
    assert (len(ten.images), len(five.images)) == (10, 5)
    assert pixels(ten)[:5] == pixels(five)
    assert len(set(pixels(ten))) == 10
    assert pixels(ten.trained_on(10)) == pixels(ten)
    assert ten.captions == tuple(load_subject(NAME).training_captions(10))


def test_further_images_show_nothing_that_is_asked_for() -> None:
    asked = {*evaluation_prompts("confirm"), *evaluation_prompts("search")}
    for scene, accessory in FURTHER_SETTINGS:
        assert scene not in REFERENCE_SCENES
        assert compose("{subject}", scene, accessory) not in asked
    assert {scene for scene, _ in FURTHER_SETTINGS} == {scene for scene, _ in TRAINING_SETTINGS}


@pytest.mark.parametrize(
    ("count", "told"),
    [(6, None), (7, "num_training_images is 7, but 'teapot' has 6 images to train on")],
)
def test_more_than_there_are_is_refused(folder: Path, count: int, told: str | None) -> None:
    problems = check_subject(config(folder), 32, count=count)
    assert problems == [] if told is None else (len(problems) == 1 and told in problems[0])


def test_more_than_an_embedded_subject_or_a_data_set_has(tmp_path: Path) -> None:
    (problem,) = check_subject(SubjectConfig(name=NAME), 64, count=11)
    assert "has 10 images" in problem
    for number in range(5):
        write_photo(tmp_path / "set" / f"{number}.png", number)
        (tmp_path / "set" / f"{number}.txt").write_text(f"a thing {number}")
    own = SubjectConfig(name="things", dataset=DataSetConfig(path=str(tmp_path / "set"), holdout=0.2))
    assert check_subject(own, 32, count=4) == []
    (problem,) = check_subject(own, 32, count=5)
    assert "has 4 images" in problem
    subject = resolve_subject(own, 32, count=2)
    few = subject.trained_on(2)
    assert (len(few.images), len(few.captions), len(few.squares)) == (2, 2, 2)
    assert few.reference_captions == subject.reference_captions
