"""Folders of captioned images: Hugging Face's ``imagefolder`` layout, and text files beside the images.

Captions come from ``metadata.jsonl`` or ``metadata.csv`` (columns ``file_name``, relative to the folder, and the
caption's), or from a text file (.txt, .caption) beside each image. Images may lie in sub-folders. No image is decoded
here. Nothing here needs torch.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from trainables.data.caption_files import CAPTION_SUFFIXES, one_line, texts_of
from trainables.data.images import is_passed_over, read_file
from trainables.errors import UserError
from trainables.util.text import decoded, is_blank, same_name, shown

METADATA = ("metadata.jsonl", "metadata.csv")
FILE_NAME = "file_name"
_OTHER_METADATA = "metadata.parquet"
_LINES_SHOWN, _NAMES_SHOWN = 10, 8
_RULE = "each image of a data set needs a caption, in metadata.jsonl, metadata.csv or a text file beside it"


@dataclass(frozen=True)
class Columns:
    """Names of columns of a metadata file; None: none is read."""

    caption: str = "text"
    group: str | None = None
    character: str | None = None


@dataclass(frozen=True)
class Entry:
    """One captioned image of a folder.

    Attributes:
        name: Of the file below the folder, in NFC with "/", e.g. "cats/01.png".
        caption: On one line, not blank.
        group: Of images that stay together; the file's own name without a column.
        character: Whom it shows; empty without a column.
    """

    path: Path
    name: str
    caption: str
    group: str
    character: str = ""


@dataclass
class _Files:
    """What lies in a folder, by names below it."""

    images: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, list[Path]] = field(default_factory=dict)  # by name without suffix
    metadata: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass
class _Row:
    """What a metadata file says of one image; `place` names the line."""

    place: str
    caption: str
    group: str
    character: str


def read_image_folder(folder: Path, columns: Columns) -> tuple[tuple[Entry, ...], list[str]]:
    """Returns the captioned images of a folder in the order of their names, and everything that is wrong with it."""
    place = shown(str(folder))
    files = _files_of(folder)
    problems = files.problems
    if problems and not files.images:
        return (), problems
    rows: dict[str, _Row] = {}
    problems_of_lines: list[str] = []
    source = next(iter(files.metadata.values()), None)
    if len(files.metadata) > 1:
        problems.append(
            f"{place}: has {' and '.join(files.metadata)}, and only one can say what holds; remove one of them"
        )
        return (), problems
    if source is not None:
        rows, problems_of_lines = _read_metadata(source, columns)
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


def folder_files(folder: Path) -> list[Path]:
    """Returns every file of a data set that counts: images, metadata and captions; nothing where it cannot be read."""
    files = _files_of(folder)
    texts = [path for paths in files.texts.values() for path in paths]
    return sorted([*files.images.values(), *files.metadata.values(), *texts])


def some(names: Sequence[str], most: int = _NAMES_SHOWN) -> str:
    """Returns names for a message: the first few, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _files_of(folder: Path) -> _Files:
    found, place = _Files(), shown(str(folder))
    if not folder.exists():
        found.problems.append(f"{place}: no such folder; dataset must name a folder of captioned images")
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
        if path.name in METADATA and path.parent == folder:
            found.metadata[path.name] = path
        elif path.name in (*METADATA, _OTHER_METADATA):
            remedy = (
                f"write it as {METADATA[0]}"
                if path.name == _OTHER_METADATA
                else f"put its lines into {METADATA[0]} of {place}, with {FILE_NAME} from there"
            )
            found.problems.append(f"{shown(str(path))}: is not read; {remedy}")
        elif path.suffix.lower() in CAPTION_SUFFIXES:
            found.texts.setdefault(_stem(name), []).append(path)
        elif not is_passed_over(path):
            found.images[name] = path
    if not found.images and not found.problems:
        found.problems.append(f"{place}: has no images; put captioned images into it")
    found.images = dict(sorted(found.images.items()))
    return found


def _walk(folder: Path, problems: list[str]) -> Iterator[Path]:
    """The files below a folder, without hidden ones and what lies in hidden folders; links are followed, once."""
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
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root) / name for name in sorted(names) if not name.startswith("."))


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _text_captions(files: _Files, rows: Mapping[str, _Row], place: str) -> tuple[dict[str, str], list[str]]:
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


def _without_partner(
    files: _Files, rows: Mapping[str, _Row], source: Path | None, place: str, *, complete: bool
) -> list[str]:
    """Names captions whose image is not there, images without a caption, and captions that are empty.

    Args:
        complete: Every line of the metadata file could be read.
    """
    problems = []
    gone = [f"{row.place} ({shown(name)})" for name, row in rows.items() if name not in files.images]
    if gone:
        problems.append(f"{place}: no such image: {some(gone)}; add the images, or remove the lines")
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


