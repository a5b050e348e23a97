"""A table is one value, drawn four times: CSV (raw numbers), Markdown, HTML, and LaTeX (``latex.py``).

Cells hold plain text; each renderer escapes for its own language, because names of arms and messages of failures
are the user's and may hold anything.
"""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from study.report.code_words import with_code
from study.report.comparisons import Comparison
from study.report.formatting import (
    MISSING,
    PLAIN,
    Scale,
    decimals_for,
    fixed,
    interval,
    number,
    readable_decimals,
    scale_for,
)
from study.report.measures import ARROWS, FALSE_ALARMS, QUALITY, SCORES, bounded, measure
from study.statistics.paired import Direction, Estimate

_MARKDOWN = str.maketrans(
    {c: f"\\{c}" for c in "\\`*_{}[]#|~$!"}
    | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " ", "\t": " "}
)


FOLD_FROM = 24  # rows; longer tables are folded in HTML, but the main ones
_MAIN = ("arms", "summary")
SECOND_BEST = "underlined: the second best"  # as notes say it; Markdown, which has no underline, has italics
_EIGHT = 105  # letters that fit on eight of the page's twelve columns
_SHORT = 14  # letters
_LETTERS = 40  # of a cell on one line; longer texts are broken


def escape_markdown(text: str) -> str:
    """Makes any text harmless in Markdown, HTML in it and table bars included."""
    return text.translate(_MARKDOWN)


def escape_html(text: str) -> str:
    """Makes any text harmless in HTML, in attributes too."""
    return html.escape(text, quote=True)


def prose_html(text: str) -> str:
    """A sentence of the report in HTML: escaped, and what is between backticks as code."""
    return with_code(text, escape_html, lambda code: f"<code>{escape_html(code)}</code>")


@dataclass(frozen=True)
class Cell:
    """One entry.

    Attributes:
        text: What is shown.
        detail: Second, smaller line: the interval.
        value, low, high: Numbers for the CSV, in the base unit.
        rank: 1 for the best of its column, 2 for the second, else None.
        anchor: Where on the page the text leads to; empty for nowhere.
    """

    text: str
    detail: str = ""
    value: float | int | str | None = None
    low: float | None = None
    high: float | None = None
    rank: Literal[1, 2] | None = None
    anchor: str = ""


@dataclass(frozen=True)
class Column:
    """A column: CSV key, heading, unit of display, which way is better, and whether it holds numbers, or sentences of
    the report, in which backticks mark code.
    """

    key: str
    title: str
    unit: str = ""
    direction: Direction | None = None
    numeric: bool = False
    has_interval: bool = False
    prose: bool = False

    @property
    def heading(self) -> str:
        """Title with unit and arrow."""
        return f"{self.title} {self.suffix}".strip()

    @property
    def suffix(self) -> str:
        """Unit and arrow, which stay together."""
        unit = f"({self.unit})" if self.unit else ""
        return f"{unit} {ARROWS.get(self.direction or '', '')}".strip()


@dataclass(frozen=True)
class Table:
    """A table with its caption and notes; `key` names its files.

    Attributes:
        alone: The notes where the table stands by itself, without the page that `notes` may lead on to; those if empty.
    """

    key: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()

    @property
    def notes_alone(self) -> tuple[str, ...]:
        """What stands below the table in a file of its own."""
        return self.alone or self.notes

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.key!r}: a row has {len(row)} cells for {len(self.columns)} columns"
                )


def text_cell(value: object) -> Cell:
    """A cell with the plain text of a value; None and NaN are missing."""
    if value is None or value != value:
        return Cell(MISSING)
    if isinstance(value, float):
        return Cell(number(value), value=value)
    return Cell(str(value), value=value if isinstance(value, int) else str(value))


def number_cell(value: float | None, scale: Scale = PLAIN, digits: int = 3) -> Cell:
    """A cell with one number in the unit of `scale`."""
    text = number(value, scale, digits)
    return Cell(text, value=None if text == MISSING else value)


def count_cell(value: float | None) -> Cell:
    """A cell with a whole number, or a mean of whole numbers shown as one."""
    if value is None or not math.isfinite(value):
        return Cell(MISSING)
    return Cell(fixed(value, 0), value=value)


