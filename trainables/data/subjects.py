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
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from trainables.config.fields import SubjectConfig
from trainables.data.buckets import geometry_in
from trainables.data.caption_files import caption_files, texts_of
from trainables.data.data_sets import (
    Captioned,
    data_set_captions,
    read_data_set,
    read_data_set_masks,
    read_references,
    trigger_of,
)
from trainables.data.images import (
    image_digest,
    list_images,
    square,
)
from trainables.data.path_map import folder_of
from trainables.data.photographs import Captions, hold_out, read_photographs
from trainables.data.stored_images import StoredImages, sizes_of
from trainables.errors import UserError
from trainables.util.text import same_name, shown

#: Fields of `Subject` with one entry for each training image, or none.
_OF_TRAINING_IMAGES = ("images", "captions", "image_names", "masks", "sizes", "characters", "squares")


@dataclass(frozen=True)
class Subject:
    """A subject with its images loaded.

    Attributes:
        name: As in the study file.
        instance_prompt: Names the subject by its rare token, e.g. "a sks dog".
        class_prompt: The same without it, e.g. "a dog".
        images: Training images, RGB: squares of one size, but of a data set that is read with buckets of several
            sizes, which may lie in a file (`StoredImages`): each is read when it is asked for.
        captions: One for each training image.
        references: Held-out images for scoring, RGB squares of the same size.
        embedded: Whether it belongs to the embedded world, which has evaluation prompts of its own.
        image_names: File names (or made-up ones) of the training images, for messages and grids.
        reference_names: The same of the references.
        masks: Where each training image shows what is taught, 8-bit grey of the same size (255: there); empty unless
            they were asked for. They may lie in a file as the images do.
        sizes: Width and height of each training image as it was before it was cut and resized.
        is_data_set: It is a set of captioned images. Then `captions` and `reference_captions` bear the trigger in
            front where there is one, `instance_prompt` is the trigger with ", " after it, or empty, `class_prompt` is
            empty, so that a template ``{subject}caption`` filled with the one asks for the data set and with the other
            for what the base model makes of the caption. Training images may have several sizes, those of their buckets
            (see `trainables/data/buckets.py`); references are squares as ever.
        reference_captions: Of a data set: one for each reference.
        characters: Of a data set: whom each training image shows, empty text where nobody is named; no entry where no
            training image names anybody.
        reference_characters: The same of the references.
        squares: Of a data set: the training images cut to squares like the references, whatever the buckets are; empty
            otherwise, since `images` are squares.
        reference_groups: Of a data set: the group of each reference, of which one side of a split has all; empty where
            each is by itself.
        reference_phases: Of a part of a data set's references: the phase that each one's caption belongs to, as it was
            settled over all of them; empty where these are all.
        side: Of squares in pixels; 0 where all images have the same size, which is that of the first.
    """

    name: str
    instance_prompt: str
    class_prompt: str
    images: Sequence[Image.Image]
    captions: tuple[str, ...]
    references: tuple[Image.Image, ...]
    embedded: bool = False
    image_names: tuple[str, ...] = ()
    reference_names: tuple[str, ...] = ()
    masks: Sequence[Image.Image] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    is_data_set: bool = False
    reference_captions: tuple[str, ...] = ()
    characters: tuple[str, ...] = ()
    reference_characters: tuple[str, ...] = ()
    squares: Sequence[Image.Image] = ()
    reference_groups: tuple[str, ...] = ()
    reference_phases: tuple[str, ...] = ()
    side: int = 0

    @property
    def geometry(self) -> tuple[tuple[float, ...], ...]:
        """Size and crop of each training image, see `geometry_in`."""
        cut = sizes_of(self.images)
        return tuple(geometry_in(*sizes) for sizes in zip(self.sizes or cut, cut, strict=True))

    @property
    def resolution(self) -> int:
        """Side of all images in pixels."""
        return self.side or self.images[0].width

    def trained_on(self, count: int | None) -> Subject:
        """Returns the subject with `count` of its training images, for a run that trains on no more than these.

        Chosen by the hash of their pixels, so that fewer are a part of more whatever the files are called, and every
        arm that asks for as many has the same. What judges a run (`references`, scales) is for the whole subject: this
        one is for training alone.

        Args:
            count: At most as many as there are (`check_subject`); None: all.
        """
        if count is None or count >= len(self.images):
            return self
        digests = [image_digest(image) for image in self.images]
        rows = sorted(sorted(range(len(digests)), key=lambda row: (digests[row], row))[:count])
        has = {name: getattr(self, name) for name in _OF_TRAINING_IMAGES}
        fewer: dict[str, Any] = {name: _picked(values, rows) for name, values in has.items() if values}
        return replace(self, **fewer)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of prompts, captions and pixels: of everything that can change a result, names left out."""
        content: dict[str, Any] = {
            "prompts": [self.instance_prompt, self.class_prompt],
            "captions": self.captions,
            "images": [image_digest(image) for image in self.images],
            "references": [image_digest(image) for image in self.references],
        }
        if self.is_data_set:
            content["reference_captions"] = self.reference_captions
            content["characters"] = [self.characters, self.reference_characters]
            if len(set(self.reference_groups)) < len(self.reference_groups):  # their names change nothing
                content["groups"] = [self.reference_groups.index(group) for group in self.reference_groups]
        if self.masks:
            content["masks"] = [image_digest(mask) for mask in self.masks]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _picked(values: Sequence[Any], rows: Sequence[int]) -> Sequence[Any]:
    """Some entries; images that lie in a file stay there."""
    return values.picked(rows) if isinstance(values, StoredImages) else tuple(values[row] for row in rows)


def check_subject(
    config: SubjectConfig,
    resolution: int | None = None,
    captions: Captions = "instance_prompt",
    *,
    masked: bool = False,
    count: int | None = None,
) -> list[str]:
    """Returns everything that is wrong with a subject or data set, one message a problem; reads all its images to the
    end.

    Args:
        resolution: Pixels that the images will be resized to; None leaves out the rule on enlargement.
        captions: "files" also demands a text file beside each training image.
        masked: Also demands a mask of each training image.
        count: Also demands as many training images (`TrainingConfig.num_training_images`).
    """
    if config.is_data_set:
        training, _, problems = read_data_set(config, resolution)
        problems += read_data_set_masks(config, training, masked=masked)[1]
        return problems or _too_few(config, len(training), count)
    if config.images is None:
        from trainables.embedded import MOST_TRAINING_IMAGES

        return _embedded_problems(config) or _too_few(config, MOST_TRAINING_IMAGES, count)
    split, problems = read_photographs(config, resolution, captions, masked)
    return problems or _too_few(config, len(split.training), count)


def _too_few(config: SubjectConfig, available: int, count: int | None) -> list[str]:
    if count is None or count <= available:
        return []
    return [
        f"num_training_images is {count}, but {config.name!r} has {available} image{'s' if available != 1 else ''} to "
        "train on (held-out images are never trained on); ask for fewer, or add images"
    ]


def resolve_subject(
    config: SubjectConfig,
    resolution: int,
    captions: Captions = "instance_prompt",
    *,
    masked: bool = False,
    buckets: Sequence[tuple[int, int]] = (),
    count: int | None = None,
) -> Subject:
    """Loads a subject's images as RGB squares of `resolution` pixels, and their masks if those are asked for.

    Of a data set the captions of its files are taken in every case. All images of photographs are loaded, whatever a
    run trains on: `Subject.trained_on` chooses. An embedded subject, which can have ten, is drawn with five, or more if
    `count` is.

    Args:
        buckets: Of a data set: sizes (width, height) to which training images are cut, each to the nearest; without
            any they are squares too.

    Raises:
        UserError: With every problem that `check_subject` would find.
    """
    if config.is_data_set:
        return _data_set(config, resolution, buckets, masked)
    if config.images is None:
        problems = _embedded_problems(config)
        if problems:
            raise UserError(*problems)
        return _embedded_subject(config, resolution, captions, masked, count)
    split, problems = read_photographs(config, resolution, captions, masked)
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

    Those of a data set are what stands before its captions, and nothing.

    Raises:
        UserError: It has no images and is none of the embedded world's.
    """
    if config.is_data_set:
        return trigger_of(config), ""
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
    if config.is_data_set:
        return data_set_captions(config)
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


