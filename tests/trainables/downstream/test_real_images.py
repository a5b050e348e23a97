"""Shares of real images: nested, with what was left out beyond 1."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.helpers.class_folders import pictures
from trainables.data.labelled_images import counts_of
from trainables.downstream.real_images import real_images
from trainables.errors import UserError
from trainables.evaluation.class_data_sets import ClassDataSet

CLASSES = ("cat", "dog")


def data(train: tuple[int, int] = (4, 10), left_out: tuple[int, int] = (6, 0)) -> ClassDataSet:
    kept = pictures(dict(zip(CLASSES, train, strict=True)))
    more = pictures(dict(zip(CLASSES, left_out, strict=True)), first=100)
    named = [replace(image, name=f"left_out/{image.name}") for image in more]
    return ClassDataSet(CLASSES, tuple(kept), (), (), tuple(named))


def test_all_of_them_are_those_to_train_on_as_they_are() -> None:
    assert real_images(data(), 1.0) == data().train
    assert real_images(data(), 0.0) == ()


def test_more_holds_what_fewer_holds() -> None:
    before: set[str] = set()
    sizes = []
    for share in (0.1, 0.25, 0.5, 0.9, 1.0, 1.3, 2.0, 2.5):
        names = {image.name for image in real_images(data(), share)}
        assert before <= names
        sizes.append(len(names))
        before = names
    assert sizes == [2, 4, 7, 13, 14, 15, 18, 20]


def test_a_class_of_which_nothing_was_left_out_stays() -> None:
    assert counts_of(real_images(data(), 2.0), CLASSES) == {"cat": 8, "dog": 10}


def test_more_than_there_is_of_any_class_is_refused() -> None:
    with pytest.raises(UserError, match=r"real_share 3 asks for more images of every class.*'cat' 12 of 10"):
        real_images(data(), 3.0)
