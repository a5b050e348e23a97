"""Photographs of one subject: read from folders, split into those that are trained on and held-out ones, checked.

A photograph that lies on both sides is refused, because fidelity to a training image is memory, not fidelity. Nothing
here needs torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from trainables.config.fields import ALPHA, SubjectConfig
from trainables.data.caption_files import CAPTION_SUFFIXES, caption_files, texts_of
from trainables.data.images import (
    FINGERPRINT_SIDE,
    fingerprint_of,
    is_notice,
    list_images,
    read_image,
    square,
)
from trainables.data.masks import Masked, MaskFolder, no_masks, read_masks
from trainables.data.path_map import folder_of
from trainables.errors import UserError
from trainables.util.text import is_blank, name_bytes, same_name, shown, some

Captions = Literal["instance_prompt", "files"]

_CAPTIONS_RULE = "captions: files needs a text file (.txt, or kohya's .caption) beside each training image"


def hold_out(names: Sequence[str], count: int) -> set[str]:
    """Returns the `count` names with the smallest hashes: a choice that an added photograph hardly changes, and that
    is the same on every file system, whichever spelling of a name (see `same_name`) it keeps.
    """
    ranked = sorted(names, key=lambda name: hashlib.sha256(name_bytes(same_name(name))).hexdigest())
    return set(ranked[:count])


@dataclass(frozen=True)
class Photo:
    """One photograph, cut and resized."""

    path: Path
    image: Image.Image
    fingerprint: str  # the same for two files that show the same pixels
    size: tuple[int, int]  # width and height before it was cut and resized

    @property
    def name(self) -> str:
        """The file's name as it can be shown."""
        return shown(self.path.name)


@dataclass(frozen=True)
class PhotoSplit:
    """The photographs of a subject that are trained on, and those that are held out."""

    training: tuple[Photo, ...]
    references: tuple[Photo, ...]
    captions: tuple[str, ...]  # empty unless they are read from files
    masks: tuple[Image.Image, ...]  # empty unless they are asked for


def read_photographs(
    config: SubjectConfig, resolution: int | None, captions: Captions, masked: bool
) -> tuple[PhotoSplit, list[str]]:
    """Reads and splits a subject of photographs; what could be read is returned beside the problems."""
    assert config.images is not None
    folder = folder_of(config.images)
    photos, problems = _read_photos(folder, resolution)
    if config.references is not None:
        reference_folder = folder_of(config.references)
        if _is_same(folder, reference_folder):
            problems.append(
                f"references and images are the same folder, {shown(str(folder))}; references must not be trained on: "
                "leave references out to hold some images out, or name another folder"
            )
            return PhotoSplit((), (), (), ()), _of_subject(config, problems)
        references, more = _read_photos(reference_folder, resolution)
        problems += more
        training = photos
    else:
        held_out = hold_out([photo.path.name for photo in photos], config.holdout)
        training = tuple(photo for photo in photos if photo.path.name not in held_out)
        references = tuple(photo for photo in photos if photo.path.name in held_out)
        if not problems and not training:
            problems.append(
                f"{shown(str(folder))} has {_count(photos)} and holdout is {config.holdout}, none is left to train on; "
                "add images, hold out fewer, or name a references folder"
            )
    problems += _overlaps(training, references)
    texts: tuple[str, ...] = ()
    if captions == "files":
        texts, more = _read_captions(folder, training)
        problems += more
    masks, more = _read_masks(config, training, resolution, masked)
    problems += more
    return PhotoSplit(training, references, texts, masks), _of_subject(config, problems)


def _is_same(folder: Path, other: Path) -> bool:
    try:
        return folder.samefile(other)
    except OSError:  # one of them is not there, or cannot be reached: told when it is read
        return False


def _of_subject(config: SubjectConfig, problems: list[str]) -> list[str]:
    return [f"subject {config.name!r}: {problem}" for problem in problems]


def _count(photos: Sequence[Photo]) -> str:
    return "1 image" if len(photos) == 1 else f"{len(photos)} images"


