"""Tables in LaTeX: booktabs, to be put into any article by ``\\input``, with pdfLaTeX (OT1 or T1), XeLaTeX or LuaLaTeX.

A row's means stand on the baseline of its name, their intervals on a line of their own below, smaller, and a space
follows, so that no number can be read as the next row's. Points of numbers stand under each other
(``latex_numbers.py``). A table takes one column of a page or both, as its width needs (``latex_layout.py``); one that
is wider than a page is cut into panels that repeat the columns which name its rows, and one that is longer into parts,
each a float; nothing is smaller than ``\\scriptsize``.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace

from study.report.code_words import held_together, with_code
from study.report.latex_layout import Form, Layout, Panel, broken, heading_lines, is_of_several_lines, layouts
from study.report.latex_numbers import IN_A_TABLE, NUMBERS, parted, with_numbers, with_points_aligned
from study.report.tables import Cell, Column, Table

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


def latex_prose(text: str) -> str:
    """A sentence of the report in LaTeX: escaped, and what is between backticks in typewriter."""
    return with_code(text, escape_latex, lambda code: rf"\texttt{{{escape_latex(code)}}}")


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
    """Returns a table as floats over one column of a page or over both, as few as hold it.

    A table that two columns hold in fewer pieces than the text of a one-column article has both layouts, and LaTeX
    takes the one that its text is wide enough for.
    """
    table = with_points_aligned(_with_code_on_one_line(table))
    found = layouts(table)
    head = [r"% \usepackage{booktabs}", CHARACTER, NUMBERS]
    lines = [*head, *_laid_out(table, found[0])]
    if len(found) > 1:
        lines = [
            *head,
            rf"\ifdim\textwidth<{math.ceil(found[1].width)}pt % for a narrow text",
            *_laid_out(table, found[0]),
            r"\else % for a wide one",
            *_laid_out(table, found[1]),
            r"\fi",
        ]
    return "\n".join(lines) + "\n"


def _with_code_on_one_line(table: Table) -> Table:
    """The table without spaces in what its sentences hold between backticks."""
    prose = [column.prose for column in table.columns]
    if not any(prose):
        return table
    rows = tuple(
        tuple(
            replace(cell, text=held_together(cell.text)) if of_prose else cell
            for cell, of_prose in zip(row, prose, strict=True)
        )
        for row in table.rows
    )
    return replace(table, rows=rows)


def _laid_out(table: Table, layout: Layout) -> list[str]:
    return [line for number in range(len(layout.floats)) for line in _float(table, layout, number)]


def _float(table: Table, layout: Layout, number: int) -> list[str]:
    form, parts = layout.form, len(layout.floats)
    caption = latex_prose(" ".join((table.caption, *table.notes_alone)))
    if number:
        caption = f"{latex_prose(table.caption)} (part {number + 1} of {parts})"
    elif parts > 1:
        caption += f" (part 1 of {parts})"
    label = table.key if not number else f"{table.key}-{number + 1}"
    name = "table*" if layout.starred else "table"
    lines = [
        rf"\begin{{{name}}}[htbp]",
        rf"  \centering\{form.size}\setlength{{\tabcolsep}}{{{form.gap:g}pt}}{IN_A_TABLE}",
        rf"  \caption{{{caption}}}",
        rf"  \label{{tab:{label}}}",
        r"  \vspace{1ex}",  # plain article sets captions below tables, and leaves no space under one above
    ]
    for k, panel in enumerate(layout.floats[number]):
        lines += [r"  \par\medskip"] if k else []
        lines += _tabular(table, panel, form)
    return [*lines, rf"\end{{{name}}}"]


def _tabular(table: Table, panel: Panel, form: Form) -> list[str]:
    columns, rows = [table.columns[k] for k in panel.columns], [table.rows[row] for row in panel.rows]
    spec = "".join("r" if column.numeric else "l" for column in columns)
    body: list[str] = []
    spaced = any(is_of_several_lines(row, table.columns, panel.columns, form) for row in rows)
    for place, row in enumerate(rows):
        cells = [row[k] for k in panel.columns]
        body += [r"\addlinespace"] if spaced and place else []
        for line in _lines(cells, columns, form):
            body.append(("{}" if line[0] in "[*" else "") + line)  # no argument of the "\\" before it
    return [
        rf"  \begin{{tabular}}{{@{{}}{spec}@{{}}}}",
        r"    \toprule",
        "    " + " & ".join(_heading(column, form) for column in columns) + r" \\",
        r"    \midrule",
        *body,
        r"    \bottomrule",
        r"  \end{tabular}",
    ]


def _lines(cells: Sequence[Cell], columns: Sequence[Column], form: Form) -> Iterator[str]:
    """The lines of one row: its texts, broken where they are long, then the intervals."""
    texts = [
        (cell.text,) if column.numeric else broken(cell.text, form.words)
        for cell, column in zip(cells, columns, strict=True)
    ]
    for number in range(max(len(lines) for lines in texts)):
        shown = [
            _marked(cell, column, lines[number]) if number < len(lines) else ""
            for cell, column, lines in zip(cells, columns, texts, strict=True)
        ]
        yield " & ".join(shown) + r" \\"
    if any(cell.detail for cell in cells):
        details = [
            rf"{{\scriptsize {with_numbers(cell.detail, escape_latex)}}}" if cell.detail else ""
            for cell in cells
        ]
        yield " & ".join(details) + r" \\"


def _marked(cell: Cell, column: Column, text: str) -> str:
    space = ""
    if column.numeric:
        number, space = parted(text)
        shown = with_numbers(number, escape_latex)
    else:
        shown = latex_prose(text) if column.prose else escape_latex(text)
    mark = {1: rf"\textbf{{{shown}}}", 2: rf"\underline{{{shown}}}"}.get(cell.rank or 0, shown)
    return mark + space


def _heading(column: Column, form: Form) -> str:
    lines = [escape_latex(line) for line in heading_lines(column, form)]
    if len(lines) == 1:
        return lines[0]
    return (
        rf"\begin{{tabular}}[b]{{@{{}}{'r' if column.numeric else 'l'}@{{}}}}"
        + r"\\".join(lines)
        + r"\end{tabular}"
    )
