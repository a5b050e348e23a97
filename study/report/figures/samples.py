"""Sample grids: the arms' images of one subject, one a prompt, on the same prompts and noise; references apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray
from PIL import Image

from study.report.design import confirm_design
from study.report.figures.canvas import Figure, Skipped, new_canvas
from study.report.figures.style import PAGE, shorten
from study.report.prepared import Rows, distinct, natural_key
from study.results.columns import IMAGE_COLUMNS
from trainables.methods.registry import BASE

MAX_SUBJECTS = 4
MAX_PIXELS = 1400  # width of one picture; larger ones are made smaller
_REFERENCE_KEYS = frozenset({"references"})
_OVERVIEW_KEYS = frozenset({"grid", "samples"})  # one run's whole picture: shown where there are no strips
_OTHER_KEYS = frozenset({"class"})
REFERENCES = "Held-out references of the subject, in scenes of their own:"
_LARGEST = 1.6  # inches: the height of one line
_GAP = 0.05
_CAPTION, _APART = 0.16, 0.16  # inches over and under the references
_LABEL = 1.05  # inches for the names at the left

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class SampleRow:
    """One line of pictures: an arm or the base model; None where a picture is missing."""

    label: str
    pictures: tuple[Pixels | None, ...]


@dataclass(frozen=True)
class SampleGrid:
    """All arms on one subject and seed; `columns` are the keys of the pictures.

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


def load_picture(path: str | Path, *, first: bool = False) -> Pixels | None:
    """Reads a picture as RGB, at most `MAX_PIXELS` wide; None where it is missing or broken.

    Args:
        first: Of a strip of square images side by side, the first alone.
    """
    try:
        with Image.open(path) as image:
            side = min(image.size) if first else image.width
            picture = image.crop((0, 0, side, image.height)).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if picture.width > MAX_PIXELS:
        height = max(1, round(picture.height * MAX_PIXELS / picture.width))
        picture = picture.resize((MAX_PIXELS, height), Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.uint8)


def used_images(rows: Rows) -> pd.DataFrame:
    """The image rows that the grids show: a few confirm subjects, one seed each, each run's last step."""
    images = rows.images
    images = images[(images["phase"] == "confirm") & (images["state"] == "COMPLETE")]
    images = images[np.array([load_picture(path) is not None for path in images["path"]], dtype=bool)]
    parts: list[pd.DataFrame] = []
    for subject in distinct(images["subject"]):
        chosen = _of_subject(rows, images[images["subject"] == subject])
        if chosen is not None and len(parts) < MAX_SUBJECTS:
            parts.append(chosen)
    found = pd.concat(parts) if parts else images.iloc[:0]
    return found[list(IMAGE_COLUMNS)]


def _is_reference(keys: pd.Series) -> pd.Series:
    return keys.isin(_REFERENCE_KEYS)


def _of_subject(rows: Rows, images: pd.DataFrame) -> pd.DataFrame | None:
    reference = _is_reference(images["key"])
    samples = images[~reference & ~images["key"].isin(_OTHER_KEYS)]
    if not samples["key"].isin(_OVERVIEW_KEYS).all():
        samples = samples[~samples["key"].isin(_OVERVIEW_KEYS)]
    if samples.empty:
        return None
    is_base = samples["arm"].map(rows.methods) == BASE
    trained = samples[~is_base]
    counts = (samples if trained.empty else trained).groupby("seed")["arm"].nunique()
    seed = counts[counts == counts.max()].index.min()
    base = samples[is_base]
    if len(base) and not (base["seed"] == seed).any():
        base = base[
            base["seed"] == base["seed"].min()
        ]  # the base model does not depend on the seed of training
    else:
        base = base[base["seed"] == seed]
    samples = pd.concat([base, trained[trained["seed"] == seed]])
    last = samples.groupby("run_key")["step"].transform(lambda steps: steps.fillna(0).max())
    samples = samples[samples["step"].fillna(0) == last]
    return pd.concat([images[reference].head(1), samples])


