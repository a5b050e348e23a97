"""Tables in LaTeX: booktabs, to be put into any article by ``\\input``, with pdfLaTeX (OT1 or T1), XeLaTeX or LuaLaTeX.

A row's means stand on the baseline of its name, their intervals on a line of their own below, smaller, and a space
follows, so that no number can be read as the next row's. Columns of numbers have equal decimals and end at one edge,
which puts their points under each other. A table that is wider than a page is cut into panels that repeat its first
column, and one that is longer into parts, each a float; nothing is scaled down to where it cannot be read.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from study.report.tables import Cell, Column, Table

PAGE_LETTERS = 86  # of the footnote size beside each other, in a text of one column
PAGE_LINES = 52  # of the footnote size, under each other, on a page of floats
_CAPTION_LETTERS = 85  # in a line of a caption
_GAP, _WORDS = 2.0, 1.16  # between columns; letters are wider than digits
_LONGEST_CELL, _HEADING_LETTERS = 30, 14  # letters; longer texts are broken into lines
_LONGEST_WORD = 44

_PLAIN = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "`": r"\textasciigrave{}", "\n": " ", "\r": " ", "\t": " ",
    "\u00a0": "~", "\u202f": r"\,", "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "·": r"$\cdot$", "–": "--", "—": "---",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "→": r"$\rightarrow$", "←": r"$\leftarrow$", "≥": r"$\geq$",
    "≤": r"$\leq$",
    "≈": r"$\approx$", "≠": r"$\neq$", "∞": r"$\infty$", "°": r"$^\circ$", "…": r"\dots{}", "•": r"\textbullet{}",
    "‘": "`", "’": "'", "“": "``", "”": "''", "„": ",,", "«": r"$\ll$", "»": r"$\gg$", "§": r"\S{}",
    "©": r"\copyright{}",
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "ø": r"\o{}", "Ø": r"\O{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ł": r"\l{}",
    "Ł": r"\L{}", "ı": r"\i{}", "€": r"\texteuro{}", "µ": r"$\mu$",
}  # fmt: skip
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c", "\u0323": "d", "\u0331": "b",
}  # fmt: skip
_GREEK = {
    letter: unicodedata.name(letter).split()[-1].lower() for letter in "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ"
}
#: At the head of each file: prints a character by its number where the engine knows all of Unicode, or else its name.
CHARACTER = (
    r'\providecommand\studychar[1]{\ifdefined\XeTeXrevision\char"#1\else\ifdefined\directlua\char"#1'
    r"\else\texttt{U+#1}\fi\fi}"
)


def escape_latex(text: str) -> str:
    """Makes any text harmless in LaTeX, and prints all of it with every engine; control characters are dropped.

    Accents and Greek are written by commands. Of other scripts a Unicode engine prints the characters, as far as its
    font has them, and pdfLaTeX their numbers.
    """
    return "".join(map(_escaped, unicodedata.normalize("NFC", text)))


def _escaped(character: str) -> str:
    if character in _PLAIN:
        return _PLAIN[character]
    if ord(character) < 128:
        return character if character.isprintable() else ""
    if character in _GREEK:
        name = _GREEK[character]
        return f"${_greek(character, name)}$"
    base, *marks = list(unicodedata.normalize("NFD", character))
    if len(marks) == 1 and marks[0] in _ACCENTS and base.isascii() and base.isalpha():
        letter = {"i": r"\i", "j": r"\j"}.get(base, base)
        return rf"\{_ACCENTS[marks[0]]}{{{letter}}}"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn"):
        return ""
    return rf"\studychar{{{ord(character):04X}}}"


def _greek(character: str, name: str) -> str:
    command = {"lamda": "lambda"}.get(name, name)
    return rf"\{command.capitalize() if character.isupper() else command}"


def to_latex(table: Table) -> str:
    """Returns a table as floats over the width of the page: as few as hold its panels, all rows of a panel together
    where a page has room for them.
    """
    floats = _floats(table)
    lines = [r"% \usepackage{booktabs}", CHARACTER]
    for number, panels in enumerate(floats):
        lines += _float(table, panels, number, len(floats))
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Panel:
    """Columns and rows that stand in one tabular, by their numbers."""

    columns: tuple[int, ...]
    rows: range


def _floats(table: Table) -> list[list[_Panel]]:
    room = PAGE_LINES - sum(map(len, (table.caption, *table.notes))) / _CAPTION_LETTERS
    floats: list[list[_Panel]] = []
    left = 0.0
    for columns in _columns_of_panels(table):
        for rows in _rows_of_pages(table, columns, room):
            panel = _Panel(tuple(columns), rows)
            height = _height(table, columns, rows)
            if not floats or height > left:
                floats.append([])
                left = room
            floats[-1].append(panel)
            left -= height + 1
    return floats


def _rows_of_pages(table: Table, columns: Sequence[int], room: float) -> Iterator[range]:
    """The rows of a panel, cut where a page ends."""
    first = 0
    for row in range(1, len(table.rows)):
        if _height(table, columns, range(first, row + 1)) > room:
            yield range(first, row)
            first = row
    yield range(first, len(table.rows))


def _height(table: Table, columns: Sequence[int], rows: range) -> float:
    """Height of a panel in lines of the footnote size, its heading and lines between included."""
    heading = max(_lines_of_a_heading(table.columns[k]) for k in columns)
    return heading + 1.5 + sum(_lines_of_a_row(table.rows[row], table.columns, columns) for row in rows)


def _lines_of_a_heading(column: Column) -> int:
    return len(_broken(column.title, _HEADING_LETTERS)) + bool(column.suffix)


def _lines_of_a_row(row: Sequence[Cell], columns: Sequence[Column], panel: Sequence[int]) -> float:
    texts = max(1 if columns[k].numeric else len(_broken(row[k].text)) for k in panel)
    return texts + (1.4 if any(row[k].detail for k in panel) else 0)


def _float(table: Table, panels: Sequence[_Panel], number: int, parts: int) -> list[str]:
    caption = escape_latex(" ".join((table.caption, *table.notes)))
    if number:
        caption = f"{escape_latex(table.caption)} (part {number + 1} of {parts})"
    elif parts > 1:
        caption += f" (part 1 of {parts})"
    label = table.key if not number else f"{table.key}-{number + 1}"
    lines = [
        r"\begin{table*}[tp]",
        r"  \centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"  \caption{{{caption}}}",
        rf"  \label{{tab:{label}}}",
        r"  \vspace{1ex}",  # plain article sets captions below tables, and leaves no space under one above
    ]
    for k, panel in enumerate(panels):
        lines += [r"  \par\medskip"] if k else []
        lines += _tabular(table, panel)
    return [*lines, r"\end{table*}"]


def _tabular(table: Table, panel: _Panel) -> list[str]:
    columns, rows = [table.columns[k] for k in panel.columns], [table.rows[row] for row in panel.rows]
    spec = "".join("r" if column.numeric else "l" for column in columns)
    body: list[str] = []
    spaced = any(row[k].detail for row in rows for k in panel.columns)
    for place, row in enumerate(rows):
        cells = [row[k] for k in panel.columns]
        body += [r"    \addlinespace"] if spaced and place else []
        for line in _lines(cells, columns):
            body.append(
                "    " + ("{}" if line[0] in "[*" else "") + line
            )  # no argument of the "\\" before it
    return [
        rf"  \begin{{tabular}}{{@{{}}{spec}@{{}}}}",
        r"    \toprule",
        "    " + " & ".join(_heading(column) for column in columns) + r" \\",
        r"    \midrule",
        *body,
        r"    \bottomrule",
        r"  \end{tabular}",
    ]


def _lines(cells: Sequence[Cell], columns: Sequence[Column]) -> Iterator[str]:
    """The lines of one row: its texts, broken where they are long, then the intervals."""
    texts = [
        [cell.text] if column.numeric else _broken(cell.text)
        for cell, column in zip(cells, columns, strict=True)
    ]
    for number in range(max(len(lines) for lines in texts)):
        shown = [
            _marked(cell, lines[number]) if number < len(lines) else ""
            for cell, lines in zip(cells, texts, strict=True)
        ]
        yield " & ".join(shown) + r" \\"
    if any(cell.detail for cell in cells):
        details = [rf"{{\scriptsize {escape_latex(cell.detail)}}}" if cell.detail else "" for cell in cells]
        yield " & ".join(details) + r" \\"


def _marked(cell: Cell, text: str) -> str:
    shown = escape_latex(text)
    return (
        rf"\textbf{{{shown}}}" if cell.rank == 1 else rf"\underline{{{shown}}}" if cell.rank == 2 else shown
    )


def _broken(text: str, most: int = _LONGEST_CELL) -> list[str]:
    """A text in lines of about so many letters, broken between words, and within those that no line could hold."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > most:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return [
        line[first : first + _LONGEST_WORD]
        for line in lines
        for first in range(0, max(1, len(line)), _LONGEST_WORD)
    ]


