"""Stated imbalances and nested subsets of images with classes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.helpers.class_folders import pictures
from trainables.data.labelled_images import LabelledImage
from trainables.data.labelled_subsets import Amount, nested_subsets, ranked, thinned


@pytest.fixture(scope="module")
def images() -> list[LabelledImage]:
    return pictures({"a": 10, "b": 6})


def counts(images: tuple[LabelledImage, ...]) -> dict[str, int]:
    return dict(Counter(image.label for image in images))


def test_subsets_are_nested_and_have_as_many_of_each_class(images: list[LabelledImage]) -> None:
    subsets, problems = nested_subsets(images, [1, 3, 6], seed=0)
    assert problems == []
    assert [counts(subset) for subset in subsets] == [{"a": k, "b": k} for k in (1, 3, 6)]
    assert set(subsets[0]) < set(subsets[1]) < set(subsets[2]) < set(images)


def test_subsets_may_be_shares_of_every_class(images: list[LabelledImage]) -> None:
    subsets, _ = nested_subsets(images, [0.01, 0.5, 1.0], seed=0)
    assert [counts(subset) for subset in subsets] == [{"a": 1, "b": 1}, {"a": 5, "b": 3}, {"a": 10, "b": 6}]


def test_pixels_and_seed_choose_and_neither_names_nor_order(images: list[LabelledImage]) -> None:
    renamed = [replace(image, name=f"x{n}") for n, image in enumerate(reversed(images))]
    chosen = [
        {image.digest for image in nested_subsets(some, [3], seed)[0][0]}
        for some, seed in ((images, 0), (renamed, 0), (images, 1))
    ]
    assert chosen[0] == chosen[1] != chosen[2]


def test_an_imbalance_drops_images_of_a_class_and_keeps_the_first_in_rank(
    images: list[LabelledImage],
) -> None:
    kept, problems = thinned(images, {"a": 4, "b": 0.5}, seed=0)
    assert problems == []
    assert counts(kept) == {"a": 4, "b": 3}
    assert set(kept) == {
        *[image for image in ranked(images, 0) if image.label == "a"][:4],
        *[image for image in ranked(images, 0) if image.label == "b"][:3],
    }
    assert set(nested_subsets(images, [3], seed=0)[0][0]) <= set(kept)


def test_classes_that_are_not_named_keep_all(images: list[LabelledImage]) -> None:
    assert counts(thinned(images, {"a": 1}, seed=0)[0]) == {"a": 1, "b": 6}


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (0, "0 images; at least one"),
        (11, "11 images; there are 10 to train on"),
        (0.0, "0 is no share; it must be above 0"),
        (1.5, "1.5 is no share"),
        (True, "True is neither a number of images nor a share"),
        ("3", "'3' is neither"),
    ],
)
def test_amounts_that_are_wrong(images: list[LabelledImage], amount: Amount, said: str) -> None:
    kept, problems = thinned(images, {"a": amount, "none": 1}, seed=0)
    assert kept == tuple(images)
    assert problems[0] == "imbalance: no class 'none'; it has 'a', 'b'"
    assert problems[1].startswith(f"imbalance of 'a': {said}")


def test_a_subset_must_be_there(images: list[LabelledImage]) -> None:
    subsets, problems = nested_subsets(images, [2, 7, 0.0], seed=0)
    assert subsets == ()
    assert [one.split(";")[0] for one in problems] == [
        "subset of 7 of each class: 7 images",
        "subset of 0.0 of each class: 0 is no share",
    ]
    assert problems[0].endswith("there are 6 to train on (class 'b')")
