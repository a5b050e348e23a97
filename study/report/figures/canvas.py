"""Saving and decorating figures: the same bytes for the same data, in PDF, SVG and PNG."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl

mpl.use("agg")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

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
    """A figure of the report: how to draw it, its caption, and what it shows in words for those who cannot see it."""

    key: str
    caption: str
    alt: str
    draw: Callable[[], Canvas]
    wide: bool = True  # both columns of a page, or one
    pixels: bool = False  # made of pictures: without SVG, and with a PNG of few colours

    @property
    def formats(self) -> tuple[str, ...]:
        """The kinds of files that it is written as."""
        return tuple(name for name in FORMATS if name != "svg") if self.pixels else FORMATS


@dataclass(frozen=True)
class Skipped:
    """A figure that this study has no data for."""

    key: str
    reason: str


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
    return canvas


def render(figure: Figure) -> dict[str, bytes]:
    """Draws a figure; returns its bytes by format."""
    files = {}
    with figure_style():
        canvas = figure.draw()
        canvas.draw_without_rendering()
        canvas.set_layout_engine(None)  # laid out once: every format shows the same, in a third of the time
        for name in figure.formats:
            buffer = io.BytesIO()
            canvas.savefig(buffer, format=name, dpi=PNG_DPI, metadata=_METADATA[name])
            files[name] = buffer.getvalue()
    if figure.pixels:
        files["png"] = of_few_colours(files["png"])
    return files


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