def _heading(column: Column) -> str:
    """Title in lines of some twelve letters, the unit and arrow in the last one."""
    lines = [escape_latex(line) for line in _broken(column.title, _HEADING_LETTERS)]
    if column.suffix:
        suffix = escape_latex(column.suffix)
        lines = [*lines[:-1], f"{lines[-1]} {suffix}"] if len(lines[-1]) < 9 else [*lines, suffix]
    if len(lines) == 1:
        return lines[0]
    return (
        rf"\begin{{tabular}}[b]{{@{{}}{'r' if column.numeric else 'l'}@{{}}}}"
        + r"\\".join(lines)
        + r"\end{tabular}"
    )


def _columns_of_panels(table: Table) -> list[list[int]]:
    """Columns that fit beside each other, about as many in every panel; the first one, which names the rows, begins
    each.
    """
    widths = [_width(table, k) for k in range(len(table.columns))]
    panels = _filled(widths, PAGE_LETTERS)
    for most in range(PAGE_LETTERS - 1, 0, -1):
        narrower = _filled(widths, most)
        if len(narrower) > len(panels):
            break
        panels = narrower
    return panels


def _filled(widths: Sequence[float], most: float) -> list[list[int]]:
    panels, used = [[0]], widths[0]
    for k in range(1, len(widths)):
        if used + widths[k] > most and len(panels[-1]) > 1:
            panels.append([0])
            used = widths[0]
        panels[-1].append(k)
        used += widths[k]
    return panels


def _width(table: Table, k: int) -> float:
    """Width of a column in letters of the footnote size, with the gap to the next."""
    column = table.columns[k]
    title = max(len(line) for line in _broken(column.title, _HEADING_LETTERS))
    cells = [
        max(
            len(row[k].text) if column.numeric else max(map(len, _broken(row[k].text))),
            0.85 * len(row[k].detail),
        )
        for row in table.rows
    ]
    return _GAP + max([title, len(column.suffix), *cells]) * (1 if column.numeric else _WORDS)
