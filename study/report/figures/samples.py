"""The sample grid of a paper: the arms' images of one subject, one a prompt, on the same prompts and noise; references
apart. All subjects are in the gallery of the page (``study/report/gallery.py``), whose pictures these are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure as Canvas
from PIL import Image

from study.report.design import confirm_design
from study.report.figures.canvas import Figure, Skipped, new_canvas
from study.report.figures.style import PAGE, shorten
from study.report.gallery import Gallery, Pixels
from study.report.prepared import Rows

REFERENCES = "Held-out references of the subject, in scenes of their own:"
_LARGEST = 1.6  # inches: the height of one line
_GAP = 0.05
_CAPTION, _APART = 0.16, 0.16  # inches over and under the references
_LABEL = 1.05  # inches for the names at the left


@dataclass(frozen=True)
class SampleRow:
    """One line of pictures: an arm or the base model; None where a picture is missing."""

    label: str
    pictures: tuple[Pixels | None, ...]


@dataclass(frozen=True)
class SampleGrid:
    """All arms on one subject and seed; `columns` are the prompts, as templates.

    Attributes:
        references: Held-out images of the subject side by side, which belong to no column; None without any.
        prompts: How many the run was judged on, of which the columns are the first; None where unknown.
    """

    subject: str
    seed: int
    columns: tuple[str, ...]
    rows: tuple[SampleRow, ...]
    references: Pixels | None = None
    prompts: int | None = None


def compute_grid(rows: Rows, gallery: Gallery) -> SampleGrid | None:
    """The grid of the gallery's first subject and seed: references, base model, arms; None without pictures."""
    for one in gallery.subjects[:1]:
        group, references = one.groups[0], one.reference_picture
        lines = tuple(
            SampleRow(
                line.arm,
                tuple(None if shot is None else few_colours(shot.picture.pixels) for shot in line.shots),
            )
            for line in group.lines
        )
        design = None if gallery.overviews else confirm_design(rows)
        return SampleGrid(
            one.subject,
            group.seed,
            one.prompts,
            lines,
            None if references is None else few_colours(references.pixels),
            None if design is None else design.prompts,
        )
    return None


def few_colours(picture: Pixels) -> Pixels:
    """A picture of at most 256 colours, which a PDF holds in little more than half of the bytes."""
    small = Image.fromarray(picture).quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return np.asarray(small.convert("RGB"), dtype=np.uint8)


def draw_grid(grid: SampleGrid) -> Canvas:
    """Draws a grid: one line an arm with its name at the left, one column a prompt, all at one scale; references stand
    over it, with a caption and a scale of their own.
    """
    widths = [max(_width(row.pictures[k]) for row in grid.rows) or 1 for k in range(len(grid.columns))]
    heights = [max((p.shape[0] for p in row.pictures if p is not None), default=1) for row in grid.rows]
    inches = min((PAGE - _LABEL - _GAP * len(widths)) / sum(widths), _LARGEST / max(heights))
    titles = _titles(grid.columns, [width * inches for width in widths])
    top = 0.05 + 0.1 * max(title.count("\n") + 1 for title in titles) if titles else 0.02
    width = _LABEL + sum(widths) * inches + _GAP * len(widths)
    above, scale = 0.0, 0.0
    if grid.references is not None:
        tall, wide = grid.references.shape[:2]
        scale = min((width - _LABEL - _GAP) / wide, heights[0] * inches / tall)
        above = _CAPTION + tall * scale + _APART
    height = above + top + sum(heights) * inches + _GAP * len(heights)
    canvas = new_canvas(width, height)
    canvas.set_layout_engine("none")
    ax = canvas.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))  # one for all pictures, in inches
    ax.set_axis_off()
    if grid.references is not None:
        canvas.text(_LABEL / width, 1 - (_CAPTION - 0.04) / height, REFERENCES, va="bottom", fontsize=5.5)
        y = height - _CAPTION - grid.references.shape[0] * scale
        extent = (_LABEL, _LABEL + grid.references.shape[1] * scale, y, height - _CAPTION)
        ax.imshow(grid.references, extent=extent, aspect="auto", interpolation="none")
        ax.plot([0.02, width - 0.02], [y - _APART / 2] * 2, color="#8c8c8c", linewidth=0.5)
    y = height - above - top
    for row, row_height in zip(grid.rows, heights, strict=True):
        y -= row_height * inches
        canvas.text(
            0.02 / width, (y + row_height * inches / 2) / height, _wrap(row.label), va="center", fontsize=7
        )
        x = _LABEL
        for picture, column_width in zip(row.pictures, widths, strict=True):
            if picture is not None:
                picture = picture[:, : int((width - x) / inches)]
                right, up = x + picture.shape[1] * inches, y + picture.shape[0] * inches
                ax.imshow(picture, extent=(x, right, y, up), aspect="auto", interpolation="none")
            x += column_width * inches + _GAP
        y -= _GAP
    ax.set(xlim=(0, width), ylim=(0, height))
    x = _LABEL
    for title, column_width in zip(titles, widths, strict=False):
        at = 1 - (above + top - 0.03) / height
        canvas.text(x / width, at, title, va="bottom", fontsize=5.5, linespacing=1.1)
        x += column_width * inches + _GAP
    return canvas


def _width(picture: Pixels | None) -> int:
    return 0 if picture is None else int(picture.shape[1])


def _titles(prompts: tuple[str, ...], inches: list[float]) -> list[str]:
    """The prompts, broken to the widths of their columns."""
    if len(prompts) < 2:
        return []
    return [
        _wrap(prompt, max(6, int(width / 0.048)), 4) for prompt, width in zip(prompts, inches, strict=True)
    ]


def _wrap(name: str, limit: int = 17, lines: int = 3) -> str:
    """Breaks a long name at its separators, over a few lines."""
    found = [""]
    for part in re.findall(r"[^-_ ]+[-_ ]*", shorten(name, lines * limit)) or [name]:
        if found[-1] and len(found[-1]) + len(part.rstrip()) > limit:
            found.append("")
        found[-1] += part
    return "\n".join(line[:limit].rstrip() for line in found[:lines])


def _shown(grid: SampleGrid) -> str:
    """E.g. "one image a prompt, for 8 of 16 prompts,"."""
    count = len(grid.columns)
    if grid.prompts is None or count < 2:
        return "images"
    return (
        f"one image a prompt, for {count if count == grid.prompts else f'{count} of {grid.prompts}'} prompts,"
    )


def sample_figures(rows: Rows, gallery: Gallery) -> list[Figure | Skipped]:
    """A figure of the first subject that has pictures."""
    grid = compute_grid(rows, gallery)
    if grid is None:
        return [Skipped("samples", "no sample images of complete confirm runs were found")]
    references = "" if grid.references is None else " On top, apart from the columns: held-out references."
    return [
        Figure(
            "samples-1",
            f"Subject {grid.subject}, seed {grid.seed}: {_shown(grid)} of the base model and of each arm on the same "
            f"prompts and the same noise.{references}",
            f"Grid of sample images of subject {grid.subject}, one line an arm.",
            lambda: draw_grid(grid),
            pixels=True,
        )
    ]
