"""Images with a class each: a folder with a sub-folder for each class, or with a metadata file that says the classes.

Every image is decoded once: for its digest, which decides about splits wherever the files lie and whatever they are
called, and for the small picture by which copies are found. Nothing here needs torch.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from trainables.data.image_folders import files_of
from trainables.data.images import (
    FINGERPRINT_SIDE,
    image_digest,
    read_image,
    size_problem,
    thumbnail,
)
from trainables.data.labelled_metadata import LabelColumns, LabelRow, read_labels
from trainables.data.metadata_files import METADATA
from trainables.errors import UserError
from trainables.util.text import same_name, shown, some

#: Share of a file's lines whose class is their image's sub-folder, from which on sub-folders are taken for classes.
_FOLDERS_ARE_CLASSES = 0.75
_KEPT = 20_000  # images whose looks are remembered, 15 kB each


@dataclass(frozen=True)
class Look:
    """An image as it is compared with others.

    Attributes:
        digest: Hex SHA-256 of size and pixels of the upright RGB image, the same for two files that show the same.
            Files without loss (PNG) have it on every machine, JPEG files wherever one version of the decoder is used.
        size: Width and height of the upright image in pixels.
        small: The whole of it, its shorter side `FINGERPRINT_SIDE` pixels.
    """

    digest: str
    size: tuple[int, int]
    small: Image.Image


@dataclass(frozen=True)
class LabelledImage:
    """An image and what is known of it.

    Attributes:
        source: The file, or the image itself where it lies in none.
        name: Of the file below the data set's folder, in NFC with "/", e.g. "cats/01.png".
        label: Its class.
        digest: See `Look`; likewise `size`.
        group: Of images that stay in one part of a split; empty where it is by itself.
        part: Where a split that is given puts it, one of `PARTS`; empty where none is.
    """

    source: Path | Image.Image = field(repr=False, compare=False)
    name: str
    label: str
    digest: str
    size: tuple[int, int]
    group: str = ""
    part: str = ""

    def look(self) -> Look:
        """Looks at the image as it is now: a file is read again if it was changed.

        Raises:
            UserError: The file cannot be read.
        """
        return look_at_file(self.source) if isinstance(self.source, Path) else look_at(self.source)

    def open(self) -> Image.Image:
        """Returns the whole image, upright, in RGB; raises as `look` does."""
        return read_image(self.source) if isinstance(self.source, Path) else self.source.convert("RGB")


@dataclass(frozen=True)
class LabelledSet:
    """Images of several classes.

    Attributes:
        images: In the order of their names.
        classes: In the order that numbers of labels stand for: as asked for, or as people sort (2 before 10).
    """

    images: tuple[LabelledImage, ...]
    classes: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of images of each class, in the order of classes."""
        return counts_of(self.images, self.classes)


def counts_of(images: Iterable[LabelledImage], classes: Iterable[str]) -> dict[str, int]:
    """Returns how many images there are of each class, in the order of classes."""
    found = Counter(image.label for image in images)
    return {label: found[label] for label in classes}


def look_at(image: Image.Image) -> Look:
    """Returns how an image is compared with others."""
    image = image.convert("RGB")
    return Look(image_digest(image), image.size, thumbnail(image, FINGERPRINT_SIDE))


def look_at_file(path: Path) -> Look:
    """Returns how an image file is compared with others; it is decoded once, until it is changed.

    Raises:
        UserError: It cannot be read.
    """
    try:
        state = path.stat()
    except OSError:
        read_image(path)  # says what is wrong
        raise
    return _look(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=_KEPT)
def _look(path: Path, changed: int, length: int) -> Look:
    """Looks at a file; its time and length say whether it is still that one."""
    return look_at(read_image(path))


def labelled(
    source: Path | Image.Image, name: str, label: str, group: str = "", part: str = ""
) -> LabelledImage:
    """Returns a file or an image in memory with its class, and digest and size of its pixels.

    Raises:
        UserError: The file cannot be read.
    """
    look = look_at_file(source) if isinstance(source, Path) else look_at(source)
    return LabelledImage(source, same_name(name), label, look.digest, look.size, group, part)


