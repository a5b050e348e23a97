"""Pictures of an evaluation: one labelled grid for people, and one strip a prompt for the report to
arrange.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from trainables.evaluation.metrics_table import QUALITY
from trainables.events import STEP

if TYPE_CHECKING:
    from trainables.data.subjects import Subject
    from trainables.evaluation.evaluator import Evaluation, Evaluator

# Small images are enlarged to at least this many pixels, in whole steps; large ones are shown at most twice
# as wide.
CELL = 128
GRID_KEY = "grid"
REFERENCES_KEY = "references"

_GAP, _HALVES, _MARGIN, _STRIP, _FONT_SIZE = 4, 14, 10, 20, 13  # _HALVES: between an image and its comparison
_MAX_STRIPS = 8  # prompts whose strips are kept; the scores are over all prompts
_MAX_STRIPS_BETWEEN = 4  # the same of an evaluation on the way: each is a file, and two in MLflow
_MAX_COLUMNS = 8  # of real images in the top row, and of samples of one prompt
_PAPER, _INK, _FAINT = (255, 255, 255), (30, 30, 34), (120, 120, 128)

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


@dataclass(frozen=True)
class GridRow:
    """One line of a grid: what stands above it, its images, and beyond a gap the images to compare them
    with.
    """

    caption: str
    images: tuple[Image.Image, ...]
    beside: tuple[Image.Image, ...] = ()


def save_samples(
    evaluator: Evaluator, evaluation: Evaluation, folder: Path, step: int, *, final: bool = True
) -> dict[str, Path]:
    """Writes the pictures of one evaluation as PNG and returns their files by key.

    Always "grid", labelled, for people, and one strip a prompt with its images side by side: at the end of the
    first `_MAX_STRIPS` prompts, on the way of the first few of these that were drawn, so that one prompt can be
    compared over runs and steps. At the end also the class images ("class") and the held-out references
    ("references"). Keys are the same for every run under one protocol: a prompt's are its number and text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {GRID_KEY: sample_grid(evaluator, evaluation, f"step {step}")}
    drawn = set(evaluation.instance.groups)
    groups = [group for group in _with_strips(evaluator) if group in drawn]
    for group in groups[: None if final else _MAX_STRIPS_BETWEEN]:
        strip = side_by_side(_of_group(evaluation, group))
        pictures[f"{group:02d} {_plain(evaluator.protocol.templates[group], evaluator.subject)}"] = strip
    if final:
        pictures["class"] = side_by_side(evaluation.class_images[:_MAX_COLUMNS])
        pictures[REFERENCES_KEY] = side_by_side(evaluator.subject.references[:_MAX_COLUMNS])
    files = {}
    for number, (key, picture) in enumerate(pictures.items()):
        files[key] = folder / f"{STEP}{step:06d}-{number:02d}.png"
        picture.save(files[key])
    return files


def sample_grid(evaluator: Evaluator, evaluation: Evaluation, title: str) -> Image.Image:
    """One line a prompt, the tuned model's images at the left, at the right the base model's with the noise of the
    first.

    Above them the held-out references, below them the class prompt, which shows what the class has taken
    over.
    """
    base, subject, instance = evaluator.base, evaluator.subject, evaluation.instance
    rows = [
        GridRow(
            instance.prompts[instance.groups.index(group)],
            _of_group(evaluation, group),
            (base.beside[group],),
        )
        for group in dict.fromkeys(instance.groups)
    ]
    shown = max(len(row.images) for row in rows)
    plain = evaluation.classes.first(min(len(evaluation.classes), shown))
    chosen = evaluator.protocol.classes.first(len(evaluation.classes))
    rows.append(
        GridRow(
            _class_caption(evaluator),
            tuple(evaluation.class_images[index] for index in plain),
            tuple(base.class_images[chosen[index]] for index in plain),
        )
    )
    references = GridRow("held-out references", subject.references[: max(4, 2 * shown)])
    shown_metrics = (("quality", QUALITY), ("class kept", "class_kept"))
    scores = "".join(
        f", {title} {value:.2f}"
        for title, name in shown_metrics
        if (value := evaluation.metrics[name]) is not None
    )
    heading = f"{subject.name}, {title}{scores}; left: this model, right: base model, same noise"
    return draw_grid([references, *rows], heading)


