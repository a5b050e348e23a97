"""Data sets of classifiers: real images with classes, split before anything learns from them, without a leak.

What is generated is never part of one: validation and test hold images of the data set alone, and generators see
`ClassDataSet.train` alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from trainables.data.labelled_images import LabelledImage, LabelledSet, counts_of, read_labelled_folder
from trainables.data.labelled_metadata import PARTS, LabelColumns
from trainables.data.labelled_split import Parts, Shares, split_images
from trainables.data.labelled_subsets import Amount, thinned
from trainables.errors import UserError
from trainables.evaluation.held_out_leaks import Leak, copies_among, leak_problems
from trainables.evaluation.near_copies import Pairs, groups_of
from trainables.util.text import shown, some

#: What is done about nearly equal pictures in two parts of a split: see `split_class_data_set`.
NearCopies = Literal["refuse", "together", "allow"]

_NOTES_SHOWN = 8


@dataclass(frozen=True)
class ClassDataSet:
    """A data set that is split.

    Attributes:
        classes: In the order that numbers of labels stand for.
        train: What generators and classifiers learn from; likewise `validation` and `test`. In the order of digests, so
            that results do not hang on names.
        left_out: Of what could be trained on, what a stated imbalance drops. Never held out, never trained on; further
            real images for a learning curve.
        notes: What is allowed, but to be known.
    """

    classes: tuple[str, ...]
    train: tuple[LabelledImage, ...]
    validation: tuple[LabelledImage, ...]
    test: tuple[LabelledImage, ...]
    left_out: tuple[LabelledImage, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def held_out(self) -> tuple[LabelledImage, ...]:
        """What nothing may learn from."""
        return (*self.validation, *self.test)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Number of images of each class in each part, by part and class."""
        return {part: counts_of(getattr(self, part), self.classes) for part in PARTS}

    @property
    def digest(self) -> str:
        """Hex SHA-256 of classes and pixels of each part: of everything that can change a result, names left out."""
        content = [[part, [[image.label, image.digest] for image in getattr(self, part)]] for part in PARTS]
        return hashlib.sha256(json.dumps([self.classes, content]).encode()).hexdigest()


def read_class_data_set(
    folder: Path,
    *,
    columns: LabelColumns | None = None,
    classes: Sequence[str] | None = None,
    shares: Shares | None = None,
    seed: int = 0,
    imbalance: Mapping[str, Amount] | None = None,
    resolution: int | None = None,
    near_copies: NearCopies = "refuse",
) -> ClassDataSet:
    """Reads a folder of images with classes and splits it; see `read_labelled_folder` and `split_class_data_set`.

    Raises:
        UserError: Everything that is wrong with folder, files, split and imbalance. Nothing is written.
    """
    found, problems = read_labelled_folder(folder, columns, classes, resolution)
    split, more = _split(found, shares, seed, imbalance, resolution, near_copies)
    if problems or more:
        raise UserError(*dict.fromkeys([*problems, *more]))
    return split


def split_class_data_set(
    found: LabelledSet,
    *,
    shares: Shares | None = None,
    seed: int = 0,
    imbalance: Mapping[str, Amount] | None = None,
    resolution: int | None = None,
    near_copies: NearCopies = "refuse",
) -> ClassDataSet:
    """Splits images with classes into train, validation and test, and looks for leaks between these.

    Args:
        shares: Of the parts, where images have none yet.
        seed: Of the split and of what an imbalance keeps; with the pixels, it alone decides.
        imbalance: Fewer images of a class to train on: a number, or a share of its training images. Held-out images
            stay.
        resolution: Pixels that images will be resized to, for a note on what happens to their sizes.
        near_copies: "refuse" where nearly the same picture would be in two parts. "together": where a split is drawn,
            keep such pictures in one part, as a group is. "allow": note them; for worlds in which different images look
            alike, such as handwritten digits, where chains of such pictures are half a class. Equal pixels are always
            refused.

    Raises:
        UserError: Everything that is wrong.
    """
    split, problems = _split(found, shares, seed, imbalance, resolution, near_copies)
    if problems:
        raise UserError(*problems)
    return split


