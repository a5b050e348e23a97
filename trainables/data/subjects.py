"""What is taught: training images with captions, held-out references, and the two prompts that name the
subject.

A subject is either one of the embedded world's, known by its name, or a folder of photographs. References are
never trained on: they come from a folder of their own or are held out, and a photograph that lies in both is
refused, because fidelity to a training image is memory, not fidelity. Nothing here needs torch.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from trainables.config.fields import ALPHA, SubjectConfig
from trainables.data.buckets import geometry_in
from trainables.data.caption_files import CAPTION_SUFFIXES, caption_files, texts_of
from trainables.data.images import (
    FINGERPRINT_SIDE,
    fingerprint_of,
    image_digest,
    list_images,
    read_image,
    read_mask,
    square,
)
from trainables.data.path_map import folder_of
from trainables.errors import UserError
from trainables.util.text import is_blank, name_bytes, same_name, shown

Captions = Literal["instance_prompt", "files"]

_CAPTIONS_RULE = "captions: files needs a text file (.txt, or kohya's .caption) beside each training image"
_MASKS_RULE = "masked_loss: true needs to know where each training image shows the subject"


@dataclass(frozen=True)
class Subject:
    """A subject with its images loaded.

    Attributes:
        name: As in the study file.
        instance_prompt: Names the subject by its rare token, e.g. "a sks dog".
        class_prompt: The same without it, e.g. "a dog".
        images: Training images, RGB squares of one size.
        captions: One for each training image.
        references: Held-out images for scoring, RGB squares of the same size.
        embedded: Whether it belongs to the embedded world, which has evaluation prompts of its own.
        image_names: File names (or made-up ones) of the training images, for messages and grids.
        reference_names: The same of the references.
        masks: Where each training image shows the subject, 8-bit grey of the same size (255: subject); empty unless
            they were asked for.
        sizes: Width and height of each training image as it was before it was cut and resized.
        is_data_set: It is a set of captioned images. Then `captions` and `reference_captions` bear the trigger in
            front where there is one, `instance_prompt` is the trigger with ", " after it, or empty, `class_prompt` is
            empty, so that a template ``{subject}caption`` filled with the one asks for the data set and with the other
            for what the base model makes of the caption. Training images may have several sizes, those of their buckets
            (see `trainables/data/buckets.py`); references are squares as ever.
        reference_captions: Of a data set: one for each reference.
        characters: Of a data set whose characters are named: whom each training image shows; else empty.
        reference_characters: The same of the references.
        side: Of squares in pixels; 0 where all images have the same size, which is that of the first.
    """

    name: str
    instance_prompt: str
    class_prompt: str
    images: tuple[Image.Image, ...]
    captions: tuple[str, ...]
    references: tuple[Image.Image, ...]
    embedded: bool = False
    image_names: tuple[str, ...] = ()
    reference_names: tuple[str, ...] = ()
    masks: tuple[Image.Image, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    is_data_set: bool = False
    reference_captions: tuple[str, ...] = ()
    characters: tuple[str, ...] = ()
    reference_characters: tuple[str, ...] = ()
    side: int = 0

    @property
    def geometry(self) -> tuple[tuple[float, ...], ...]:
        """Size and crop of each training image, see `geometry_in`."""
        sizes = self.sizes or tuple(image.size for image in self.images)
        return tuple(geometry_in(size, image.size) for size, image in zip(sizes, self.images, strict=True))

    @property
    def resolution(self) -> int:
        """Side of all images in pixels."""
        return self.side or self.images[0].width

    @property
    def digest(self) -> str:
        """Hex SHA-256 of prompts, captions and pixels: of everything that can change a result, names left out."""
        content = {
            "prompts": [self.instance_prompt, self.class_prompt],
            "captions": self.captions,
            "images": [image_digest(image) for image in self.images],
            "references": [image_digest(image) for image in self.references],
        }
        if self.masks:
            content["masks"] = [image_digest(mask) for mask in self.masks]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_subject(
    config: SubjectConfig,
    resolution: int | None = None,
    captions: Captions = "instance_prompt",
    *,
    masked: bool = False,
) -> list[str]:
    """Returns everything that is wrong with a subject, one message a problem; reads all its images to the
    end.

    Args:
        resolution: Pixels that the images will be resized to; None leaves out the rule on enlargement.
        captions: "files" also demands a text file beside each training image.
        masked: Also demands a mask of each training image.
    """
    if config.images is None:
        return _embedded_problems(config)
    return _read_folders(config, resolution, captions, masked)[1]


def resolve_subject(
    config: SubjectConfig,
    resolution: int,
    captions: Captions = "instance_prompt",
    *,
    masked: bool = False,
) -> Subject:
    """Loads a subject's images as RGB squares of `resolution` pixels, and their masks if those are asked for.

    Raises:
        UserError: With every problem that `check_subject` would find.
    """
    if config.images is None:
        problems = _embedded_problems(config)
        if problems:
            raise UserError(*problems)
        return _embedded_subject(config, resolution, captions, masked)
    split, problems = _read_folders(config, resolution, captions, masked)
    if problems:
        raise UserError(*problems)
    instance_prompt, class_prompt = prompts_of(config)
    return Subject(
        name=config.name,
        instance_prompt=instance_prompt,
        class_prompt=class_prompt,
        images=tuple(photo.image for photo in split.training),
        captions=split.captions or (instance_prompt,) * len(split.training),
        references=tuple(photo.image for photo in split.references),
        image_names=tuple(photo.name for photo in split.training),
        reference_names=tuple(photo.name for photo in split.references),
        masks=split.masks,
        sizes=tuple(photo.size for photo in split.training),
    )


def prompts_of(config: SubjectConfig) -> tuple[str, str]:
    """Returns the instance prompt and the class prompt of a subject; reads no image.

    Raises:
        UserError: It has no images and is none of the embedded world's.
    """
    if config.images is not None:
        assert config.instance_prompt is not None
        assert config.class_prompt is not None
        return config.instance_prompt, config.class_prompt
    problems = _embedded_problems(config)
    if problems:
        raise UserError(*problems)
    from trainables.embedded import load_subject

    source = load_subject(config.name)
    return config.instance_prompt or source.instance_prompt, config.class_prompt or source.class_prompt


def training_captions(config: SubjectConfig) -> dict[str, str]:
    """Returns the captions of a subject's training images by the files that hold them; decodes no image.

    What cannot be read is left out: `check_subject` names it.
    """
    if config.images is None:
        return {} if _embedded_problems(config) else _embedded_captions(config)
    folder = folder_of(config.images)
    paths, _ = list_images(folder)
    held_out = set() if config.references else hold_out([path.name for path in paths], config.holdout)
    files = caption_files(folder) if paths else {}
    found: dict[str, str] = {}
    for path in paths:
        beside = files.get(same_name(path.stem), [])
        texts, _ = texts_of(beside)
        if path.name not in held_out and len(texts) == 1:
            found[shown(str(beside[0]))] = texts.pop()
    return found


def hold_out(names: Sequence[str], count: int) -> set[str]:
    """Returns the `count` names with the smallest hashes: a choice that an added photograph hardly changes, and that
    is the same on every file system, whichever spelling of a name (see `same_name`) it keeps.
    """
    ranked = sorted(names, key=lambda name: hashlib.sha256(name_bytes(same_name(name))).hexdigest())
    return set(ranked[:count])


@dataclass(frozen=True)
class _Photo:
    path: Path
    image: Image.Image
    fingerprint: str  # the same for two files that show the same pixels
    size: tuple[int, int]  # width and height before it was cut and resized

    @property
    def name(self) -> str:
        """The file's name as it can be shown."""
        return shown(self.path.name)


