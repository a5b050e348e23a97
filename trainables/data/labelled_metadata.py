"""Classes, groups and parts of images as a metadata file says them: ``metadata.csv`` or ``metadata.jsonl``.

Every line that is wrong is told with its number and what to do. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.data.metadata_files import FILE_NAME, first_problems, image_name, name_in, read_lines
from trainables.errors import UserError
from trainables.util.text import shown, some

PARTS = ("train", "validation", "test")

_SPELLINGS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class LabelColumns:
    """Names of the columns that say class, group and split of an image.

    None: ``class``, ``group`` and ``split``, where the file has them. A column that is named must be there.
    """

    label: str | None = None
    group: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class LabelRow:
    """What a metadata file says of one image.

    Attributes:
        place: Names the line.
        label: The class; None where the file has no such column.
        group: Of images that stay together; empty where the image is by itself.
        part: One of `PARTS`; empty where the file does not say it.
    """

    place: str
    label: str | None
    group: str
    part: str


def read_labels(path: Path, columns: LabelColumns) -> tuple[dict[str, LabelRow], list[str]]:
    """Returns the lines of a metadata file by the image that they name, and what is wrong with them."""
    try:
        lines, problems = read_lines(path, "cells")
    except UserError as error:
        return {}, list(error.problems)
    names, missing = _columns_there([line for _, line in lines], columns)
    rows: dict[str, LabelRow] = {}
    nameless: list[str] = []
    for place, line in lines:
        if FILE_NAME not in line:
            nameless.append(place)
            continue
        name, wrong_name = image_name(line)
        row, wrong = _row_of(place, line, names)
        wrong = [wrong_name, *wrong] if wrong_name is not None else wrong
        if not wrong and name in rows:
            wrong = [f"{shown(name)} is named before, in {rows[name].place}; remove one of the lines"]
        problems += [f"{place}: {problem}" for problem in wrong]
        if not wrong:
            rows[name] = row
    if nameless:
        where = path.name if len(nameless) == len(lines) else some(nameless)
        missing.append(f"no column {FILE_NAME!r} ({where}); write the image's name, relative to the folder")
    problems = [*first_problems(problems), *(f"{path.name}: {problem}" for problem in missing)]
    if not lines and not problems:
        problems.append(f"{path.name}: has no lines; write one for each image, with {FILE_NAME} and class")
    return rows, [f"{shown(str(path.parent))}: {problem}" for problem in problems]


def _columns_there(
    lines: Sequence[Mapping[str, Any]], columns: LabelColumns
) -> tuple[dict[str, str], list[str]]:
    """The columns by what they say, without those that are not there, and which of these are asked for."""
    there = list(dict.fromkeys(name for line in lines for name in line))
    asked = {"class": columns.label, "group": columns.group, "split": columns.split}
    names = {what: name or what for what, name in asked.items() if (name or what) in there}
    missing = [
        f"no column {name!r}, which is to say the {what}; it has {some([repr(each) for each in there])}"
        for what, name in asked.items()
        if name is not None and lines and what not in names
    ]
    return names, missing


def _row_of(place: str, line: Mapping[str, Any], names: Mapping[str, str]) -> tuple[LabelRow, list[str]]:
    """A line as it is read, and what is wrong with its cells."""
    cells: dict[str, str] = {}
    problems = []
    for what, column in names.items():
        value = name_in(line.get(column))
        if value is None:
            problems.append(f"{column} is {line[column]!r}, and must be text or a number")
        elif not value and what == "class":
            problems.append(f"{column} is empty; write the image's class, or take the image out")
        elif what == "split" and value.casefold() not in _SPELLINGS:
            problems.append(f"{column} is {value!r}, and must be {', '.join(PARTS[:-1])} or {PARTS[-1]}")
        cells[what] = value or ""
    part = _SPELLINGS.get(cells.get("split", "").casefold(), "")
    return LabelRow(place, cells.get("class"), cells.get("group", ""), part), problems