def _data_set(
    config: SubjectConfig, resolution: int, buckets: Sequence[tuple[int, int]], masked: bool
) -> Subject:
    training, references, problems = read_data_set(config, resolution, buckets)
    masks, more = read_data_set_masks(config, training, masked=masked)
    problems += more
    if problems:
        raise UserError(*problems)
    instance_prompt, class_prompt = prompts_of(config)
    return Subject(
        name=config.name,
        instance_prompt=instance_prompt,
        class_prompt=class_prompt,
        images=StoredImages(one.image for one in training),
        captions=tuple(one.caption for one in training),
        image_names=tuple(shown(one.entry.name) for one in training),
        masks=StoredImages(masks) if masks else (),
        sizes=tuple(one.size for one in training),
        squares=StoredImages(one.square for one in training),
        is_data_set=True,
        characters=_characters(training),
        side=resolution,
        **_held_out(references),
    )


def resolve_held_out(config: SubjectConfig, resolution: int) -> Subject:
    """Loads the held-out images of a data set, as `resolve_subject` does, and nothing that is trained on.

    Raises:
        UserError: With what is wrong with the data set, as far as training images need not be read to know it.
    """
    references, problems = read_references(config, resolution)
    if problems:
        raise UserError(*problems)
    instance_prompt, class_prompt = prompts_of(config)
    return Subject(
        config.name,
        instance_prompt,
        class_prompt,
        images=(),
        captions=(),
        is_data_set=True,
        side=resolution,
        **_held_out(references),
    )