@dataclass(frozen=True)
class _Split:
    training: tuple[_Photo, ...]
    references: tuple[_Photo, ...]
    captions: tuple[str, ...]  # empty unless they are read from files
    masks: tuple[Image.Image, ...]  # empty unless they are asked for


def _embedded_problems(config: SubjectConfig) -> list[str]:
    from trainables.embedded import subject_names, subject_ranges

    names = subject_names()
    problems = []
    if config.name not in names:
        near = difflib.get_close_matches(config.name, names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(repr(name) for name in near)}? " if near else ""
        problems.append(
            f"subject {config.name!r} has no images and is none of the embedded world's: {hint}"
            f"Give it a folder (images: photos/{config.name}) or take one of {subject_ranges()}"
        )
    if config.references is not None:
        problems.append(f"subject {config.name!r}: references need images; name the folder to train on too")
    return problems


def _embedded_captions(config: SubjectConfig) -> dict[str, str]:
    from trainables.embedded import load_subject

    captions = load_subject(config.name).training_captions()
    return {f"training-{number}": caption for number, caption in enumerate(captions)}


def _embedded_subject(config: SubjectConfig, resolution: int, captions: Captions, masked: bool) -> Subject:
    from trainables.embedded import load_subject

    source = load_subject(config.name)
    pictures = source.training_images()
    images = tuple(square(image, resolution) for image in pictures)
    references = tuple(square(image, resolution) for image in source.reference_images())
    instance_prompt, class_prompt = prompts_of(config)
    texts = tuple(source.training_captions()) if captions == "files" else (instance_prompt,) * len(images)
    return Subject(
        name=config.name,
        instance_prompt=instance_prompt,
        class_prompt=class_prompt,
        images=images,
        captions=texts,
        references=references,
        embedded=True,
        image_names=tuple(f"training-{number}" for number in range(len(images))),
        reference_names=tuple(f"reference-{number}" for number in range(len(references))),
        masks=tuple(square(mask, resolution) for mask in source.training_masks()) if masked else (),
        sizes=tuple(picture.size for picture in pictures),
    )


