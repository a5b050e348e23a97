"""Sample grids: of each class real images above generated ones, as the generators' runs left them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure as Canvas

from study.report.figures.canvas import Figure, new_canvas
from study.report.figures.samples import few_colours
from study.report.figures.style import PAGE, shorten
from study.report.gallery import Shot, read_picture
from study.report.prepared import Rows, distinct
from trainables.events import GENERATED

MOST_CLASSES = 12  # of a generator
_LABEL, _GAP = 0.8, 0.08  # inches: names at the left, and between classes
_TALLEST = 1.5  # inches of a class


@dataclass(frozen=True)
class ClassShot:
    """The picture of one class, with the run that left it."""

    label: str
    run_key: str
    shot: Shot


@dataclass(frozen=True)
class ClassGrid:
    """What one generator drew with one seed."""

    generator: str
    seed: int
    classes: tuple[ClassShot, ...]


def class_grids(rows: Rows) -> tuple[ClassGrid, ...]:
    """Of each generator the pictures of its first seed that left any."""
    images = rows.images
    images = images[
        (images["phase"] == "confirm")
        & (images["state"] == "COMPLETE")
        & images["key"].astype(str).str.startswith(GENERATED)
    ]
    found = []
    for arm in rows.arms:
        own = images[images["arm"] == arm]
        seed = min(own["seed"], default=None)
        if seed is not None:
            shots = _shots(own[own["seed"] == seed])
            found += [ClassGrid(arm, int(seed), shots)] if shots else []
    return tuple(found)


def _shots(images: object) -> tuple[ClassShot, ...]:
    shots: list[ClassShot] = []
    for key in distinct(images["key"]):  # type: ignore[index]
        of_class = images[images["key"] == key]  # type: ignore[index]
        row = of_class.sort_values("step", kind="stable").iloc[-1]
        picture = read_picture(row["path"], overview=True)
        if picture is not None and len(shots) < MOST_CLASSES:
            step = None if row["step"] != row["step"] else int(row["step"])
            label = str(key).removeprefix(GENERATED)
            shots.append(ClassShot(label, str(row["run_key"]), Shot(str(key), step, picture)))
    return tuple(shots)


def kept_shots(grids: Sequence[ClassGrid]) -> tuple[tuple[str, Shot], ...]:
    """Every picture with its run, which the report's folder keeps."""
    return tuple((one.run_key, one.shot) for grid in grids for one in grid.classes)


def grid_figure(grid: ClassGrid, number: int) -> Figure:
    """The figure of one generator, the `number`-th."""
    return Figure(
        f"downstream-samples-{number}",
        f"{grid.generator}, seed {grid.seed}: of each class real images that it was trained on (above) and images that "
        "it drew for classifiers (below).",
        f"Grids of real and of generated images of {grid.generator}, one a class.",
        lambda: _draw(grid),
        pixels=True,
    )


def _draw(grid: ClassGrid) -> Canvas:
    pictures = [few_colours(one.shot.picture.pixels) for one in grid.classes]
    widest, tallest = max(p.shape[1] for p in pictures), max(p.shape[0] for p in pictures)
    inches = min((PAGE - _LABEL) / widest, _TALLEST / tallest)
    width = _LABEL + widest * inches
    height = sum(p.shape[0] * inches + _GAP for p in pictures)
    canvas = new_canvas(width, height)
    canvas.set_layout_engine("none")
    ax = canvas.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    ax.set_axis_off()
    y = height
    for one, picture in zip(grid.classes, pictures, strict=True):
        y -= picture.shape[0] * inches
        right, up = _LABEL + picture.shape[1] * inches, y + picture.shape[0] * inches
        ax.imshow(picture, extent=(_LABEL, right, y, up), aspect="auto", interpolation="none")
        canvas.text(0.02 / width, (y + up) / 2 / height, shorten(one.label, 12), va="center", fontsize=7)
        y -= _GAP
    ax.set(xlim=(0, width), ylim=(0, height))
    return canvas
