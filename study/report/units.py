"""Words for studies whose units are data sets: what a report says of subjects, prompts and fidelity, in their terms.

A data set takes a subject's place in every design, test and table, and the sentences about them are the same but for
their nouns. So they are written once, for subjects, and put into the other words at the end. Names of arms and data
sets are the user's and stay as they are, and so do names of columns and the study file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text

from study.report.figures.canvas import Figure, Skipped
from study.report.figures.samples import REFERENCES
from study.report.figures.spots import reword_spots
from study.report.tables import Cell, Table

Reword = Callable[[str], str]

# The first that fits counts. Beside generic nouns those phrases that would be wrong, not only odd.
_WORDS: tuple[tuple[str, str], ...] = (
    (r"perfect pictures of the subject in the prompts", "the held-out images themselves"),
    (r"the subject's held-out photographs", "the held-out images themselves"),
    (r"another subject or another prompt", "another character or style, or another caption"),
    (r"by subject and prompt alone", "by style and caption alone"),
    (r"subject and prompt alone", "style and caption alone"),
    (r"subject and prompt fidelity, rescaled \(base model 0 and 1\)", "style and caption fidelity, rescaled"),
    (r"which are about, not exactly, 0 and 1: the scales begin at other images of it, of class prompts and with other "
     r"noise", "which are about, not exactly, 0 in style: its scale begins at other images of it, and that of captions "
     "at real ones"),
    (r"prompt fidelity where images of other prompts are 0 and the base model is 1",
     "caption fidelity where real images of other captions are 0 and those of their own are 1"),
    (r"what perfect pictures of the subject would score; missing where there are none of the prompts",
     "missing: the held-out images, where the scales end, would score 1"),
    (r"scaled subject fidelity of perfect pictures, or of the held-out photographs themselves",
     "missing: that of the held-out images, where the scale ends, is 1"),
    (r"scaled prompt fidelity of perfect pictures; missing where there are none of the prompts",
     "missing: that of the held-out images, where the scale ends, is 1"),
    (r"about 1 % of perfect pictures are called failed", "both limits were measured on single subjects"),
    # What is usual was measured on subjects, and of data sets nobody knows.
    (r"the usual spread", "the spread that is usual of subjects"),
    (r"the usual one", "the one that is usual of subjects"),
    (r"if they vary as usual", "if they vary as subjects do"),
    (r"subject x prompt x class kept", "style x caption x class kept"),
    (r"subject times prompt", "style times caption"),
    (r"an arm that turns every member of the class into the subject loses nothing",
     "an arm that draws everything like the data set loses nothing"),
    (r"quality \(subject, prompt\)", "quality (style, caption)"),
    (r"held-out references of the subject, in scenes of their own", "held-out images"),
    (r"image and prompt, the class named in the place of the subject",
     "image and held-out caption, without the trigger"),
    (r"held-out references of the subject",
     "held-out images of the caption's character, or of all where none is named"),
    (r"images of the subject", "images of held-out captions"),
    (r"image of the subject", "image of a held-out caption"),
    (r"class takes after subject", "class takes after data set"),
    (r"similarity of class images to the subject", "similarity of class images to the data set"),
    (r"subject fidelity", "style fidelity"),
    (r"prompt fidelity", "caption fidelity"),
    (r"subject scale", "style scale"),
    (r"prompt scale", "caption scale"),
    (r"class prompts", "class prompts"),
    (r"general prompts", "general prompts"),
    (r"a perfect method", "a perfect method"),
    (r"subjects", "data sets"),
    (r"subject", "data set"),
    (r"prompts", "held-out captions"),
    (r"prompt", "held-out caption"),
)  # fmt: skip


def reworder(names: Iterable[str], phrases: Sequence[tuple[str, str]] = _WORDS) -> Reword:
    """Returns what puts a sentence on subjects into other words: those for data sets.

    Args:
        names: Of arms, data sets and whatever else must stay as it is.
        phrases: Regular expressions and what takes their place; the first that fits counts.
    """
    kept = sorted({name for name in names if name}, key=len, reverse=True)
    words = [rf"(?<![\w.])(?:{phrase})(?!\w)" for phrase, _ in phrases]
    parts = [rf"(?<!\w){re.escape(name)}(?!\w)" for name in kept]
    pattern = re.compile("|".join([f"(?P<kept>{'|'.join(parts) or '(?!)'})", *(f"({word})" for word in words)]),
                         re.IGNORECASE)  # fmt: skip
    exact = frozenset(kept)

    def one(match: re.Match[str]) -> str:
        text = match[0]
        if match["kept"] is not None and text in exact:
            return text
        for phrase, word in phrases:
            if re.fullmatch(phrase, text, re.IGNORECASE):
                return word[:1].upper() + word[1:] if text[:1].isupper() else word
        return text

    return lambda text: pattern.sub(one, text)


def reworded_table(table: Table, reword: Reword) -> Table:
    """A table with caption, headings and notes in other words; cells stay, but for those that name or explain
    measures.
    """
    columns = tuple(replace(column, title=reword(column.title)) for column in table.columns)
    rows = table.rows
    if table.key in ("measures", "against-base"):
        rows = tuple(tuple(_cell(cell, column.key, reword) for cell, column in zip(row, columns, strict=True))
                     for row in rows)  # fmt: skip
    return replace(
        table,
        caption=reword(table.caption),
        columns=columns,
        rows=rows,
        notes=tuple(map(reword, table.notes)),
        alone=tuple(map(reword, table.alone)),
    )


def _cell(cell: Cell, column: str, reword: Reword) -> Cell:
    if column not in ("title", "description", "measure"):
        return cell
    text = reword(cell.text)
    return replace(cell, text=text, value=text if isinstance(cell.value, str) else cell.value)


def reworded_figure(figure: Figure | Skipped, reword: Reword) -> Figure | Skipped:
    """A figure with its caption, and what is written in it, in other words."""
    if isinstance(figure, Skipped):
        return replace(figure, reason=reword(figure.reason))

    def change(drawn: Callable[[], Canvas]) -> Canvas:
        canvas = drawn()
        for text in canvas.findobj(Text):
            assert isinstance(text, Text)
            said = text.get_text()
            # Grids of samples bear the captions of the data set itself, which are the user's.
            if said and (not figure.key.startswith("samples") or said == REFERENCES):
                text.set_text(reword(said))
        reword_spots(canvas, reword)
        return canvas

    return replace(figure.redrawn(change), caption=reword(figure.caption), alt=reword(figure.alt))


def reworded(texts: Sequence[str], reword: Reword) -> tuple[str, ...]:
    """Some sentences in other words."""
    return tuple(map(reword, texts))
