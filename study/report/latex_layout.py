"""How a table is laid out in LaTeX: in what size, over how many columns of a page, and in which pieces.

Widths are those of Computer Modern, which is as wide as any font of the usual templates. What fits into one column of
a two-column article is set there, and what fits into the text of a one-column article is a tabular in both. Only what
is wider has two layouts, of which LaTeX takes the one that its text has room for.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from study.report.tables import Cell, Column, Table

# Points, of plain articles in 10 pt, the narrower of letter and A4 paper each.
ONE_COLUMN = 220.0  # one of two columns
ONE_TEXT = 345.0  # the text of a one-column article
BOTH_COLUMNS = 450.0  # the text of a two-column article
PAGE = 535.0  # height of a page of floats
_CAPTION_LETTER, _CAPTION_LINE, _AROUND_CAPTION = 4.5, 12.0, 18.0
_MOST_KEYS = 3  # columns that each panel repeats
_MOST_OF_KEYS = 0.6  # of the width; where names take more, the first column alone is repeated
_LONGEST_WORD = 44  # letters; no line holds a longer one, such as a digest
_RULES = 12.0  # height of the three rules with what is around them

# Widths of cmr10 in hundredths of 10 pt.
_LETTERS = {
    28: "ijl.,:;'!|[]\u2008", 33: " -\u00a0", 39: "frstI()J", 44: "cez", 50: "aovxykq_\"*↑↓0123456789/\u2007",
    56: "bdhnpugLFE?", 72: "wABCDGHKNOPQRSTUVXYZ", 84: "m%&+<>=−×±·≥≤≈~^#$@", 103: "MW→←",
}  # fmt: skip
_WIDTHS = {letter: 0.1 * width for width, letters in _LETTERS.items() for letter in letters}
_BY_NUMBER = 32.0  # points: a character that pdfLaTeX prints as U+1F642
_BOLD = 1.16
SMALL = 0.8  # of 10 pt: \scriptsize, which is also the size of intervals


@dataclass(frozen=True)
class Form:
    """How the tabulars of a table are set.

    Attributes:
        size: LaTeX's name of the size of the letters.
        letter, line: Width of its letters by those of 10 pt, and distance of its lines in points.
        gap: ``\\tabcolsep`` in points: half of the space between two columns.
        words, heading: Letters in a line of a text, and of a heading; longer ones are broken.
    """

    size: str
    letter: float
    line: float
    gap: float
    words: int
    heading: int


# From the easiest to read to the smallest; texts in as long lines as the other columns leave room for.
FORMS = (
    *(Form("footnotesize", 0.85, 9.5, 4.0, words, 14) for words in (90, 75, 60, 45, 30)),
    Form("footnotesize", 0.85, 9.5, 3.0, 20, 12),
    *(Form("scriptsize", SMALL, 8.0, 2.5, words, 11) for words in (60, 45, 30, 18)),
)
_IN_A_COLUMN = (FORMS[4], Form("footnotesize", 0.85, 9.5, 3.0, 24, 12))


@dataclass(frozen=True)
class Panel:
    """Columns and rows that stand in one tabular, by their numbers."""

    columns: tuple[int, ...]
    rows: range


@dataclass(frozen=True)
class Layout:
    """A table in floats, each of panels below each other.

    Attributes:
        starred: Whether the floats take both columns of a page.
        width: Of the widest tabular, in points.
    """

    form: Form
    floats: tuple[tuple[Panel, ...], ...]
    starred: bool
    width: float

    @property
    def pieces(self) -> tuple[int, int]:
        """How many floats and how many tabulars there are."""
        return len(self.floats), sum(map(len, self.floats))


def layouts(table: Table) -> tuple[Layout, ...]:
    """Returns the one layout of a table, or two: for texts narrower than the second one, and for those that hold it."""
    in_a_column = _laid_out(table, ONE_COLUMN, _IN_A_COLUMN, starred=False)
    if _whole(table, in_a_column) and in_a_column.width <= ONE_COLUMN:
        return (in_a_column,)
    narrow, wide = _laid_out(table, ONE_TEXT), _laid_out(table, BOTH_COLUMNS)
    return (narrow, wide) if wide.pieces < narrow.pieces else (narrow,)


def _whole(table: Table, layout: Layout) -> bool:
    """Whether all columns stand beside each other."""
    return len(layout.floats[0][0].columns) == len(table.columns)


def _laid_out(table: Table, width: float, forms: Sequence[Form] = FORMS, starred: bool = True) -> Layout:
    """In as few floats and panels as a form of letters allows; the largest letters among equals."""
    found = [_in_form(table, width, form, starred) for form in forms]
    return min(found, key=lambda layout: (layout.width > width, layout.pieces))


def _in_form(table: Table, width: float, form: Form, starred: bool) -> Layout:
    letters = sum(map(len, (table.caption, *table.notes_alone)))
    room = PAGE - _AROUND_CAPTION - _CAPTION_LINE * math.ceil(_CAPTION_LETTER * letters / width)
    widths = [_width(table, k, form) for k in range(len(table.columns))]
    floats: list[list[Panel]] = []
    left = 0.0
    keys = _keys(table)
    if sum(widths[:keys]) > _MOST_OF_KEYS * width:
        keys = 1
    panels = _columns_of_panels(widths, width + 2 * form.gap, keys)  # none at the edges
    for columns in panels:
        for rows in _rows_of_pages(table, columns, form, room):
            height = _height(table, columns, rows, form)
            if not floats or height > left:
                floats.append([])
                left = room
            floats[-1].append(Panel(tuple(columns), rows))
            left -= height + form.line
    widest = max(sum(widths[k] for k in columns) for columns in panels) - 2 * form.gap
    return Layout(form, tuple(map(tuple, floats)), starred, widest)


# ------------------------------------------------------------------ heights


def _rows_of_pages(table: Table, columns: Sequence[int], form: Form, room: float) -> Iterator[range]:
    """The rows of a panel, cut where a page ends."""
    head = _height(table, columns, range(0), form)
    first, used = 0, head
    for place, row in enumerate(table.rows):
        height = _height_of_a_row(row, table.columns, columns, form)
        if used + height > room and place > first:
            yield range(first, place)
            first, used = place, head
        used += height
    yield range(first, len(table.rows))


def _height(table: Table, columns: Sequence[int], rows: range, form: Form) -> float:
    heading = max(len(heading_lines(table.columns[k], form)) for k in columns)
    lines = sum(_height_of_a_row(table.rows[row], table.columns, columns, form) for row in rows)
    return heading * form.line + _RULES + lines


def _height_of_a_row(
    row: Sequence[Cell], columns: Sequence[Column], panel: Sequence[int], form: Form
) -> float:
    """With half a line behind a row of several."""
    lines = _lines_of_texts(row, columns, panel, form) + any(row[k].detail for k in panel)
    return form.line * (lines + 0.5 * (lines > 1))


def _lines_of_texts(row: Sequence[Cell], columns: Sequence[Column], panel: Sequence[int], form: Form) -> int:
    return max(1 if columns[k].numeric else len(broken(row[k].text, form.words)) for k in panel)


def is_of_several_lines(
    row: Sequence[Cell], columns: Sequence[Column], panel: Sequence[int], form: Form
) -> bool:
    """Whether a row has intervals or a broken text, so that a space must tell it from the next one."""
    return any(row[k].detail for k in panel) or _lines_of_texts(row, columns, panel, form) > 1


# ------------------------------------------------------------------ widths


def _keys(table: Table) -> int:
    """How many of the first columns tell the rows apart: one where none of them do."""
    for count in range(1, min(_MOST_KEYS, len(table.columns)) + 1):
        names = [tuple(cell.text for cell in row[:count]) for row in table.rows]
        if len({*names}) == len(names):
            return count
    return 1


def _columns_of_panels(widths: Sequence[float], most: float, keys: int) -> list[list[int]]:
    """Columns that fit beside each other, about as wide in every panel; those that name the rows begin each."""
    panels = _filled(widths, most, keys)
    named = sum(widths[:keys])
    sums = sorted({most, *(named + sum(widths[a:b]) for a, b in _ranges(keys, len(widths)))}, reverse=True)
    for _, narrower in pairwise(one for one in sums if one <= most):
        tried = _filled(widths, narrower, keys)
        if len(tried) > len(panels):
            break
        panels = tried
    return panels


def _ranges(first: int, count: int) -> Iterator[tuple[int, int]]:
    return ((a, b) for a in range(first, count) for b in range(a + 1, count + 1))


def _filled(widths: Sequence[float], most: float, keys: int) -> list[list[int]]:
    names, named = list(range(keys)), sum(widths[:keys])
    panels, used = [[*names]], named
    for k in range(keys, len(widths)):
        if used + widths[k] > most and len(panels[-1]) > keys:
            panels.append([*names])
            used = named
        panels[-1].append(k)
        used += widths[k]
    return panels


def _width(table: Table, k: int, form: Form) -> float:
    """Width of a column in points, with the gap to the next."""
    column = table.columns[k]
    widest = max(map(width_of, heading_lines(column, form))) * form.letter
    for row in table.rows:
        cell = row[k]
        texts = (cell.text,) if column.numeric else broken(cell.text, form.words)
        shown = max(map(width_of, texts)) * form.letter * (_BOLD if cell.rank == 1 else 1)
        widest = max(widest, shown, width_of(cell.detail) * SMALL)
    return widest + 2 * form.gap


@lru_cache(maxsize=4096)
def width_of(text: str) -> float:
    """Width of a line in points, in Computer Modern of 10 pt."""
    return sum(map(_width_of_a_character, unicodedata.normalize("NFC", text)))


def _width_of_a_character(character: str) -> float:
    base = unicodedata.normalize("NFD", character)[:1]
    found = _WIDTHS.get(character) or _WIDTHS.get(base)
    return found or (6.0 if ord(character) < 128 or "α" <= character.lower() <= "ω" else _BY_NUMBER)


def heading_lines(column: Column, form: Form) -> list[str]:
    """A heading in lines, the unit and arrow in the last one."""
    *lines, last = broken(column.title, form.heading)
    if not column.suffix:
        return [*lines, last]
    together = f"{last} {column.suffix}"
    return [*lines, together] if len(together) <= form.heading else [*lines, last, column.suffix]


@lru_cache(maxsize=4096)
def broken(text: str, most: int) -> tuple[str, ...]:
    """A text in lines of about so many letters, broken between words, and within those that no line could hold."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > most:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    longest = max(most, _LONGEST_WORD)
    return tuple(
        line[first : first + longest] for line in lines for first in range(0, max(1, len(line)), longest)
    )