def draw_grid(rows: Sequence[GridRow], heading: str = "") -> Image.Image:
    """Draws rows of images under their captions; images of 64 pixels are enlarged without smoothing."""
    side = _cell(rows[0].images[0].width)
    columns = max((len(row.images) for row in rows if row.beside), default=0)
    widest = max(max(len(row.images), columns + len(row.beside)) for row in rows)
    width = 2 * _MARGIN + widest * (side + _GAP) + _HALVES
    head = _STRIP + _GAP if heading else 0
    picture = Image.new("RGB", (width, 2 * _MARGIN + head + len(rows) * (side + _STRIP + _GAP)), _PAPER)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(_FONT_SIZE)
    if heading:
        pen.text((_MARGIN, _MARGIN), _fitted(heading, pen, font, width - 2 * _MARGIN), _INK, font)
    top = _MARGIN + head
    for row in rows:
        pen.text((_MARGIN, top + 2), _fitted(row.caption, pen, font, width - 2 * _MARGIN), _FAINT, font)
        top += _STRIP
        for number, image in enumerate(row.images):
            picture.paste(_scaled(image, side), (_MARGIN + number * (side + _GAP), top))
        start = _MARGIN + columns * (side + _GAP) + _HALVES
        for number, image in enumerate(row.beside):
            picture.paste(_scaled(image, side), (start + number * (side + _GAP), top))
        top += side + _GAP
    return picture


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Joins images of one size into a strip, two pixels apart, each at most twice `CELL` wide."""
    side = min(images[0].width, 2 * CELL)
    strip = Image.new("RGB", (len(images) * (side + 2) - 2, side), _PAPER)
    for number, image in enumerate(images):
        strip.paste(_scaled(image, side), (number * (side + 2), 0))
    return strip


def _of_group(evaluation: Evaluation, group: int) -> tuple[Image.Image, ...]:
    pairs = zip(evaluation.images, evaluation.instance.groups, strict=True)
    return tuple(image for image, own in pairs if own == group)[:_MAX_COLUMNS]


def _with_strips(evaluator: Evaluator) -> list[int]:
    """The prompts whose strips are kept: the first; of a data set, whose characters stand together, evenly."""
    count = len(evaluator.protocol.templates)
    kept = min(count, _MAX_STRIPS)
    return [k * count // kept if evaluator.subject.is_data_set else k for k in range(kept)]


def _class_caption(evaluator: Evaluator) -> str:
    if evaluator.protocol.general:
        return "general prompts"
    if evaluator.subject.is_data_set:
        return "captions without the trigger"
    return f'class prompts, from "{evaluator.subject.class_prompt}" on'


def _plain(template: str, subject: Subject) -> str:
    """A template as letters, digits, spaces and dashes, which every tracking store takes as a key."""
    text = template.replace("{subject}", "" if subject.is_data_set else "subject")
    return re.sub(r"[^A-Za-z0-9 -]+", "", text)[:60].strip()


def _cell(width: int) -> int:
    return width * -(-CELL // width) if width < CELL else min(width, 2 * CELL)


def _scaled(image: Image.Image, side: int) -> Image.Image:
    if image.width == side:
        return image
    smooth = image.width > side
    return image.resize((side, side), Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)


def _fitted(text: str, pen: ImageDraw.ImageDraw, font: Font, width: int) -> str:
    """Cuts a text to a width in pixels."""
    if pen.textlength(text[:width], font) <= width:  # no letter is narrower than a pixel
        return text
    text = text[: width // 3]
    while text and pen.textlength(text + "...", font) > width:
        text = text[:-1]
    return text.rstrip() + "..."