def labelled_set(
    images: Iterable[LabelledImage], classes: Sequence[str] | None = None
) -> tuple[LabelledSet, list[str]]:
    """Returns images as a set, and what is wrong with its classes.

    Args:
        classes: All of them, in their order; None: those of the images, as people sort.
    """
    ordered = tuple(sorted(images, key=lambda image: image.name))
    there = sorted({image.label for image in ordered}, key=_natural_key)
    found = LabelledSet(ordered, tuple(map(same_name, classes)) if classes is not None else tuple(there))
    counts = Counter(image.name for image in ordered)
    twice = [shown(name) for name, count in counts.items() if count > 1]
    problems = [f"several images have one name: {some(twice)}; rename all but one"] if twice else []
    return found, [*problems, *_class_problems(there, classes), *_two_classes(ordered)]


def read_labelled_folder(
    folder: Path,
    columns: LabelColumns | None = None,
    classes: Sequence[str] | None = None,
    resolution: int | None = None,
) -> tuple[LabelledSet, list[str]]:
    """Reads a folder with classes, and returns what could be read and everything that is wrong with it.

    Classes are said by the class column of ``metadata.csv`` or ``metadata.jsonl`` in the folder, or by the sub-folder
    in which an image lies, however deep; a file without a class column may say groups and splits of such images. Where
    a file says the classes of images that lie in sub-folders named as classes are, both must agree.

    Args:
        columns: Of the metadata file.
        classes: All classes, in their order; None: those that are there, as people sort.
        resolution: Pixels that images will be resized to: those that are too small for it are refused.
    """
    place = shown(str(folder))
    files = files_of(folder, "dataset", "images with classes")
    problems = list(files.problems)
    if len(files.metadata) > 1:
        problems.append(
            f"{place}: has {' and '.join(files.metadata)}, and only one can say what holds; remove one"
        )
        return LabelledSet((), ()), problems
    rows: dict[str, LabelRow] = {}
    columns = columns or LabelColumns()
    source = next(iter(files.metadata.values()), None)
    if source is not None:
        rows, wrong_lines = read_labels(source, columns)
        problems += wrong_lines
        problems += _without_partner(files.images, rows, source, place, complete=not wrong_lines)
        problems += _contradictions(rows, place)
    elif any((columns.label, columns.group, columns.split)):
        named = next(filter(None, (columns.label, columns.group, columns.split)))
        problems.append(
            f"{place}: column {named!r} is asked for, and there is no {' or '.join(METADATA)}; write one"
        )
    # What a file does not name is told as that.
    labels = {
        name: _label_of(name, rows.get(name)) for name in files.images if source is None or name in rows
    }
    problems += _unlabelled(labels, source, place)
    folders_are_classes = source is None or (bool(rows) and all(row.label is None for row in rows.values()))
    problems += _empty_folders(folder, files.images) if folders_are_classes and files.images else []
    images, unread = _read(files.images, labels, rows, resolution)
    found, wrong = labelled_set(images, classes)
    return found, problems + unread + ([f"{place}: {problem}" for problem in wrong] if images else [])


def _read(
    paths: Mapping[str, Path],
    labels: Mapping[str, str],
    rows: Mapping[str, LabelRow],
    resolution: int | None,
) -> tuple[list[LabelledImage], list[str]]:
    """The images that have a class and can be read, and what is wrong with the files."""
    images: list[LabelledImage] = []
    problems: list[str] = []
    for name, path in paths.items():
        row = rows.get(name)
        try:
            image = labelled(
                path, name, labels.get(name, ""), row.group if row else "", row.part if row else ""
            )
        except UserError as error:
            problems += error.problems
            continue
        too_small = size_problem(shown(str(path)), image.size, resolution)
        if too_small is not None:
            problems.append(too_small)
        if image.label:
            images.append(image)
    return images, problems


def _label_of(name: str, row: LabelRow | None) -> str:
    """The class of an image: its line's, or its sub-folder's; empty where there is none."""
    return row.label if row is not None and row.label is not None else _sub_folder(name)