def _split(
    found: LabelledSet,
    shares: Shares | None,
    seed: int,
    imbalance: Mapping[str, Amount] | None,
    resolution: int | None,
    near_copies: NearCopies,
) -> tuple[ClassDataSet, list[str]]:
    exact, near = copies_among(found.images)
    groups = _joined(found.images, np.concatenate([exact, near])) if near_copies == "together" else None
    parts, problems, notes = split_images(found, shares, seed, groups)
    parts = Parts(*(tuple(sorted(images, key=lambda one: (one.digest, one.name))) for _, images in parts))
    exact_leaks, near_leaks = (
        _leaks_between(parts, found.images, *each) for each in ((exact, True), (near, False))
    )
    problems += exact_leaks
    if near_copies == "allow":
        notes += near_leaks
    else:
        problems += near_leaks
    train = parts.train
    if imbalance and train:
        train, more = thinned(parts.train, imbalance, seed)
        problems += more
    kept = set(train)
    left_out = tuple(image for image in parts.train if image not in kept)
    notes += _copy_notes(parts, found.images, np.concatenate([exact, near])) + _size_notes(
        found.images, resolution
    )
    return ClassDataSet(found.classes, train, parts.validation, parts.test, left_out, tuple(notes)), problems


def _joined(images: Sequence[LabelledImage], pairs: Pairs) -> list[str]:
    """Names of groups that hold images of one group, and copies, whatever group they are of."""
    first: dict[str, int] = {}
    same_group = [(first.setdefault(image.group, n), n) for n, image in enumerate(images) if image.group]
    own = np.array([pair for pair in same_group if pair[0] != pair[1]], dtype=np.intp).reshape(-1, 2)
    names = [image.group for image in images]
    for members in groups_of(len(images), np.concatenate([pairs, own])):
        for number in members:
            names[number] = f"copies of {images[members[0]].name}"
    return names


def _places(parts: Parts) -> dict[LabelledImage, str]:
    return {image: name for name, images in parts for image in images}


def _leaks_between(parts: Parts, images: Sequence[LabelledImage], pairs: Pairs, is_exact: bool) -> list[str]:
    """Pictures that are in two parts, a message for each two parts."""
    where = _places(parts)
    found: dict[tuple[str, str], list[Leak]] = {}
    for row, column in pairs.tolist():
        one, other = images[row], images[column]
        if one not in where or other not in where or where[one] == where[other]:
            continue
        if PARTS.index(where[one]) > PARTS.index(where[other]):
            one, other = other, one
        found.setdefault((where[one], where[other]), []).append(Leak(one, other, is_exact))
    return [
        problem
        for (part, other_part), some_of in sorted(found.items())
        for problem in leak_problems(some_of, f"in {part} and in {other_part}")
    ]


def _copy_notes(parts: Parts, images: Sequence[LabelledImage], pairs: Pairs) -> list[str]:
    """Pictures that one part has several times."""
    where = _places(parts)
    effects = {
        "train": "is trained on more often",
        "validation": "counts more often",
        "test": "counts more often",
    }
    notes = []
    for name, effect in effects.items():
        inside = np.array(
            [where.get(images[row]) == where.get(images[column]) == name for row, column in pairs.tolist()],
            dtype=np.bool_,
        )
        groups = groups_of(len(images), pairs[inside])
        listed = [
            " and ".join(
                [shown(images[n].name) for n in group[:3]]
                + ([f"{len(group) - 3} more"] if len(group) > 3 else [])
            )
            + (" (of several classes)" if len({images[n].label for n in group}) > 1 else "")
            for group in groups
        ]
        if listed:
            notes.append(
                f"nearly the same picture several times in {name}, so that it {effect}: {some(listed, _NOTES_SHOWN)}"
            )
    return notes


def _size_notes(images: Sequence[LabelledImage], resolution: int | None) -> list[str]:
    """What happens to images of several sizes, or of no square."""
    sizes = sorted({image.size for image in images}, key=lambda size: (size[0] * size[1], size))
    if not sizes or (len(sizes) == 1 and sizes[0][0] == sizes[0][1]):
        return []
    to = f"resized to {resolution} x {resolution} pixels" if resolution else "resized"
    begin = f"{sizes[0][0]} x {sizes[0][1]}"
    seen = (
        begin
        if len(sizes) == 1
        else f"of {len(sizes)} sizes, from {begin} to {sizes[-1][0]} x {sizes[-1][1]}"
    )
    return [f"images are {seen}; of each the square in its middle is used, {to}"]