def _read_folders(
    config: SubjectConfig, resolution: int | None, captions: Captions, masked: bool
) -> tuple[_Split, list[str]]:
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
            return _Split((), (), (), ()), _of_subject(config, problems)
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
    masks: tuple[Image.Image, ...] = ()
    if masked:
        masks, more = _read_masks(config, training, resolution)
        problems += more
    return _Split(training, references, texts, masks), _of_subject(config, problems)


def _is_same(folder: Path, other: Path) -> bool:
    try:
        return folder.samefile(other)
    except OSError:  # one of them is not there, or cannot be reached: told when it is read
        return False


def _of_subject(config: SubjectConfig, problems: list[str]) -> list[str]:
    return [f"subject {config.name!r}: {problem}" for problem in problems]


def _count(photos: Sequence[_Photo]) -> str:
    return "1 image" if len(photos) == 1 else f"{len(photos)} images"


def _read_photos(folder: Path, resolution: int | None) -> tuple[tuple[_Photo, ...], list[str]]:
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
        photos.append(_Photo(path, kept, fingerprint_of(image), image.size))
    return tuple(photos), problems


def _overlaps(training: Sequence[_Photo], references: Sequence[_Photo]) -> list[str]:
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
    config: SubjectConfig, training: Sequence[_Photo], resolution: int | None
) -> tuple[tuple[Image.Image, ...], list[str]]:
    """The mask of each training image, cut and resized like it."""
    if config.masks is None:
        return (), [f"{_MASKS_RULE}; give a folder of masks (masks: PATH), or masks: {ALPHA}"]
    problems: list[str] = []
    files: dict[str, list[Path]] = {}
    if config.masks != ALPHA:
        paths, problems = list_images(folder_of(config.masks))
        for path in paths:
            files.setdefault(same_name(path.stem), []).append(path)
    masks, missing = [], []
    for photo in training:
        found = [photo.path] if config.masks == ALPHA else files.get(same_name(photo.path.stem), [])
        if len(found) != 1:
            missing.append(shown(photo.path.stem) + (f" ({len(found)} files)" if found else ""))
            continue
        try:
            mask = read_mask(found[0], photo.size, alpha=config.masks == ALPHA)
        except UserError as error:
            problems += error.problems
            continue
        mask = square(mask, resolution or min(mask.size))
        if not mask.getextrema()[1]:
            problems.append(
                f"{shown(str(found[0]))}: marks nothing of the central square; white (255) is the subject"
            )
        masks.append(mask)
    if missing and not problems:
        problems.append(
            f"{_MASKS_RULE}; in {shown(str(config.masks))} there is not one mask of the name of: {', '.join(missing)}"
        )
    return tuple(masks), problems


def _read_captions(folder: Path, training: Sequence[_Photo]) -> tuple[tuple[str, ...], list[str]]:
    """The caption of each training image, on one line, from the text file that bears the image's name."""
    files = caption_files(folder) if training else {}
    texts, missing, empty, problems = [], [], [], []
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
