"""Metadata files of folders of captioned images, ``metadata.jsonl`` and ``metadata.csv``: a line for each image.

Every line that is wrong is told with its number and what to do. Nothing here needs torch.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from trainables.data.caption_files import one_line
from trainables.data.images import read_file
from trainables.errors import UserError
from trainables.util.text import decoded, is_blank, same_name, shown, some

METADATA = ("metadata.jsonl", "metadata.csv")
FILE_NAME = "file_name"
_LINES_SHOWN = 10
#: Of other programs' tables: spreadsheets in countries with decimal commas write semicolons.
_DELIMITERS = {";": "semicolons (;)", "\t": "tabs", "|": "bars (|)"}
#: What pandas writes for a missing value that it has turned into text, in this spelling: somebody may be called Nan.
_NO_NAMES = ("nan", "NaN", "NaT", "<NA>", "None")


@dataclass(frozen=True)
class Columns:
    """Names of columns of a metadata file; None: none is read."""

    caption: str = "text"
    group: str | None = None
    character: str | None = None


@dataclass(frozen=True)
class Row:
    """What a metadata file says of one image.

    Attributes:
        place: Names the line.
        caption: On one line; empty where there is none.
        group: In NFC, on one line; empty where the cell is, or has no name (NaN).
        character: Likewise.
    """

    place: str
    caption: str
    group: str
    character: str


def read_metadata(path: Path, columns: Columns) -> tuple[dict[str, Row], list[str]]:
    """The lines of a metadata file by the image that they name."""
    try:
        lines, problems = read_lines(path)
    except UserError as error:
        return {}, list(error.problems)
    rows: dict[str, Row] = {}
    wrong: list[str] = []
    missing: dict[str, list[str]] = {}
    for place, line in lines:
        lacking = [name for name in _wanted(columns) if name not in line]
        for name in lacking:
            missing.setdefault(name, []).append(place)
        if lacking:
            continue
        name, problem = image_name(line)
        row, wrong_cell = _row_of(place, line, columns)
        problem = problem or wrong_cell
        if problem is None and name in rows:
            problem = f"{shown(name)} is named before, in {rows[name].place}; an image has one caption, remove one line"
        if problem is not None:
            wrong.append(f"{place}: {problem}")
        elif row is not None:
            rows[name] = row
    begin = shown(str(path.parent))
    problems += wrong
    if rows and not problems and not missing:
        problems += _empty_columns(path.name, rows.values(), columns)
    for name, places in missing.items():
        there = next((list(line) for place, line in lines if place == places[0]), [])
        where = path.name if len(places) == len(lines) else some(places, 5)
        problems.append(f"{where}: no column {name!r}; {_column_remedy(name, columns, there)}")
    if not lines and not problems:
        problems.append(
            f"{path.name}: has no lines; write one for each image, with {FILE_NAME} and {columns.caption}"
        )
    return rows, [f"{begin}: {problem}" for problem in first_problems(problems)]


def read_lines(path: Path, things: str = "captions") -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """Returns the lines of a metadata file, each with words for its place, and what is wrong with those that are none.

    Args:
        things: What may have commas, for messages.

    Raises:
        UserError: The file cannot be read, or is no text.
    """
    try:
        text = decoded(read_file(path, "a metadata file"))
    except ValueError as error:
        raise UserError(f"{shown(str(path))}: {error}") from None
    if path.name.lower() == METADATA[0]:
        return _json_lines(text, path.name)
    return _csv_lines(text, path.name, things)


def image_name(line: Mapping[str, Any]) -> tuple[str, str | None]:
    """Returns the image that a line names, below the folder, and what is wrong with that name.

    Args:
        line: Has `FILE_NAME`.
    """
    if not isinstance(line[FILE_NAME], str) or is_blank(line[FILE_NAME]):
        return "", f"{FILE_NAME} is {line[FILE_NAME]!r}, and must be the name of an image"
    name = same_name(line[FILE_NAME])
    problem = _name_problem(name)
    return (name, problem) if problem is not None else (same_name(PurePosixPath(name).as_posix()), None)


def name_in(value: Any) -> str | None:
    """Returns the name that a cell holds, in NFC on one line: empty where it has none, None where it is no name."""
    if isinstance(value, bool | list | dict):
        return None
    label = "" if _is_missing(value) else one_line(same_name(str(value)))
    return "" if is_blank(label) or label in _NO_NAMES else label


def _empty_columns(name: str, rows: Collection[Row], columns: Columns) -> list[str]:
    """A column that is asked for and names nothing in any line is another one than was meant."""
    named = (
        ("group_column", columns.group, any(row.group for row in rows)),
        ("character_column", columns.character, any(row.character for row in rows)),
    )
    return [
        f"{name}: column {column!r} is empty in every line; fill it in, or leave out dataset.{option}"
        for option, column, is_used in named
        if column is not None and not is_used
    ]


def first_problems(problems: Sequence[str]) -> list[str]:
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


def _row_of(place: str, line: Mapping[str, Any], columns: Columns) -> tuple[Row | None, str | None]:
    """A line as it is read, or what is wrong with it."""
    caption = "" if _is_missing(line[columns.caption]) else line[columns.caption]
    if not isinstance(caption, str):
        return None, f"{columns.caption} is {caption!r}, and a caption is text; put it in quotation marks"
    labels = []
    for column in (columns.group, columns.character):
        value = None if column is None else line[column]
        label = name_in(value)
        if label is None:
            return (
                None,
                f"{column} is {value!r}, and a name is text or a number; leave it empty where there is none",
            )
        labels.append(label)
    return Row(place, one_line(caption), labels[0], labels[1]), None


def _is_missing(value: Any) -> bool:
    """Whether a cell says nothing: null, or the number NaN, which is what pandas makes of an empty one."""
    return value is None or (isinstance(value, float) and math.isnan(value))


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


def _other_delimiter(header: str) -> str | None:
    """What separates the columns of a table in the place of commas, in words; None where commas do."""

    def has_name(delimiter: str) -> bool:
        cells = [cell.strip(' "') for cell in header.split(delimiter)]
        return len(cells) > 1 and FILE_NAME in cells

    if has_name(","):
        return None
    return next((words for delimiter, words in _DELIMITERS.items() if has_name(delimiter)), None)


def _csv_lines(text: str, name: str, things: str) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    lines: list[tuple[str, dict[str, Any]]] = []
    problems = []
    first = next((line for line in text.splitlines() if line.strip()), "")
    if (other := _other_delimiter(first)) is not None:
        remedy = f"put {things} that have commas in quotation marks, or write {METADATA[0]}"
        return [], [
            f"{name} line 1: its columns are separated by {other}; separate them by commas and {remedy}"
        ]
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
                f"{place}: is damaged ({len(cells)} cells, and the header has {len(header)}); put {things} with commas "
                "in quotation marks"
            )
        else:
            lines.append((place, dict(zip(header, cells, strict=True))))
    if header is not None and not lines and not problems and FILE_NAME not in header:
        problems.append(f"{name}: no column {FILE_NAME!r}")
    return lines, problems