def common_decimals(estimates: Sequence[Estimate], scale: Scale = PLAIN) -> int | None:
    """Decimals for a whole column: those of the median uncertainty; None where nothing is uncertain."""
    halves = sorted(e.half_width / scale.factor for e in estimates if e.half_width)
    return decimals_for(0.0, halves[len(halves) // 2]) if halves else None


def score_decimals(estimates: Sequence[Estimate]) -> int:
    """Decimals of a column of scores: two, but three where an interval is narrower than .01."""
    return 3 if any(e.half_width and 2 * e.half_width < 0.01 for e in estimates) else 2


def score_cell(estimate: Estimate, decimals: int = 2) -> Cell:
    """A cell with a score and its interval, with fixed decimals."""
    if estimate.value is None:
        return Cell(MISSING)
    detail = interval(estimate.low, estimate.high, decimals) if estimate.half_width else ""
    return Cell(fixed(estimate.value, decimals), detail, estimate.value, estimate.low, estimate.high)


def estimate_cell(estimate: Estimate, scale: Scale = PLAIN, decimals: int | None = None) -> Cell:
    """A cell with a mean and its interval, with the digits that its column has, or its own interval supports.

    Its own are taken where an interval is narrower than the last digit of the column, and would look like none.
    """
    if estimate.value is None:
        return Cell(MISSING)
    half = estimate.half_width
    shown = estimate.value / scale.factor
    if not half:
        text = number(estimate.value, scale) if decimals is None or not shown else fixed(shown, decimals)
        return Cell(text, "", estimate.value, estimate.low, estimate.high)
    if decimals is None or 2 * half / scale.factor < 10**-decimals:
        decimals = decimals_for(shown, half / scale.factor)
    detail = interval(estimate.low, estimate.high, decimals, scale)
    return Cell(fixed(shown, decimals), detail, estimate.value, estimate.low, estimate.high)


def estimate_text(estimate: Estimate, name: str = QUALITY) -> str:
    """Of a measure or a difference in it, e.g. "0.62 [0.55, 0.70]"; of one with a unit "1.3 [1.2, 1.5] GB"."""
    if name in SCORES:
        cell = score_cell(estimate, score_decimals([estimate]))
        return f"{cell.text} {cell.detail}".strip()
    limits = [abs(limit) for limit in (estimate.value, estimate.low, estimate.high) if limit is not None]
    scale = scale_for(measure(name).unit, [max(limits, default=None)])
    cell = estimate_cell(estimate, scale)
    return " ".join(part for part in (cell.text, cell.detail, scale.unit) if part)


def difference_text(comparison: Comparison) -> str:
    """E.g. "+0.04 [0.01, 0.07]"."""
    estimate = comparison.difference
    sign = "+" if estimate.value is not None and estimate.value > 0 else ""
    return f"{sign}{estimate_text(estimate, comparison.measure)}"


def _decimals(estimate: Estimate, scale: Scale, common: int | None) -> int | None:
    """Decimals of one cell in a column of a common number, in which values of all sizes may stand."""
    if common is None or estimate.value is None:
        return common
    half = estimate.half_width / scale.factor if estimate.half_width else None
    return readable_decimals(estimate.value / scale.factor, half, common)


def estimate_column(
    key: str,
    title: str,
    unit: str,
    direction: Direction | None,
    estimates: Sequence[Estimate],
    ranked: Sequence[bool] | None = None,
) -> tuple[Column, list[Cell]]:
    """A column of estimates in one common unit, the best and the second best marked; intervals are cut at what is
    possible, and shares within a detector's false alarms are alike.

    Args:
        key: Name of the measure.
        ranked: Which rows may be best (the untrained base model is only the reference). None: all.
    """
    estimates = [bounded(key, estimate) for estimate in estimates]
    scale = scale_for(unit, [estimate.value for estimate in estimates])
    if key in SCORES:
        decimals = score_decimals(estimates)
        cells = [score_cell(estimate, decimals) for estimate in estimates]
    else:
        whole = key == "train_steps"
        common = 0 if whole else common_decimals(estimates, scale)
        cells = [
            estimate_cell(estimate, scale, common if whole else _decimals(estimate, scale, common))
            for estimate in estimates
        ]
    column = Column(key, title, scale.unit, direction, numeric=True, has_interval=True)
    if direction in (None, "none"):
        return column, cells
    allowed = ranked if ranked is not None else [True] * len(cells)
    sign = -1 if direction == "max" else 1
    alike = FALSE_ALARMS.get(key, -math.inf)
    values = [
        sign * max(alike, e.value) if ok and e.value is not None else None
        for e, ok in zip(estimates, allowed, strict=True)
    ]
    known = {value for value in values if value is not None}
    order = sorted(known)[:2] if len(known) > 1 else []
    for k, value in enumerate(values):
        if value in order:
            cells[k] = replace(cells[k], rank=1 if value == order[0] else 2)
    return column, cells


def marks(of: str = "") -> str:
    """What the marks of the best and the second best mean; `of` says among which."""
    return f"Bold: best mean{of}; {SECOND_BEST}"


def assemble(
    key: str,
    caption: str,
    columns: Sequence[tuple[Column, Sequence[Cell]]],
    notes: Sequence[str] = (),
) -> Table:
    """Makes a table from its columns; one that marks the best and the second best says so in a note."""
    rows = tuple(zip(*(cells for _, cells in columns), strict=True))
    marked = any(cell.rank for row in rows for cell in row)
    if marked and not any(SECOND_BEST in note for note in notes):
        notes = (*notes, f"{marks()}.")
    return Table(key, caption, tuple(column for column, _ in columns), rows, tuple(notes))


def to_csv(table: Table) -> str:
    """Raw numbers in base units; a column with intervals becomes three: key, key_low, key_high."""
    header: list[str] = []
    for column in table.columns:
        header += (
            [column.key, f"{column.key}_low", f"{column.key}_high"] if column.has_interval else [column.key]
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in table.rows:
        line: list[object] = []
        for column, cell in zip(table.columns, row, strict=True):
            value = (
                cell.value
                if cell.value is not None
                else ""
                if column.numeric or cell.text == MISSING
                else cell.text
            )
            line += [value, cell.low, cell.high] if column.has_interval else [value]
        writer.writerow(
            ["" if item is None else item + 0.0 if isinstance(item, float) else item for item in line]
        )
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """A pipe table; best in bold, second in italics (Markdown has no underline)."""

    def shown(cell: Cell) -> str:
        text = escape_markdown(cell.text)
        text = f"**{text}**" if cell.rank == 1 else f"*{text}*" if cell.rank == 2 else text
        return f"{text} {escape_markdown(cell.detail)}".strip()

    lines = [
        "| " + " | ".join(escape_markdown(column.heading) for column in table.columns) + " |",
        "|" + "|".join("--:" if column.numeric else ":--" for column in table.columns) + "|",
    ]
    lines += ["| " + " | ".join(shown(cell) for cell in row) + " |" for row in table.rows]
    notes = [
        note.replace(SECOND_BEST, SECOND_BEST.replace("underlined", "in italics")) for note in table.notes
    ]
    lines += [""] + [f"{escape_markdown(note)}  " for note in notes] if notes else []
    return "\n".join(lines) + "\n"


def to_html(table: Table) -> str:
    """A table in a box that scrolls sideways on a narrow screen; all text escaped.

    Cells bear the number that they show (``data-sort``), for the page's script to sort by, and headings of measures of
    which higher is better which end comes first.
    """
    head = "".join(_heading(column) for column in table.columns)
    body = "\n".join(
        "<tr>"
        + "".join(_entry(c, cell, k == 0) for k, (c, cell) in enumerate(zip(table.columns, row, strict=True)))
        + "</tr>"
        for row in table.rows
    )
    notes = "".join(f'<p class="note">{prose_html(note)}</p>' for note in table.notes)
    name = f"table-{escape_html(table.key)}"
    text = (
        f'<div class="tabular{" eight" if _letters(table) <= _EIGHT else ""}">'
        f'<p class="caption" id="{name}">{prose_html(table.caption)}</p>\n'
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{name}"><table class="data" '
        f'aria-labelledby="{name}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>{notes}</div>"
    )
    if len(table.rows) <= FOLD_FROM or table.key in _MAIN:
        return text
    summary = f"{prose_html(table.caption)} ({len(table.rows)} rows)"
    return f'<details class="long"><summary>{summary}</summary>{text}</details>'


def _heading(column: Column) -> str:
    name = ' class="number"' if column.numeric else ""
    first = ' data-first="descending"' if column.direction == "max" else ""
    gap = " " if len(column.heading) > _SHORT else "\u00a0"  # a short heading stays on one line
    suffix = f'{gap}<span class="unit">{escape_html(column.suffix)}</span>' if column.suffix else ""
    return f'<th scope="col"{name}{first}>{escape_html(column.title)}{suffix}</th>'


def _entry(column: Column, cell: Cell, first: bool) -> str:
    text = prose_html(cell.text) if column.prose else escape_html(cell.text)
    text = f"<strong>{text}</strong>" if cell.rank == 1 else f"<u>{text}</u>" if cell.rank == 2 else text
    text = f'<a href="#{escape_html(cell.anchor)}">{text}</a>' if cell.anchor else text
    detail = f"<small>{escape_html(cell.detail)}</small>" if cell.detail else ""
    name = ' class="number"' if column.numeric else ' class="long"' if len(cell.text) > _LETTERS else ""
    if isinstance(cell.value, (int, float)) and math.isfinite(cell.value):
        name += f' data-sort="{cell.value:.9g}"'
    return f'<th scope="row"{name}>{text}{detail}</th>' if first else f"<td{name}>{text}{detail}</td>"


def _letters(table: Table) -> int:
    """About how many letters wide a table is."""

    def wide(k: int, column: Column) -> int:
        longest = max((len(word) for word in column.heading.split()), default=0)
        cells = max((max(len(row[k].text), len(row[k].detail)) for row in table.rows), default=0)
        return max(longest + 2, min(cells, _LETTERS)) + 2

    return sum(wide(k, column) for k, column in enumerate(table.columns))