def _sub_folder(name: str) -> str:
    """The first folder below the data set's in which an image lies; empty where it lies in none."""
    return name.split("/")[0] if "/" in name else ""


def _without_partner(
    paths: Mapping[str, Path], rows: Mapping[str, LabelRow], source: Path, place: str, *, complete: bool
) -> list[str]:
    """Lines whose image is not there, and images that no line names, where every line could be read."""
    gone = [f"{row.place} ({shown(name)})" for name, row in rows.items() if name not in paths]
    bare = [shown(name) for name in paths if name not in rows and complete]
    problems = []
    if gone:
        problems.append(f"{place}: no such image: {some(gone)}; add the images, or remove the lines")
    if bare:
        problems.append(
            f"{place}: images that {source.name} does not name: {some(bare)}; add a line for each, or take them out"
        )
    return problems


def _contradictions(rows: Mapping[str, LabelRow], place: str) -> list[str]:
    """Lines whose class is another than the sub-folder of their image, where sub-folders are classes."""
    inside = {name: row for name, row in rows.items() if row.label is not None and _sub_folder(name)}
    other = {name: row for name, row in inside.items() if row.label != _sub_folder(name)}
    if not other or len(other) > (1 - _FOLDERS_ARE_CLASSES) * len(inside):
        return []
    folders = {_sub_folder(name) for name in rows}
    found = [
        f"{row.place} ({row.label!r}, {shown(name)})"
        + ("" if row.label in folders else f", and there is no folder {row.label!r}")
        for name, row in other.items()
    ]
    return [
        f"{place}: sub-folders are named as classes are, and the class of these lines is another than their image's "
        f"sub-folder: {some(found)}; correct the lines, or move the images"
    ]


def _unlabelled(labels: Mapping[str, str], source: Path | None, place: str) -> list[str]:
    bare = [shown(name) for name, label in labels.items() if not label]
    if not bare:
        return []
    file = (
        f"write {METADATA[1]} with file_name and class"
        if source is None
        else f"add a column class to {source.name}"
    )
    return [
        f"{place}: images in no sub-folder, so that they have no class: {some(bare)}; move them, or {file}"
    ]


def _empty_folders(folder: Path, paths: Mapping[str, Path]) -> list[str]:
    """Sub-folders, each of them a class, that have no image."""
    used = {_sub_folder(name) for name in paths}
    empty = [
        shown(path.name)
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith((".", "__")) and same_name(path.name) not in used
    ]
    return (
        [f"{shown(str(folder))}: sub-folders without images: {some(empty)}; fill or remove them"]
        if empty
        else []
    )


def _class_problems(there: Sequence[str], asked: Sequence[str] | None) -> list[str]:
    """Classes that are asked for and not there, the other way round, and fewer than two."""
    problems = []
    if asked is not None:
        named = [same_name(label) for label in asked]
        twice = sorted({label for label in named if named.count(label) > 1})
        problems += [f"classes that are listed twice: {some(twice)}; remove one each"] if twice else []
        for wanted, given, what in (
            (named, there, "listed classes that no image has"),
            (there, named, "classes of images that are not listed"),
        ):
            lacking = [repr(label) for label in dict.fromkeys(wanted) if label not in given]
            problems += [f"{what}: {some(lacking)}; correct the list, or the labels"] if lacking else []
    if len(there) == 1:
        problems.append(
            f"all images are of class {there[0]!r}; at least two classes are needed to tell apart"
        )
    return problems


def _two_classes(images: Sequence[LabelledImage]) -> list[str]:
    """Images that show the same pixels and are of different classes."""
    first: dict[str, LabelledImage] = {}
    found = [
        f"{shown(one.name)} ({one.label!r}) and {shown(image.name)} ({image.label!r})"
        for image in images
        if (one := first.setdefault(image.digest, image)).label != image.label
    ]
    return [f"one picture has two classes: {some(found)}; keep the right one"] if found else []


def _natural_key(label: str) -> tuple[list[tuple[int, int | str]], str]:
    """Sorts by the numbers in names where there are any, as people do; "1" and "01" have an order, too."""
    parts = re.split(r"(\d+)", label)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part], label
