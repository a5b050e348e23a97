"""Numbers in LaTeX's tables: decimal points under each other, and siunitx where a document has it.

Columns are set flush right. A number with fewer decimals than its column has is followed by the space that the missing
ones would take, so that points stand under each other with and without siunitx. Each number is siunitx's ``\\num``, and
in a document that loads the package its settings (decimal marker, groups of digits) hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain

from study.report.tables import Table

#: As wide as a digit, and as a point.
DIGIT_SPACE, POINT_SPACE = "\u2007", "\u2008"
#: At the head of each file, one line: how numbers are set in its tables, which hold `IN_A_TABLE`. Without siunitx they
#: are as they stand, with a minus of maths; a ``\\num`` of the document's own has another meaning there alone. Of
#: siunitx's settings those that change a value, or how many digits it has, are off.
NUMBERS = (
    r"\ifcsname ver@siunitx.sty\endcsname\def\studynumbers{\sisetup{input-ignore={,},retain-explicit-plus=true,"
    r"detect-weight=true,group-digits=integer}\csname @ifpackagelater\endcsname{siunitx}{2021/05/17}"
    r"{\sisetup{round-mode=none,exponent-mode=input,drop-zero-decimal=false}}{}}\else"
    r"\def\studysigned#1#2\relax{\ifx-#1$-$\else#1\fi#2}\def\studynumbers{\def\num##1{\studysigned##1\relax}}\fi"
)
IN_A_TABLE = r"\studynumbers"
_NUMBER = re.compile(r"(?:(?<![\w.])[+−-])?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][+−-]?\d+)?")
_ALONE = re.compile(rf"(?:[<>≤≥≈]\s?)?({_NUMBER.pattern})")
_NO_NUMBER = re.compile(r"[–—-]*")


def with_points_aligned(table: Table) -> Table:
    """Returns the table with space after numbers that have fewer decimals than others of their column.

    A column in which something follows a number (``4 (2 x 2)``), or with exponents, has no common point.
    """
    spaces = [
        _spaces([row[k].text for row in table.rows]) if column.numeric else [""] * len(table.rows)
        for k, column in enumerate(table.columns)
    ]
    if not any(chain.from_iterable(spaces)):
        return table
    rows = tuple(
        tuple(replace(cell, text=cell.text + space[place]) for cell, space in zip(row, spaces, strict=True))
        for place, row in enumerate(table.rows)
    )
    return replace(table, rows=rows)


def parted(text: str) -> tuple[str, str]:
    """Returns a number, and in LaTeX the space behind it, which no mark of the number takes in."""
    number = text.rstrip(POINT_SPACE + DIGIT_SPACE)
    missing = text[len(number) :].replace(POINT_SPACE, ".").replace(DIGIT_SPACE, "0")
    return number, rf"\phantom{{{missing}}}" if missing else ""


def _spaces(texts: Sequence[str]) -> list[str]:
    found = [_ALONE.fullmatch(text) for text in texts]
    others = [text for text, number in zip(texts, found, strict=True) if not number]
    if any("e" in number[1].lower() for number in found if number) or not all(
        map(_NO_NUMBER.fullmatch, others)
    ):
        return [""] * len(texts)
    decimals = [len(number[1].partition(".")[2]) if number else None for number in found]
    most = max((count for count in decimals if count is not None), default=0)
    return [
        "" if count is None or count == most else POINT_SPACE * (not count) + DIGIT_SPACE * (most - count)
        for count in decimals
    ]


def with_numbers(text: str, escape: Callable[[str], str]) -> str:
    """Returns text of a column of numbers in LaTeX: each by ``\\num``, the rest by `escape`."""
    parts: list[str] = []
    end = 0
    for number in _NUMBER.finditer(text):
        parts += [escape(text[end : number.start()]), rf"\num{{{number[0].replace('−', '-')}}}"]
        end = number.end()
    return "".join((*parts, escape(text[end:])))