def _held_out(references: Sequence[Captioned]) -> dict[str, Any]:
    """What a data set has of its held-out images."""
    return {
        "references": tuple(one.image.open() for one in references),
        "reference_names": tuple(shown(one.entry.name) for one in references),
        "reference_captions": tuple(one.caption for one in references),
        "reference_characters": _characters(references),
        "reference_groups": tuple(one.entry.group for one in references),
    }


def _characters(images: Sequence[Captioned]) -> tuple[str, ...]:
    """Whom each image shows; one without a name leaves the others theirs, and nothing is said where none has one."""
    found = tuple(one.entry.character for one in images)
    return found if any(found) else ()


def _embedded_problems(config: SubjectConfig) -> list[str]:
    from trainables.embedded import DATA_SETS, is_subject, subject_names, subject_ranges

    names = subject_names()
    problems = []
    if not is_subject(config.name):
        near = difflib.get_close_matches(config.name, (*names, *DATA_SETS), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(repr(name) for name in near)}? " if near else ""
        problems.append(
            f"subject {config.name!r} has no images and is none of the embedded world's: {hint}"
            f"Give it a folder (images: photos/{config.name}) or take one of {subject_ranges()}, or a data set "
            f"({', '.join(DATA_SETS)}; your own: dataset: {{path: FOLDER}})"
        )
    if config.references is not None:
        problems.append(f"subject {config.name!r}: references need images; name the folder to train on too")
    return problems


def _embedded_captions(config: SubjectConfig) -> dict[str, str]:
    from trainables.embedded import load_subject

    captions = load_subject(config.name).training_captions()
    return {f"training-{number}": caption for number, caption in enumerate(captions)}


def _embedded_subject(
    config: SubjectConfig, resolution: int, captions: Captions, masked: bool, count: int | None
) -> Subject:
    from trainables.embedded import TRAINING_IMAGES, load_subject

    source = load_subject(config.name)
    drawn = max(TRAINING_IMAGES, count or 0)
    pictures = source.training_images(drawn)
    images = tuple(square(image, resolution) for image in pictures)
    references = tuple(square(image, resolution) for image in source.reference_images())
    instance_prompt, class_prompt = prompts_of(config)
    texts = (
        tuple(source.training_captions(drawn)) if captions == "files" else (instance_prompt,) * len(images)
    )
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
        masks=tuple(square(mask, resolution) for mask in source.training_masks(drawn)) if masked else (),
        sizes=tuple(picture.size for picture in pictures),
    )
