"""Data sets with classes as a whole: read, split, made uneven, and checked for leaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from tests.helpers.class_folders import class_folder, flat_folder, image_of, pictures
from tests.helpers.image_folders import picture
from trainables.data.labelled_images import LabelledImage, labelled, labelled_set
from trainables.data.labelled_split import Shares
from trainables.errors import UserError
from trainables.evaluation.class_data_sets import ClassDataSet, read_class_data_set, split_class_data_set

HALVES = Shares(0.5, 0.25, 0.25)


def problems_of(folder: Path, **settings: object) -> list[str]:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(UserError) as raised:
        read_class_data_set(folder, **settings)  # type: ignore[arg-type]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before  # nothing is written
    return list(raised.value.problems)


def digests(split: ClassDataSet) -> list[list[str]]:
    """In the order in which images are trained on."""
    return [[one.digest for one in part] for part in (split.train, split.validation, split.test)]


def test_a_folder_is_split_and_the_same_wherever_it_lies(tmp_path: Path) -> None:
    class_folder(tmp_path / "x", {"a": 8, "b": 4})
    split = read_class_data_set(tmp_path / "x", shares=HALVES, seed=5)
    assert split.classes == ("a", "b")
    assert split.counts == {
        "train": {"a": 4, "b": 2},
        "validation": {"a": 2, "b": 1},
        "test": {"a": 2, "b": 1},
    }
    assert (split.notes, split.left_out) == ((), ())
    assert split.held_out == (*split.validation, *split.test)
    for number, path in enumerate(sorted((tmp_path / "x").rglob("*.png"), reverse=True)):
        other = tmp_path / "y" / path.parent.name / f"{number}.bmp"
        other.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(other)
    again = read_class_data_set(tmp_path / "y", shares=HALVES, seed=5)
    assert digests(again) == digests(split)
    assert again.digest == split.digest != read_class_data_set(tmp_path / "x", shares=HALVES).digest


def test_an_imbalance_drops_training_images_alone(tmp_path: Path) -> None:
    class_folder(tmp_path, {"a": 12, "b": 12})
    whole = read_class_data_set(tmp_path, shares=HALVES)
    fewer = read_class_data_set(tmp_path, shares=HALVES, imbalance={"b": 2})
    assert fewer.counts["train"] == {"a": 6, "b": 2}
    assert fewer.held_out == whole.held_out
    assert set(fewer.train) | set(fewer.left_out) == set(whole.train)
    assert {image.label for image in fewer.left_out} == {"b"}
    assert problems_of(tmp_path, imbalance={"c": 1, "a": 0}) == [
        "imbalance: no class 'c'; it has 'a', 'b'",
        "imbalance of 'a': 0 images; at least one of each class is needed",
    ]


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    class_folder(tmp_path, {"a": 6, "b": 1, "c": 6})
    (tmp_path / "c" / "x.png").write_bytes(b"no image")
    (tmp_path / "d").mkdir()
    said = problems_of(tmp_path, shares=Shares(0.9, 0.2, 0.2), classes=["a", "b", "c", "e"])
    assert [any(words in one for one in said) for words in ("x.png", "without images: d", "'e'")] == [
        True
    ] * 3
    assert any("the shares come to 1.3" in one for one in said)
    assert any(one.startswith("class 'b' has 1 image;") for one in said)
    assert len(said) == 5


def given(folder: Path, parts: str) -> Path:
    rows = [
        ["ab"[n % 2], {"t": "train", "v": "validation", "s": "test"}[part]] for n, part in enumerate(parts)
    ]
    return flat_folder(folder, ["class", "split"], rows)


def test_copies_in_two_parts_of_a_given_split_are_refused_and_named(tmp_path: Path) -> None:
    given(tmp_path, "ttttvvss")
    picture(0).save(tmp_path / "04.png")  # validation: exactly the first of train
    picture(1).resize((90, 90), Image.Resampling.BICUBIC).save(tmp_path / "07.png")  # test
    ImageOps.mirror(picture(5)).save(tmp_path / "06.png")  # test, of validation
    said = problems_of(tmp_path)
    assert [one.split(";")[0] for one in said] == [
        "the same picture is in train and in validation: 04.png (as 00.png)",
        "nearly the same picture is in train and in test: 07.png (as 01.png)",
        "nearly the same picture is in validation and in test: 06.png (as 05.png)",
    ]
    assert [one.split(" is ")[0] for one in problems_of(tmp_path, near_copies="allow")] == [
        "the same picture"
    ]


def test_copies_in_one_part_are_noted(tmp_path: Path) -> None:
    given(tmp_path, "ttttvvss")
    ImageOps.mirror(picture(0)).save(tmp_path / "02.png")
    assert read_class_data_set(tmp_path).notes == (
        "nearly the same picture several times in train, so that it is trained on more often: 00.png and 02.png",
    )


def near_copies() -> list[LabelledImage]:
    """Pictures of which each has a mirrored twin under another name."""
    images = pictures({"a": 12, "b": 12})
    twins = [
        labelled(ImageOps.mirror(image_of(n)), f"twin {image.name}", image.label)
        for n, image in enumerate(images)
    ]
    return [*images, *twins]


def test_near_copies_are_refused_or_stay_together() -> None:
    found, _ = labelled_set(near_copies())
    with pytest.raises(UserError, match="nearly the same picture is in train and in"):
        split_class_data_set(found, shares=HALVES)
    allowed = split_class_data_set(found, shares=HALVES, near_copies="allow")
    assert any(note.startswith("nearly the same picture is in train and in") for note in allowed.notes)
    split = split_class_data_set(found, shares=HALVES, near_copies="together")
    assert split.counts["train"] == {"a": 12, "b": 12}
    where = {image.name: part for part in ("train", "validation", "test") for image in getattr(split, part)}
    assert all(where[name] == where[f"twin {name}"] for name in where if not name.startswith("twin"))


def test_copies_of_several_groups_keep_these_together() -> None:
    images = [replace(image, group=f"g{n % 8}") for n, image in enumerate(pictures({"a": 16, "b": 16}))]
    images.append(labelled(ImageOps.mirror(image_of(0)), "twin", "a", "g3"))  # so that g0 and g3 are one
    split = split_class_data_set(labelled_set(images)[0], shares=HALVES, near_copies="together")
    where = {image.group: part for part in ("train", "validation", "test") for image in getattr(split, part)}
    assert where["g0"] == where["g3"]
    assert sum(map(len, (split.train, split.validation, split.test))) == 33


def test_what_happens_to_sizes_is_said(tmp_path: Path) -> None:
    class_folder(tmp_path, {"a": 7, "b": 8})
    assert read_class_data_set(tmp_path, shares=HALVES, resolution=64).notes == ()
    picture(20, (120, 60)).save(tmp_path / "a" / "wide.png")
    assert read_class_data_set(tmp_path, shares=HALVES, resolution=32).notes == (
        "images are of 2 sizes, from 64 x 64 to 120 x 60; of each the square in its middle is used, resized to 32 x 32 "
        "pixels",
    )
    assert "the shorter side must have at least 75 pixels" in problems_of(tmp_path, resolution=300)[0]