def _read_metadata(path: Path, columns: Columns) -> tuple[dict[str, _Row], list[str]]:
    """The lines of a metadata file by the image that they name."""
    try:
        text = decoded(read_file(path, "a metadata file"))
    except UserError as error:
        return {}, list(error.problems)
    except ValueError as error:
        return {}, [f"{shown(str(path))}: {error}"]
    lines, problems = (_json_lines if path.name == METADATA[0] else _csv_lines)(text, path.name)
    rows: dict[str, _Row] = {}
    wrong: list[str] = []
    missing: dict[str, list[str]] = {}
    for place, line in lines:
        lacking = [name for name in _wanted(columns) if name not in line]
        for name in lacking:
            missing.setdefault(name, []).append(place)
        if lacking:
            continue
        row, problem = _row_of(place, line, columns)
        name = same_name(str(line[FILE_NAME]))
        if problem is None:
            problem = _name_problem(name)
            name = same_name(PurePosixPath(name).as_posix()) if problem is None else name
        if problem is None and name in rows:
            problem = f"{shown(name)} is named before, in {rows[name].place}; an image has one caption, remove one line"
        if problem is not None:
            wrong.append(f"{place}: {problem}")
        elif row is not None:
            rows[name] = row
    begin = shown(str(path.parent))
    problems += wrong
    for name, places in missing.items():
        there = next((list(line) for place, line in lines if place == places[0]), [])
        where = path.name if len(places) == len(lines) else some(places, 5)
        problems.append(f"{where}: no column {name!r}; {_column_remedy(name, columns, there)}")
    if not lines and not problems:
        problems.append(
            f"{path.name}: has no lines; write one for each image, with {FILE_NAME} and {columns.caption}"
        )
    return rows, [f"{begin}: {problem}" for problem in _first(problems)]


def _first(problems: Sequence[str]) -> list[str]:
    """One wrong program writes thousands of wrong lines, and a few of them say what it is."""
    more = len(problems) - _LINES_SHOWN
    return [*problems[:_LINES_SHOWN], *([f"and {more} more lines that are wrong"] if more > 0 else [])]


def _wanted(columns: Columns) -> list[str]:
    named = (FILE_NAME, columns.caption, columns.group, columns.character)
    return list(dict.fromkeys(name for name in named if name is not None))


def _column_remedy(name: str, columns: Columns, there: Sequence[str]) -> str:
    others = [column for column in there if column != FILE_NAME]
    has = f"it has {', '.join(map(repr, there))}" if there else "the line is empty"
    option = {
        columns.caption: "caption_column",
        columns.group: "group_column",
        columns.character: "character_column",
    }
    if name == FILE_NAME:
        return f"{has}; write the image's name, relative to the folder, as {FILE_NAME}"
    if not others:
        return f"{has}; add the column"
    return f"{has}; add the column, or name another in dataset.{option[name]}, for example {others[0]}"


def _row_of(place: str, line: Mapping[str, Any], columns: Columns) -> tuple[_Row | None, str | None]:
    """A line as it is read, or what is wrong with it."""
    if not isinstance(line[FILE_NAME], str) or is_blank(line[FILE_NAME]):
        return None, f"{FILE_NAME} is {line[FILE_NAME]!r}, and must be the name of an image"
    caption = "" if line[columns.caption] is None else line[columns.caption]
    if not isinstance(caption, str):
        return None, f"{columns.caption} is {caption!r}, and a caption is text; put it in quotation marks"
    labels = []
    for column in (columns.group, columns.character):
        value = "" if column is None else line[column]
        if column is not None and (
            value is None or isinstance(value, bool | list | dict) or is_blank(str(value))
        ):
            return None, f"{column} is {value!r}, and must name something in every line"
        labels.append(one_line(str(value)))
    return _Row(place, one_line(caption), labels[0], labels[1]), None


def _name_problem(name: str) -> str | None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or name.startswith("~"):
        return f"{FILE_NAME} {shown(name)!r} leads out of the folder or is no relative path with /; images lie below it"
    if any(part.startswith(".") for part in path.parts):
        return f"{FILE_NAME} {shown(name)!r} is a hidden file, and those are not read; rename it"
    return None


def _json_lines(text: str, name: str) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    lines: list[tuple[str, dict[str, Any]]] = []
    problems = []
    for number, line in enumerate(text.split("\n"), 1):
        place = f"{name} line {number}"
        if is_blank(line):
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "nested too deeply")
            problems.append(f"{place}: is damaged ({reason}); each line is one JSON object")
            continue
        if isinstance(content, dict):
            lines.append((place, content))
        else:
            problems.append(f"{place}: is {type(content).__name__}, and must be a JSON object {{...}}")
    return lines, problems


def _csv_lines(text: str, name: str) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    lines: list[tuple[str, dict[str, Any]]] = []
    problems = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    begin = 1
    while True:
        begin = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            problems.append(f"{name} line {begin}: is damaged ({error}); the lines after it were not read")
            break
        if cells is None:
            break
        place = f"{name} line {begin}"
        if not cells:
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            twice = sorted({cell for cell in header if header.count(cell) > 1})
            if twice:
                problems.append(f"{place}: has column {twice[0]!r} twice; rename one")
                break
        elif len(cells) != len(header):
            problems.append(
                f"{place}: is damaged ({len(cells)} cells, and the header has {len(header)}); put captions with commas "
                "in quotation marks"
            )
        else:
            lines.append((place, dict(zip(header, cells, strict=True))))
    if header is not None and not lines and not problems and FILE_NAME not in header:
        problems.append(f"{name}: no column {FILE_NAME!r}")
    return lines, problems