def _read_photos(folder: Path, resolution: int | None) -> tuple[tuple[Photo, ...], list[str]]:
    paths, problems = list_images(folder)
    photos = []
    for path in paths:
        try:
            image = read_image(path, resolution)
        except UserError as error:
            problems.extend(error.problems)
            continue
        # One decoded photograph at a time: a folder of large ones must not be held in memory at full size.
        kept = square(image, resolution or FINGERPRINT_SIDE)
        photos.append(Photo(path, kept, fingerprint_of(image), image.size))
    return tuple(photos), problems


def _overlaps(training: Sequence[Photo], references: Sequence[Photo]) -> list[str]:
    """Names every reference whose pixels are also trained on, under whatever file name and metadata."""
    trained: dict[str, list[str]] = {}
    for photo in training:
        trained.setdefault(photo.fingerprint, []).append(photo.name)
    return [
        f"{shown(str(photo.path))} is the same picture as {', '.join(trained[photo.fingerprint])}, which is trained "
        "on; references must be held out: remove one of them"
        for photo in references
        if photo.fingerprint in trained
    ]


def _read_masks(
    config: SubjectConfig, training: Sequence[Photo], resolution: int | None, masked: bool
) -> tuple[tuple[Image.Image, ...], list[str]]:
    """The mask of each training image, cut and resized like it, if they are asked for.

    A folder that is named is looked at in every case: that it is there, and that every mask in it has its image.
    """
    if config.masks is None:
        return (), [no_masks("masks")] if masked else []
    folder: MaskFolder | None = None
    problems: list[str] = []
    if config.masks != ALPHA:
        assert config.images is not None
        place, own = folder_of(config.masks), folder_of(config.images)
        if _is_same(place, own):
            return (), [
                f"masks and images are the same folder, {shown(str(own))}, so that each image would be its own mask; "
                f"name another folder, or masks: {ALPHA} for the images' own transparency"
            ]
        paths, problems = list_images(place)
        folder = MaskFolder(shown(str(config.masks)), {path.name: path for path in paths}, tuple(problems))
        images = [own, *([folder_of(config.references)] if config.references else [])]
        problems += folder.without_image(path.name for each in images for path in list_images(each)[0])
    if not masked:
        return (), problems
    sides = [resolution or min(photo.size) for photo in training]
    masks, more = read_masks(
        folder,
        [
            Masked(photo.path, photo.path.name, photo.size, (side, side))
            for photo, side in zip(training, sides, strict=True)
        ],
    )
    return tuple(mask.open() for mask in masks), problems + more


def _read_captions(folder: Path, training: Sequence[Photo]) -> tuple[tuple[str, ...], list[str]]:
    """The caption of each training image, on one line, from the text file that bears the image's name."""
    files = caption_files(folder) if training else {}
    texts, missing, empty, problems = [], [], [], _without_image(folder, files)
    for photo in training:
        paths = files.get(same_name(photo.path.stem), [])
        found, unread = texts_of(paths)
        problems += unread
        names = " and ".join(shown(path.name) for path in paths)
        text = next(iter(found), "")
        if not paths:
            missing.append(shown(photo.path.stem) + CAPTION_SUFFIXES[0])
        elif len(found) > 1:
            problems.append(f"{_CAPTIONS_RULE}; in {shown(str(folder))} {names} differ: remove one of them")
        elif found and is_blank(text):
            empty.append(names)
        texts.append(text)
    for what, concerned in (("missing", missing), ("empty", empty)):
        if concerned:
            problems.append(
                f"{_CAPTIONS_RULE}; in {shown(str(folder))} these are {what}: {', '.join(concerned)}"
            )
    return tuple(texts), list(dict.fromkeys(problems))


def _without_image(folder: Path, files: Mapping[str, Sequence[Path]]) -> list[str]:
    """Names captions beside which no image lies, trained on or held out: of a photograph that was lost or renamed."""
    stems = {same_name(path.stem) for path in list_images(folder)[0]}
    alone = [
        shown(path.name)
        for stem, paths in files.items()
        for path in paths
        if stem not in stems and not path.name.startswith(".") and not is_notice(path)
    ]
    if not alone:
        return []
    return [
        f"in {shown(str(folder))} {some(alone)}: a caption without its image; add the image, or take the text out of "
        "the folder"
    ]
