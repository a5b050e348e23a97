"""Folders of captioned images: Hugging Face's ``imagefolder`` layout, and text files beside the images.

Captions come from ``metadata.jsonl`` or ``metadata.csv`` (columns ``file_name``, relative to the folder, and the
caption's), or from a text file (.txt, .caption) beside each image. Images may lie in sub-folders. No image is decoded
here. Nothing here needs torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from trainables.data.caption_files import CAPTION_SUFFIXES, texts_of
from trainables.data.images import is_notice, is_passed_over
from trainables.data.metadata_files import FILE_NAME, METADATA, Columns, Row, read_metadata
from trainables.util.text import is_blank, same_name, shown, some

_OF_MACOS = "__MACOSX"
_OTHER_METADATA = "metadata.parquet"
_RULE = "each image of a data set needs a caption, in metadata.jsonl, metadata.csv or a text file beside it"


@dataclass(frozen=True)
class Entry:
    """One captioned image of a folder.

    Attributes:
        name: Of the file below the folder, in NFC with "/", e.g. "cats/01.png".
        caption: On one line, not blank.
        group: Of images that stay together; the file's own name without a column, or where its cell is empty.
        character: Whom it shows; empty without a column, or where its cell is empty.
    """

    path: Path
    name: str
    caption: str
    group: str
    character: str = ""


@dataclass
class FolderFiles:
    """What lies in a folder, by names below it: images, text files, metadata files, and what is wrong with it."""

    images: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, list[Path]] = field(default_factory=dict)  # by name without suffix
    metadata: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_image_folder(folder: Path, columns: Columns) -> tuple[tuple[Entry, ...], list[str]]:
    """Returns the captioned images of a folder in the order of their names, and everything that is wrong with it."""
    place = shown(str(folder))
    files = files_of(folder)
    problems = files.problems
    if problems and not files.images:
        return (), problems
    rows: dict[str, Row] = {}
    problems_of_lines: list[str] = []
    source = next(iter(files.metadata.values()), None)
    if len(files.metadata) > 1:
        problems.append(
            f"{place}: has {' and '.join(files.metadata)}, and only one can say what holds; remove one of them"
        )
        return (), problems
    if source is not None:
        rows, problems_of_lines = read_metadata(source, columns)
        problems += problems_of_lines
    elif columns.group is not None or columns.character is not None:
        named = columns.group or columns.character
        problems.append(
            f"{place}: column {named!r} is asked for, and text files have none; write {METADATA[0]} with {FILE_NAME}, "
            f"{columns.caption} and {named}"
        )
    texts, more = _text_captions(files, rows, place)
    problems += more
    # Of lines that could not be read nobody knows to which images they belong.
    problems += _without_partner(files, rows, source, place, complete=not problems_of_lines)
    entries = []
    for name, path in files.images.items():
        row = rows.get(name)
        caption = row.caption if row is not None else texts.get(name, "")
        if not is_blank(caption):
            group, character = (row.group or name, row.character) if row is not None else (name, "")
            entries.append(Entry(path, name, caption, group, character))
    return tuple(entries), problems


def images_below(folder: Path, field: str, what: str) -> tuple[dict[str, Path], list[str]]:
    """Returns the files that should be images of a folder and its sub-folders, by their names below it, and what is
    wrong with the folder; captions do not count.

    Args:
        field: That names it.
        what: It should have.
    """
    files = files_of(folder, field, what)
    return files.images, files.problems


def folder_files(folder: Path) -> list[Path]:
    """Returns every file of a data set that counts: images, metadata and captions; nothing where it cannot be read."""
    files = files_of(folder)
    texts = [path for paths in files.texts.values() for path in paths]
    return sorted([*files.images.values(), *files.metadata.values(), *texts])


def files_of(folder: Path, field: str = "dataset", what: str = "captioned images") -> FolderFiles:
    """Returns what lies in a folder and its sub-folders; see `images_below` for the arguments."""
    found, place = FolderFiles(), shown(str(folder))
    if not folder.exists():
        found.problems.append(f"{place}: no such folder; {field} must name a folder of {what}")
        return found
    if not folder.is_dir():
        remedy = f"name the folder that has the images, {shown(str(folder.parent))}"
        found.problems.append(f"{place}: is a file; {remedy}")
        return found
    spelt: dict[str, str] = {}
    for path in _walk(folder, found.problems):
        relative = path.relative_to(folder)
        name = same_name(relative.as_posix())
        if name in spelt and spelt[name] != str(relative):
            found.problems.append(
                f"{place}: {shown(name)} is there twice, in two Unicode spellings of one name; rename or remove one"
            )
            continue
        spelt[name] = str(relative)
        # In any case, as file systems that do not tell cases apart may spell them.
        kind = path.name.lower()
        if kind in METADATA and path.parent == folder:
            found.metadata[path.name] = path
        elif kind in (*METADATA, _OTHER_METADATA):
            remedy = (
                f"write it as {METADATA[0]}"
                if kind == _OTHER_METADATA
                else f"put its lines into {METADATA[0]} of {place}, with {FILE_NAME} from there"
            )
            found.problems.append(f"{shown(str(path))}: is not read; {remedy}")
        elif path.suffix.lower() in CAPTION_SUFFIXES:
            found.texts.setdefault(_stem(name), []).append(path)
        elif not is_passed_over(path):
            found.images[name] = path
    if not found.images and not found.problems:
        found.problems.append(f"{place}: has no images; put {what} into it")
    found.images = dict(sorted(found.images.items()))
    # A readme is the caption of an image of that name only.
    stems = set(map(_stem, found.images))
    found.texts = {
        stem: paths for stem, paths in found.texts.items() if stem in stems or not is_notice(paths[0])
    }
    return found


def _walk(folder: Path, problems: list[str]) -> Iterator[Path]:
    """The files below a folder, without hidden ones and what lies in hidden folders, or in those that macOS adds to zip
    files; links are followed, once.
    """
    seen: set[str] = set()

    def unreadable(error: OSError) -> None:
        problems.append(
            f"{shown(str(error.filename))}: cannot be read ({error.strerror}); change its permissions"
        )

    for root, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        real = os.path.realpath(root)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != _OF_MACOS)
        yield from (Path(root) / name for name in sorted(names) if not name.startswith("."))


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _text_captions(
    files: FolderFiles, rows: Mapping[str, Row], place: str
) -> tuple[dict[str, str], list[str]]:
    """The captions of text files by the names of their images, and what is wrong with them."""
    stems: dict[str, list[str]] = {}
    for name in files.images:
        stems.setdefault(_stem(name), []).append(name)
    texts: dict[str, str] = {}
    problems: list[str] = []
    alone = [path for stem, paths in files.texts.items() if stem not in stems for path in paths]
    if alone:
        names = [shown(str(path.name)) for path in alone]
        problems.append(
            f"{place}: {some(names)}: a caption without its image; add the image, or take the text out of the folder"
        )
    empty: list[str] = []
    for stem, paths in files.texts.items():
        if stem not in stems:
            continue
        found, unread = texts_of(paths)
        problems += unread
        both = " and ".join(shown(path.name) for path in paths)
        if len(found) > 1:
            problems.append(f"{place}: {both} differ, and an image has one caption; remove one of them")
        for text in list(found)[:1]:
            if is_blank(text):
                empty.append(both)
            texts |= dict.fromkeys(stems[stem], text)
    if empty:
        problems.append(f"{place}: empty captions: {some(empty)}; write what the images show")
    differing = [
        f"{shown(name)} ({rows[name].place}: {rows[name].caption!r}, text file: {text!r})"
        for name, text in texts.items()
        if name in rows
        and not is_blank(text)
        and not is_blank(rows[name].caption)
        and text != rows[name].caption
    ]
    if differing:
        problems.append(
            f"{place}: metadata and text files contradict each other: {some(differing, 3)}; remove the text files, "
            "or the metadata file"
        )
    return texts, problems


def _remedy_of_links(files: FolderFiles, rows: Mapping[str, Row]) -> str:
    """What to do about lines whose image is not there, where that image may be there as a link."""
    links = {
        same_name(os.path.basename(os.path.realpath(path))): name
        for name, path in files.images.items()
        if name not in rows and os.path.islink(path)
    }
    meant = [
        f"{shown(links[PurePosixPath(name).name])} in place of {shown(name)}"
        for name in rows
        if name not in files.images and PurePosixPath(name).name in links
    ]
    if not meant:
        return "add the images, or remove the lines"
    return f"an image that is a link has the name of the link, not of the file that it leads to: write {some(meant)}"


def _without_partner(
    files: FolderFiles, rows: Mapping[str, Row], source: Path | None, place: str, *, complete: bool
) -> list[str]:
    """Names captions whose image is not there, images without a caption, and captions that are empty.

    Args:
        complete: Every line of the metadata file could be read.
    """
    problems = []
    gone = [f"{row.place} ({shown(name)})" for name, row in rows.items() if name not in files.images]
    if gone:
        problems.append(f"{place}: no such image: {some(gone)}; {_remedy_of_links(files, rows)}")
    if source is None:
        bare = [shown(name) for name in files.images if _stem(name) not in files.texts]
    else:
        bare = [shown(name) for name in files.images if name not in rows] if complete else []
    if bare:
        where = (
            f"{source.name} does not name them" if source is not None else "there is no text file beside them"
        )
        problems.append(f"{place}: images without a caption ({where}): {some(bare)}; {_RULE}")
    empty = [row.place for name, row in rows.items() if is_blank(row.caption)]
    if empty:
        problems.append(f"{place}: empty captions: {some(empty)}; write what the images show")
    return problems
