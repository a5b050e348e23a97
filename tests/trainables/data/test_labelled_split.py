"""Splits of images with classes: shares, groups, classes, and that pixels and seed alone decide."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.class_folders import pictures
from trainables.data.labelled_images import LabelledImage, LabelledSet, labelled_set
from trainables.data.labelled_split import Parts, Shares, split_images
from trainables.data.labelled_subsets import nested_subsets

HALVES = Shares(0.5, 0.25, 0.25)


def set_of(images: list[LabelledImage]) -> LabelledSet:
    found, problems = labelled_set(images)
    assert problems == []
    return found


def split(images: list[LabelledImage], shares: Shares = HALVES, seed: int = 0) -> Parts:
    parts, problems, _ = split_images(set_of(images), shares, seed)
    assert problems == []
    assert sorted(image.name for _, some in parts for image in some) == sorted(image.name for image in images)
    return parts


def problems_of(images: list[LabelledImage], shares: Shares | None = None) -> list[str]:
    return split_images(set_of(images), shares, 0)[1]


def by_pixels(parts: Parts) -> dict[str, list[str]]:
    return {name: sorted(image.digest for image in images) for name, images in parts}


@pytest.fixture(scope="module")
def uneven() -> list[LabelledImage]:
    return pictures({"a": 40, "b": 12, "c": 4})


def test_every_class_has_its_share_of_each_part(uneven: list[LabelledImage]) -> None:
    parts = split(uneven)
    assert [len(images) for _, images in parts] == [28, 14, 14]
    for label, count in (("a", 40), ("b", 12), ("c", 4)):
        for (_, images), share in zip(parts, (0.5, 0.25, 0.25), strict=True):
            assert sum(image.label == label for image in images) == count * share


def test_a_rare_class_is_in_every_part_whatever_its_share() -> None:
    parts = split(pictures({"a": 60, "b": 3, "c": 3}), Shares(0.8, 0.1, 0.1))
    assert all({image.label for image in images} == {"a", "b", "c"} for _, images in parts)


def test_pixels_and_seed_decide_and_neither_order_nor_names(uneven: list[LabelledImage]) -> None:
    again = [
        replace(image, name=f"other {n}.jpg") for n, image in enumerate(random.Random(1).sample(uneven, 56))
    ]
    first = by_pixels(split(uneven))
    assert by_pixels(split(again)) == first
    assert by_pixels(split(uneven, seed=1)) != first


def test_split_and_subsets_are_those_of_other_machines() -> None:
    """What was found once on one machine, from digests, groups and seed alone."""
    images = [
        LabelledImage(
            Path("x"), f"{n:02}", "ab"[n % 3 == 0], f"{n:064x}", (1, 1), f"g{n // 2}" if n < 12 else ""
        )
        for n in range(24)
    ]
    parts = split(images, seed=7)
    assert [[image.name for image in some] for _, some in parts] == [
        ["00", "01", "04", "05", "06", "07", "13", "15", "17", "19", "20", "21"],
        ["08", "09", "10", "11", "18", "22"],
        ["02", "03", "12", "14", "16", "23"],
    ]
    subsets, _ = nested_subsets(images, [1, 3], seed=7)
    assert [[image.name for image in some] for some in subsets] == [
        ["05", "06"],
        ["00", "05", "06", "10", "20", "21"],
    ]


def test_an_added_image_hardly_changes_the_split(uneven: list[LabelledImage]) -> None:
    before = {image.digest: name for name, images in split(uneven) for image in images}
    after = {
        image.digest: name
        for name, images in split([*uneven, *pictures({"a": 1}, first=90)])
        for image in images
    }
    assert sum(after[digest] != name for digest, name in before.items()) <= 2


def test_groups_stay_whole_and_their_names_do_not_matter() -> None:
    draw = np.random.default_rng(0)
    labels = {"a": 60, "b": 30, "c": 10}
    groups = [f"animal {draw.integers(20)}" for _ in range(100)]
    images = pictures(labels, groups)
    parts = split(images)
    where = [{image.group for image in some} for _, some in parts]
    assert all(not one & other for one, other in itertools.combinations(where, 2))
    for (_, some), share in zip(parts, (0.5, 0.25, 0.25), strict=True):
        for label, count in labels.items():
            assert sum(image.label == label for image in some) == pytest.approx(
                count * share, abs=max(2, 0.06 * count)
            )
    renamed = [replace(image, group=f"x{image.group}") for image in images]
    assert by_pixels(split(renamed)) == by_pixels(parts)


def test_equal_pixels_without_a_group_stay_together() -> None:
    images = pictures({"a": 12, "b": 12})
    twins = [replace(image, name=f"again {image.name}") for image in images]
    where = {image.name: name for name, some in split([*images, *twins]) for image in some}
    assert all(where[image.name] == where[f"again {image.name}"] for image in images)


def test_large_groups_make_a_note_of_other_shares() -> None:
    groups = ["x"] * 10 + ["y", "z"] + ["u"] * 10 + ["v", "w"]
    _, problems, notes = split_images(set_of(pictures({"a": 12, "b": 12}, groups)), HALVES, 0)
    assert problems == []
    assert len(notes) == 1
    assert "the split has other shares than asked for, since groups stay whole" in notes[0]
    assert "train 83% (asked for: 50%), validation 8% (asked for: 25%)" in notes[0]


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        (Shares(0.85, 0.15, 0.0), "the share of test is 0.0; it must be above 0"),
        (Shares(1.2, -0.1, -0.1), "the share of validation is -0.1; it must be above 0"),
        (Shares(float("nan"), 0.5, 0.5), "the share of train is nan"),
        (Shares(0.8, 0.2, 0.2), "come to 1.2 (train 0.8, validation 0.2, test 0.2); they must come to 1"),
        (Shares(0.5, 0.2, 0.2), "come to 0.9"),
    ],
)
def test_shares_that_are_wrong(shares: Shares, said: str) -> None:
    assert said in "\n".join(problems_of(pictures({"a": 6, "b": 6}), shares))


def test_a_class_of_one_image_and_classes_of_too_few_groups() -> None:
    groups = ["g", "", "", ""] + ["h"] * 4 + ["i", "i"]
    said = problems_of(pictures({"a": 1, "b": 3, "c": 4, "d": 2}, groups))
    assert [one.split(";")[0] for one in said] == [
        "class 'a' has 1 image",
        "class 'c' has 4 images of 1 group or different pictures",
        "class 'd' has 2 images of 1 group or different pictures",
    ]
    assert "each of train, validation, test needs one that is in no other: add images" in said[0]


def given(parts: str, labels: str, groups: str = "") -> list[LabelledImage]:
    names = {"t": "train", "v": "validation", "s": "test", "-": ""}
    images = pictures({"x": len(parts)}, list(groups) if groups else ())
    return [
        replace(image, part=names[part], label=label)
        for image, part, label in zip(images, parts, labels, strict=True)
    ]


def test_a_given_split_is_taken() -> None:
    images = given("ttvvss", "ababab")
    assert [[image.name for image in some] for _, some in split(images, seed=3)] == [
        ["000.png", "001.png"],
        ["002.png", "003.png"],
        ["004.png", "005.png"],
    ]


def test_a_given_split_that_lacks_a_class_or_a_part() -> None:
    said = problems_of(given("ttvvss", "abaaab"))
    assert said == [
        "classes without an image in validation: 'b'; put some there, or where the split is drawn, add images or "
        "groups of these classes"
    ]
    assert [one.split(";")[0] for one in problems_of(given("ttss", "abab"))] == [
        "classes without an image in validation: 'a', 'b'"
    ]


def test_groups_that_span_a_given_split() -> None:
    said = problems_of(given("ttvvss", "ababab", "ghigkh"))
    assert len(said) == 1
    assert "'g' (train: 000.png, validation: 003.png), 'h' (train: 001.png, test: 005.png)" in said[0]


def test_an_image_that_a_given_split_leaves_out() -> None:
    assert "images without a split: 006.png" in problems_of(given("ttvvss-", "abababa"))[0]
