"""Data sets: captioned images that take a subject's place, split into what is trained on and what is held out.

They come from a folder (see `trainables.data.image_folders`), or with the project, by their name. Nothing here needs
torch.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from trainables.config.fields import ALPHA, DataSetConfig, SubjectConfig
from trainables.data.buckets import Size, cut, nearest_bucket
from trainables.data.group_split import hold_out_groups
from trainables.data.image_folders import Entry, images_below, read_image_folder
from trainables.data.images import fingerprint_of, read_image, square
from trainables.data.masks import Masked, MaskFolder, no_masks, read_masks
from trainables.data.metadata_files import Columns
from trainables.data.path_map import folder_of
from trainables.data.stored_images import ImageStore, StoredImage
from trainables.embedded import load_data_set
from trainables.errors import UserError
from trainables.util.text import is_blank, same_name, shown, some

_PLACEHOLDER = "{subject}"


@dataclass(frozen=True)
class Captioned:
    """An image of a data set with its caption.

    Attributes:
        caption: With the trigger in front.
        image: RGB, cut to its bucket or to the square; it may lie in a file.
        square: RGB, cut to the square; likewise.
        size: Width and height before it was cut and resized.
        fingerprint: The same for two files that show the same pixels.
    """

    entry: Entry
    caption: str
    image: StoredImage
    square: StoredImage
    size: Size
    fingerprint: str


@dataclass(frozen=True)
class Split:
    """The images of a data set, or what is known of them before they are read."""

    training: tuple[Entry, ...] = ()
    references: tuple[Entry, ...] = ()


def trigger_of(config: SubjectConfig) -> str:
    """Returns what stands before every caption of a data set: the trigger with ", " after it, or nothing."""
    trigger = config.dataset.trigger if config.dataset is not None else load_data_set(config.name).trigger
    return f"{trigger}, " if trigger else ""


def split_of(config: SubjectConfig) -> tuple[Split, list[str]]:
    """Returns what of a data set is trained on and what is held out, and what is wrong with it; decodes no image.

    Captions are without the trigger, also where files have it.
    """
    if config.dataset is None:
        return _shipped_split(config.name), []
    found, problems = _folder_split(config.dataset)
    if config.dataset.trigger is not None:
        found = Split(
            *(_without_trigger(side, config.dataset.trigger) for side in (found.training, found.references))
        )
        bare = [shown(one.name) for one in (*found.training, *found.references) if is_blank(one.caption)]
        if bare:
            problems.append(
                f"captions that are the trigger {config.dataset.trigger!r} and nothing else: {some(bare)}; write what "
                "the images show, or leave out dataset.trigger"
            )
    named = [entry.name for entry in (*found.training, *found.references) if _PLACEHOLDER in entry.caption]
    if named:
        problems.append(
            f"captions with {_PLACEHOLDER}, which stands for what is taught in prompts of an evaluation: "
            f"{some([shown(name) for name in named])}; reword them"
        )
    return found, _told(config, problems)


def _without_trigger(entries: Sequence[Entry], trigger: str) -> tuple[Entry, ...]:
    """Takes the trigger from captions that begin with it, once: it is put before every caption.

    It counts in any case, as whole words, whatever stands between it and the rest.
    """
    words = r"\s+".join(map(re.escape, _spelt(trigger).split()))
    begin = re.compile(rf"{words}(?![\w'’-])[\s,.:;]*", re.IGNORECASE)
    return tuple(
        replace(entry, caption=_spelt(entry.caption)[match.end() :])
        if (match := begin.match(_spelt(entry.caption)))
        else entry
        for entry in entries
    )


def _spelt(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def split_line(config: SubjectConfig) -> str:
    """Returns in words what of a data set is trained on and what is held out; decodes no image."""
    split, _ = split_of(config)
    held, total = len(split.references), len(split.training) + len(split.references)
    share = f" ({held / total:.0%})" if total else ""
    trigger = trigger_of(config)
    more = (
        f"; {trigger.strip(', ')!r} is put before captions"
        if trigger
        else "; no trigger is put before captions"
    )
    if config.dataset is not None and config.dataset.group_column is not None:
        groups = len({entry.group for entry in (*split.training, *split.references)})
        more += f"; {groups} groups"
    characters = len({entry.character for entry in (*split.training, *split.references) if entry.character})
    more += f"; {characters} characters" if characters else ""
    return f"data set {config.name!r}: {len(split.training)} images to train on, {held} held out{share}{more}"


def read_data_set(
    config: SubjectConfig, resolution: int | None, buckets: Sequence[Size] = ()
) -> tuple[tuple[Captioned, ...], tuple[Captioned, ...], list[str]]:
    """Reads a data set: images to train on, held-out ones, and everything that is wrong with it.

    Args:
        resolution: Side of squares in pixels; None leaves out the rule on enlargement, and images are small ones.
        buckets: Sizes of which each training image gets the one that is nearest to it; none: squares.
    """
    split, problems = split_of(config)
    training, unread = _read(config, split.training, resolution, buckets)
    references, more = _read(config, split.references, resolution)
    return training, references, [*problems, *unread, *more, *_told(config, _overlaps(training, references))]


def read_data_set_masks(
    config: SubjectConfig, training: Sequence[Captioned], *, masked: bool
) -> tuple[tuple[StoredImage, ...], list[str]]:
    """Returns the mask of each training image, cut and resized like it, if they are asked for, and what is wrong.

    A folder that is named is looked at in every case: that it is there, and that every mask in it has its image.

    Args:
        training: As `read_data_set` returns them.
    """
    named = config.dataset.masks if config.dataset is not None else None
    if config.dataset is None or named is None:
        if not masked:
            return (), []
        own = "your own can have them (dataset: {path: FOLDER, masks: PATH}); leave masked_loss out"
        comes_without = (
            f"it comes with the project and without masks, and masked_loss: true needs them; {own}"
        )
        return (), _told(config, [no_masks("dataset.masks") if config.dataset is not None else comes_without])
    folder: MaskFolder | None = None
    problems: list[str] = []
    if named != ALPHA:
        place, images = folder_of(named), folder_of(config.dataset.path)
        if (relation := _relation(place, images)) is not None:
            problem = (
                f"dataset.masks ({shown(str(place))}) {relation} dataset.path ({shown(str(images))}), whose "
                "sub-folders are read too, so that masks would be images; move them to a folder of their own"
            )
            return (), _told(config, [problem])
        folder = MaskFolder(shown(named), *images_below(place, "dataset.masks", "masks"))
        problems += folder.problems
        folders = [images, *([folder_of(config.dataset.references)] if config.dataset.references else [])]
        problems += folder.without_image(
            name for each in folders for name in images_below(each, "dataset", "images")[0]
        )
    if not masked:
        return (), _told(config, problems)
    masks, more = read_masks(
        folder, [Masked(one.entry.path, one.entry.name, one.size, one.image.size) for one in training]
    )
    return masks, _told(config, [*problems, *more])


def read_references(config: SubjectConfig, resolution: int) -> tuple[tuple[Captioned, ...], list[str]]:
    """Reads the held-out images of a data set alone, and what is wrong with it as far as others need not be read.

    Args:
        resolution: Side of squares in pixels.
    """
    split, problems = split_of(config)
    references, unread = _read(config, split.references, resolution)
    return references, problems + unread


def _read(
    config: SubjectConfig, entries: Sequence[Entry], resolution: int | None, sizes: Sequence[Size] = ()
) -> tuple[tuple[Captioned, ...], list[str]]:
    found, problems, trigger = [], [], trigger_of(config)
    images = _shipped_images(config.name) if config.dataset is None else {}
    store = ImageStore()
    for entry in entries:
        try:
            image = images[entry.name] if config.dataset is None else read_image(entry.path, resolution)
        except UserError as error:
            problems += _told(config, error.problems)
            continue
        side = resolution or min(image.size)
        # One decoded image at a time: a folder of large ones must not be held in memory at full size.
        bucket = nearest_bucket(image.size, sizes) if sizes else (side, side)
        kept = store.keep(cut(image, bucket))
        as_square = kept if bucket == (side, side) else store.keep(square(image, side))
        caption, fingerprint = trigger + entry.caption, fingerprint_of(image)
        found.append(Captioned(entry, caption, kept, as_square, image.size, fingerprint))
    return tuple(found), problems


def data_set_captions(config: SubjectConfig) -> dict[str, str]:
    """Returns the captions, with their trigger, of images to train on, by the images' names.

    What cannot be read is left out: `read_data_set` names it.
    """
    trigger = trigger_of(config)
    return {shown(entry.name): trigger + entry.caption for entry in split_of(config)[0].training}


def _shipped_split(name: str) -> Split:
    pictures = load_data_set(name).pictures
    share = DataSetConfig.model_fields["holdout"].default
    drawn_of = [one for one in pictures if one.is_held_out is None]
    drawn = hold_out_groups([one.group for one in drawn_of], share, [one.character for one in drawn_of])
    sides: tuple[list[Entry], list[Entry]] = ([], [])
    for one in pictures:
        held_out = one.group in drawn if one.is_held_out is None else one.is_held_out
        sides[held_out].append(Entry(Path(one.name), one.name, one.caption, one.group, one.character))
    return Split(tuple(sides[0]), tuple(sides[1]))


@functools.cache
def _shipped_images(name: str) -> dict[str, Image.Image]:
    shipped = load_data_set(name)
    return {one.name: image for one, image in zip(shipped.pictures, shipped.images(), strict=True)}


def _folder_split(config: DataSetConfig) -> tuple[Split, list[str]]:
    columns = Columns(config.caption_column, config.group_column, config.character_column)
    folder = folder_of(config.path)
    entries, problems = read_image_folder(folder, columns)
    if config.references is not None:
        other = folder_of(config.references)
        if (relation := _relation(other, folder)) is not None:
            problems.append(
                f"dataset.references ({shown(str(other))}) {relation} dataset.path ({shown(str(folder))}), whose "
                "sub-folders are read too; held-out images must not be trained on: move them, or leave references out "
                "to hold a share out"
            )
            return Split(), problems
        references, more = read_image_folder(other, columns)
        return Split(entries, references), [*problems, *more, *_shared_groups(config, entries, references)]
    characters = [entry.character for entry in entries]
    held_out = hold_out_groups([entry.group for entry in entries], config.holdout, characters)
    training = tuple(entry for entry in entries if same_name(entry.group) not in held_out)
    references = tuple(entry for entry in entries if same_name(entry.group) in held_out)
    if not problems and not references:
        what = (
            f"all {len(entries)} images are of one group, {entries[0].group!r} in column {config.group_column!r}"
            if config.group_column is not None and len(entries) > 1
            else f"{shown(str(folder))} has {len(entries)} image{'s' * (len(entries) != 1)}"
        )
        problems.append(
            f"{what}, so that nothing is left to train on when a part is held out; add images of other groups, name a "
            "folder in dataset.references, or take another group_column"
        )
    return Split(training, references), problems


def _relation(other: Path, folder: Path) -> str | None:
    """How a folder of references is the training folder or shares files with it; None if it does not."""
    try:
        if folder.samefile(other):
            return "is the same folder as"
        if folder.resolve() in other.resolve().parents:
            return "lies in"
        return "contains" if other.resolve() in folder.resolve().parents else None
    except OSError:  # one of them is not there, or cannot be reached: told when it is read
        return None


def _shared_groups(
    config: DataSetConfig, training: Sequence[Entry], references: Sequence[Entry]
) -> list[str]:
    if config.group_column is None:
        return []
    # An image without a group stands for itself, and one of the other folder may have its name.
    of_training, held_out = (
        {one.group for one in side if one.group != one.name} for side in (training, references)
    )
    shared = sorted(of_training & held_out)
    if not shared:
        return []
    return [
        f"groups ({config.group_column}) that are trained on and held out: {some(shared)}; all images of a group "
        "belong on one side"
    ]


def _overlaps(training: Sequence[Captioned], references: Sequence[Captioned]) -> list[str]:
    """Names every held-out image whose pixels are also trained on, under whatever name and caption."""
    trained: dict[str, list[str]] = {}
    for one in training:
        trained.setdefault(one.fingerprint, []).append(shown(one.entry.name))
    found = [
        f"{shown(one.entry.name)} (as {some(trained[one.fingerprint], 3)})"
        for one in references
        if one.fingerprint in trained
    ]
    if not found:
        return []
    return [
        f"the same picture is trained on and held out: {some(found)}; fidelity to it would be memory: remove one, or "
        "give both one value in a group_column"
    ]


def _told(config: SubjectConfig, problems: Sequence[str]) -> list[str]:
    return [f"data set {config.name!r}: {problem}" for problem in problems]
