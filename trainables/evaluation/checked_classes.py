"""A prepared data set, read and found sound before anything trains on it: its files are those that were split, and none
that is held out is learnt from. Each set of images is compared once a process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from trainables.data.image_folders import images_below
from trainables.data.images import list_images
from trainables.data.labelled_images import LabelledImage, labelled
from trainables.data.path_map import folder_of
from trainables.errors import UserError
from trainables.evaluation.class_data_sets import ClassDataSet
from trainables.evaluation.held_out_leaks import assert_no_leak
from trainables.evaluation.prepared_classes import REFERENCES, PreparedClasses, read_prepared
from trainables.util.text import shown, some

_sound: set[str] = set()  # keys of sets of images without a leak


def check_classes(prepared: PreparedClasses, trained_on: Iterable[Path] = ()) -> ClassDataSet:
    """Returns the images of a prepared data set if none that is held out is among those to learn from.

    Args:
        trained_on: Files that a generator learns from, wherever they lie: they are compared too.

    Raises:
        UserError: Naming files that are gone, unknown or other ones than when the data set was split, and pairs of
            images of which one is learnt from and one held out.
    """
    data = read_prepared(prepared)
    known = {image.digest for image in (*data.train, *data.left_out)}
    others = [labelled(path, str(path), "") for path in trained_on]
    require_no_leak(
        (*data.train, *data.left_out, *(image for image in others if image.digest not in known)),
        data.held_out,
        near=prepared.near_copies != "allow",
    )
    _check_references(prepared, data)
    return data


def require_no_leak(
    training: Sequence[LabelledImage], held_out: Sequence[LabelledImage], *, near: bool
) -> None:
    """Does what `assert_no_leak` does, once for each set of images."""
    key = pixels_key("real", training, held_out, near)
    if key not in _sound:
        assert_no_leak(training, held_out, near=near)
        _sound.add(key)


def pixels_key(
    kind: str, images: Sequence[LabelledImage], held_out: Sequence[LabelledImage], near: bool
) -> str:
    """Returns what names two sets of images and how they are compared; files count by the pixels that were read."""
    pixels = [[image.digest for image in some_of] for some_of in (images, held_out)]
    return hashlib.sha256(json.dumps([kind, near, pixels]).encode()).hexdigest()


def training_files(folders: dict[str, str]) -> list[Path]:
    """Returns the images that a run learns from, by the folders that its subject names (`SubjectConfig.folders`)."""
    if "images" in folders:
        return list_images(folder_of(folders["images"]))[0]
    if "dataset.path" in folders:
        return list(images_below(folder_of(folders["dataset.path"]), "dataset", "images")[0].values())
    return []


def _check_references(prepared: PreparedClasses, data: ClassDataSet) -> None:
    """By references the best step of a generator may be chosen, so that they are validation images and nothing else."""
    known = {image.digest for image in data.validation}
    found = [
        labelled(path, path.relative_to(prepared.folder).as_posix(), "")
        for path in sorted((prepared.folder / REFERENCES).glob("*/*"))
    ]
    foreign = [shown(image.name) for image in found if image.digest not in known]
    if foreign:
        raise UserError(
            f"{prepared.folder} has references that are no validation images: {some(foreign)}; remove them"
        )
