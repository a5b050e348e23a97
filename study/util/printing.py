"""How rows are printed: a table for people, JSON or CSV for programs."""

from __future__ import annotations

import csv
import json
import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

PROSE = 24  # characters from which a cell with spaces may be broken into lines
NARROWEST = 40  # characters of a column of sentences


class Format(StrEnum):
    """Output formats of every command that prints rows."""

    table = "table"
    json = "json"
    csv = "csv"


def plain(value: Any) -> Any:
    """Returns a value that JSON can carry: NaN and infinities become None, and -0.0 becomes 0.0."""
    if isinstance(value, float):
        return value + 0.0 if math.isfinite(value) else None
    return value


def cell(value: Any) -> str:
    """Formats one value for a terminal table; ``--`` for a missing one."""
    value = plain(value)
    if value is None:
        return "--"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:z.3g}"
    return str(value)


def print_rows(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    form: Format,
    *,
    shown: Sequence[str] | None = None,
) -> None:
    """Prints rows to the standard output.

    Args:
        columns: Of JSON and CSV, in this order.
        shown: The fewer columns of the table; None for all.
    """
    if form is Format.json:
        records = [{column: plain(row.get(column)) for column in columns} for row in rows]
        sys.stdout.write(json.dumps(records, indent=2, default=str) + "\n")
    elif form is Format.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow(
                ["" if (value := plain(row.get(column))) is None else value for column in columns]
            )
    else:
        print_table(rows, shown or columns)


def print_document(document: Mapping[str, Any]) -> None:
    """Prints nested values as one JSON document to the standard output."""

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: clean(inner) for key, inner in value.items()}
        return [clean(inner) for inner in value] if isinstance(value, list | tuple) else plain(value)

    sys.stdout.write(json.dumps(clean(document), indent=2, default=str) + "\n")


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str | None = None) -> None:
    """Prints rows as a table to the standard output; numbers are right-aligned.

    Sentences wrap in a column of at least `NARROWEST` characters. Nothing else is cut, since a number that is cut is a
    wrong number: where the terminal is too narrow, it breaks the lines.
    """
    console = Console()
    console.width = max(console.width, _least_width(console, rows, columns, title))
    console.print(_table(rows, columns, title))


def print_blocks(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], heads: Sequence[str]) -> None:
    """Prints rows as one table where the terminal is wide enough for it, and else as a table for each kind of row.

    Args:
        heads: Columns by which rows are told apart; a block has their values above it, and of the others those alone
            of which its rows have a value.
    """
    console = Console()
    if _least_width(console, rows, columns) <= console.width:
        print_table(rows, columns)
        return
    blocks: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        blocks.setdefault(tuple(cell(row.get(head)) for head in heads), []).append(row)
    for number, (values, own) in enumerate(blocks.items()):
        told = ", ".join(f"{head} {value}" for head, value in zip(heads, values, strict=True))
        console.print("" if number == 0 else "\n", Text(told, style="bold"), sep="", soft_wrap=True)
        kept = [name for name in columns if any(plain(row.get(name)) is not None for row in own)]
        print_table(own, [name for name in kept if name not in heads])


def _least_width(
    console: Console, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str | None = None
) -> int:
    """Characters of a table of which nothing is cut, with sentences as narrow as they may be."""
    cut = _table([{key: _first(value) for key, value in row.items()} for row in rows], columns, title)
    return Measurement.get(console, console.options.update(width=10_000), cut).maximum


def _first(value: Any) -> Any:
    """As much of a sentence as its column has at least; everything else whole."""
    return str(value)[:NARROWEST] if _is_prose(value) else value


def _is_prose(value: Any) -> bool:
    return " " in str(value) and len(str(value)) > PROSE


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str | None) -> Table:
    table = Table(title=title, box=None, header_style="bold", title_justify="left", padding=(0, 1, 0, 0))
    for column in columns:
        numeric = any(isinstance(row.get(column), int | float) for row in rows)
        table.add_column(
            column.replace("_", "\n"),
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=not any(_is_prose(row.get(column)) for row in rows),
        )
    for row in rows:
        table.add_row(*(cell(row.get(column)) for column in columns), style=None)
    return table


def say(*lines: str) -> None:
    """Prints lines for a person."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def say_sentences(*sentences: str) -> None:
    """Prints sentences for a person, wrapped between words at the width of the terminal."""
    width = Console(stderr=True).width
    say(*(textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False) for text in sentences))
