"""Saving and decorating figures: the same bytes for the same data, in PDF, SVG and PNG."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

from study.report.figures.spots import Spot, collect_spots, spots_of
from study.report.figures.style import RC, ArmStyle
from study.report.formatting import Scale, scale_for
from study.report.measures import COSTS, measure

FORMATS = ("pdf", "svg", "png")
PNG_DPI = 200
_LONG_TITLE = 20  # letters
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}


@dataclass(frozen=True)
class Figure:
    """A figure of the report: how to draw it, its caption, and what it shows in words for those who cannot see it.

    Attributes:
        wide: Whether it takes both columns of a page, or one.
        stacked: How to draw a wide one in a single column, its panels below each other, for narrow screens; None: it
            is shown there as it is.
        pixels: Whether it is made of pictures: it has no SVG, and a PNG of few colours.
    """

    key: str
    caption: str
    alt: str
    draw: Callable[[], Canvas]
    wide: bool = True
    stacked: Callable[[], Canvas] | None = None
    pixels: bool = False

    @property
    def formats(self) -> tuple[str, ...]:
        """The kinds of files that it is written as."""
        return tuple(name for name in FORMATS if name != "svg") if self.pixels else FORMATS

    def redrawn(self, change: Callable[[Callable[[], Canvas]], Canvas]) -> Figure:
        """The same figure, drawn by `change`, which is given what has drawn it until now."""
        draw, stacked = self.draw, self.stacked
        return replace(
            self,
            draw=lambda: change(draw),
            stacked=None if stacked is None else lambda: change(stacked),
        )


@dataclass(frozen=True)
class Skipped:
    """A figure that this study has no data for."""

    key: str
    reason: str


@dataclass(frozen=True)
class View:
    """A figure as a page shows it: vectors, and the spots on it; `stacked` ones are for narrow screens."""

    svg: bytes
    spots: tuple[Spot, ...] = ()
    stacked: bool = False


@dataclass(frozen=True)
class Rendering:
    """A figure's bytes by format, and its views: the first is not stacked. One without vectors has none."""

    files: dict[str, bytes]
    views: tuple[View, ...]


@contextmanager
def figure_style() -> Iterator[None]:
    """Applies the report's rcParams, and keeps matplotlib quiet about glyphs that its font lacks."""
    with mpl.rc_context(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")
        yield


def new_canvas(width: float, height: float) -> Canvas:
    """An empty figure that no global state knows of, laid out without clipping or overlap."""
    canvas = Canvas(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04))
    FigureCanvasAgg(canvas)
    collect_spots(canvas)
    return canvas


def render(figure: Figure) -> Rendering:
    """Draws a figure in every format, and as pages show it."""
    with figure_style():
        files, spots = _drawn(figure.draw, figure.formats)
        if figure.pixels:
            return Rendering({**files, "png": of_few_colours(files["png"])}, ())
        views = [View(files["svg"], spots)]
        if figure.stacked is not None:
            stacked, spots = _drawn(figure.stacked, ("svg",))
            views.append(View(stacked["svg"], spots, stacked=True))
    return Rendering(files, tuple(views))


def _drawn(draw: Callable[[], Canvas], formats: Iterable[str]) -> tuple[dict[str, bytes], tuple[Spot, ...]]:
    """Bytes by format, and the spots."""
    canvas = draw()
    canvas.draw_without_rendering()
    canvas.set_layout_engine(None)  # laid out once: every format shows the same, in a third of the time
    files = {}
    for name in formats:
        buffer = io.BytesIO()
        canvas.savefig(buffer, format=name, dpi=PNG_DPI, metadata=_METADATA[name])
        files[name] = buffer.getvalue()
    return files, spots_of(canvas)


def of_few_colours(png: bytes) -> bytes:
    """A PNG of at most 256 colours, in a third of the bytes where it shows pictures."""
    with Image.open(io.BytesIO(png)) as image:
        small = image.convert("RGB").quantize(256)
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def legend_below(
    canvas: Canvas,
    styles: dict[str, ArmStyle],
    arms: Iterable[str],
    columns: int,
    lines: bool = True,
    level: str | None = None,
) -> None:
    """One legend for all panels, under them; the arm `level` is drawn as a line without a mark."""
    handles = [
        Line2D(
            [], [], color=styles[arm].color, marker="" if arm == level else styles[arm].marker,
            markerfacecolor=styles[arm].face, linestyle=styles[arm].line if lines or arm == level else "",
            label=styles[arm].label,
        )
        for arm in arms
    ]  # fmt: skip
    if handles:
        canvas.legend(handles=handles, loc="outside lower center", ncols=min(columns, len(handles)))


def legend_columns(styles: dict[str, ArmStyle], arms: Iterable[str], width: float) -> int:
    """How many columns of a legend fit on `width` inches."""
    longest = max((len(styles[arm].label) for arm in arms), default=1)
    return max(1, int((width - 0.1) / (0.48 + 0.055 * longest)))


def legend_height(count: int, columns: int) -> float:
    """Inches that `legend_below` takes."""
    return 0.1 + 0.17 * math.ceil(count / columns)


def cost_axis(ax: Any, name: str, values: Iterable[float], axis: str = "x") -> Scale:
    """Labels an axis with title and unit; of a cost, logarithmic where the values span more than a factor of 10.

    Returns the scale to divide the values by.
    """
    about = measure(name)
    known = [value for value in values if value and value > 0]
    scale = scale_for(about.unit, known)
    unit = f"({scale.unit})" if scale.unit else ""
    gap = "\n" if len(about.title) > _LONG_TITLE else " "  # panels stand close together
    getattr(ax, f"set_{axis}label")(f"{about.title}{gap}{unit}".strip())
    target = getattr(ax, f"{axis}axis")
    if (name in COSTS or about.is_cost) and known and max(known) / min(known) > 10:
        getattr(ax, f"set_{axis}scale")("log")
        target.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        target.set_minor_formatter(NullFormatter())
        low, high = (math.log10(limit / scale.factor) for limit in (min(known), max(known)))
        if math.floor(high) - math.ceil(low) < 1:  # fewer than two decades would be labelled
            target.set_minor_locator(LogLocator(subs=(3,)))
            target.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return scale
