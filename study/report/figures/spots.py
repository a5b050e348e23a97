"""Spots: places in a figure, with the numbers that stand there, for pages on which they can be pointed at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure as Canvas

_MARKED = "_study_spots"  # attribute of a canvas that collects them


@dataclass(frozen=True)
class Spot:
    """What stands at a place of a figure.

    Attributes:
        title: Whose numbers they are, usually an arm.
        values: Names and values, as a reader is shown them.
        x: From the left edge of the figure, in percent of its width.
        y: From its upper edge, in percent of its height.
    """

    title: str
    values: tuple[tuple[str, str], ...]
    x: float
    y: float

    @property
    def words(self) -> str:
        """All of it in one line, for those who hear it."""
        return f"{self.title}: {', '.join(f'{name} {value}' for name, value in self.values)}"

    def reworded(self, reword: Callable[[str], str]) -> Spot:
        """The same in other words; the title stays."""
        return replace(self, values=tuple((reword(name), reword(value)) for name, value in self.values))


def collect_spots(canvas: Canvas) -> None:
    """Makes a canvas keep the spots that are marked on it; other canvases drop them."""
    setattr(canvas, _MARKED, [])


def mark_spot(ax: Any, x: float, y: float, title: str, values: Sequence[tuple[str, str]]) -> None:
    """Says what stands at a point of the axes, given in their data's units."""
    found = getattr(ax.figure, _MARKED, None)
    if found is not None:
        found.append((ax, x, y, Spot(title, tuple(values), 0.0, 0.0)))


def reword_spots(canvas: Canvas, reword: Callable[[str], str]) -> None:
    """Puts what was marked on a canvas into other words."""
    found = getattr(canvas, _MARKED, [])
    found[:] = [(ax, x, y, spot.reworded(reword)) for ax, x, y, spot in found]


def spots_of(canvas: Canvas) -> tuple[Spot, ...]:
    """The spots of a canvas that has been laid out, those within it alone."""
    width, height = canvas.bbox.width, canvas.bbox.height
    spots = []
    for ax, x, y, spot in getattr(canvas, _MARKED, []):
        right, up = ax.transData.transform((x, y))
        at = replace(spot, x=round(100 * right / width, 2), y=round(100 - 100 * up / height, 2))
        if 0 <= at.x <= 100 and 0 <= at.y <= 100:  # False for NaN, too
            spots.append(at)
    return tuple(spots)