def compute_grids(rows: Rows) -> tuple[SampleGrid, ...]:
    """One grid a confirm subject, at the seed that most arms have: references, base model, then the arms."""
    runs = rows.frame[["run_key", "arm", "subject", "seed"]].drop_duplicates("run_key")
    images = used_images(rows).merge(runs, on="run_key", how="left")
    return tuple(
        _grid(rows, images[images["subject"] == subject], str(subject))
        for subject in distinct(images["subject"])
    )


def _grid(rows: Rows, images: pd.DataFrame, subject: str) -> SampleGrid:
    reference = _is_reference(images["key"])
    samples = images[~reference]
    columns = tuple(sorted({str(key) for key in samples["key"]}, key=natural_key))
    seeds = samples.loc[samples["arm"].map(rows.methods) != BASE, "seed"]
    seed = int((seeds if len(seeds) else samples["seed"]).min())
    lines = []
    strips = not samples["key"].isin(_OVERVIEW_KEYS).any()
    for arm in sorted(rows.arms, key=lambda name: rows.methods.get(name) != BASE):
        own = samples[samples["arm"] == arm]
        paths = {str(key): str(path) for key, path in zip(own["key"], own["path"], strict=True)}
        if paths:
            pictures = tuple(
                load_picture(paths[key], first=strips) if key in paths else None for key in columns
            )
            lines.append(SampleRow(arm, pictures))
    design = confirm_design(rows)
    return SampleGrid(
        subject,
        seed,
        columns,
        tuple(lines),
        _references(rows, images[reference], subject),
        design.prompts if design is not None and strips else None,
    )


def _references(rows: Rows, images: pd.DataFrame, subject: str) -> Pixels | None:
    given = rows.meta.get("references")
    if isinstance(given, Mapping) and given.get(subject):
        found = given[subject]
        paths = [str(found)] if isinstance(found, (str, Path)) else [str(path) for path in found]
        return side_by_side([load_picture(path) for path in paths[:8]])
    return load_picture(str(images["path"].iloc[0])) if len(images) else None


def side_by_side(pictures: list[Pixels | None]) -> Pixels | None:
    """Joins pictures into one line at the height of the first; None without any."""
    known = [picture for picture in pictures if picture is not None]
    if not known:
        return None
    height = known[0].shape[0]
    scaled = []
    for picture in known:
        if picture.shape[0] != height:
            width = max(1, round(picture.shape[1] * height / picture.shape[0]))
            picture = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
        scaled.append(picture)
    return np.concatenate(scaled, axis=1)


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
        ax.imshow(grid.references, extent=extent, aspect="auto")
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
                ax.imshow(picture, extent=(x, right, y, up), aspect="auto")
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


def _titles(keys: tuple[str, ...], inches: list[float]) -> list[str]:
    """The prompts in keys such as "03 a subject on a beach", broken to the widths of their columns."""
    if len(keys) < 2:
        return []
    prompts = [_prompt(key) for key in keys]
    return [
        _wrap(prompt, max(6, int(width / 0.048)), 4) for prompt, width in zip(prompts, inches, strict=True)
    ]


def _prompt(key: str) -> str:
    """The template in a key: "03 subject on a beach" is "{subject} on a beach", since keys hold no braces."""
    found = re.fullmatch(r"\d+ (.*)", key)
    return key if found is None else re.sub(r"\bsubject\b", "{subject}", found[1], count=1)


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


def sample_figures(rows: Rows) -> list[Figure | Skipped]:
    """A figure for each subject that has pictures."""
    grids = compute_grids(rows)
    if not grids:
        return [Skipped("samples", "no sample images of complete confirm runs were found")]
    found: list[Figure | Skipped] = []
    for k, grid in enumerate(grids):
        seed = f"seed {grid.seed}"
        found.append(
            Figure(
                f"samples-{k + 1}",
                f"Subject {grid.subject}, {seed}: {_shown(grid)} of the base model and of each arm on the same "
                f"prompts and the same noise"
                + (
                    ". On top, apart from the columns: held-out references."
                    if grid.references is not None
                    else "."
                ),
                f"Grid of sample images of subject {grid.subject}, one line an arm.",
                lambda grid=grid: draw_grid(grid),  # type: ignore[misc]
            )
        )
    return found
