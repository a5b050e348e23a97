"""The figures of a compact report: one small picture of each, in the place of PDF, SVG and PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping

from PIL import Image

COMPACT = "compact"  # key of what results bear in `meta` that are read from a compact report
_COLOURS = 256
_HALF = 2  # of grids of pictures: 100 dots an inch, about what pictures of 64 pixels have by themselves
_QUALITY = 80  # of JPEG


def compact_picture(key: str, files: Mapping[str, bytes]) -> tuple[str, bytes]:
    """Returns the name of a figure's file, and its content: the same for the same figure.

    What is drawn is a PNG of 256 colours, a third of the size; grids of sample pictures, which have more, are JPEG at
    half the width and height. LaTeX and Markdown take both.

    Args:
        key: Of the figure.
        files: Its bytes by format, the PNG among them.
    """
    with Image.open(io.BytesIO(files["png"])) as image:
        picture = image.convert("RGB")
    found = io.BytesIO()
    if not of_pixels(key):
        few = picture.quantize(_COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        few.save(found, "PNG", optimize=True)
    else:
        size = max(1, picture.width // _HALF), max(1, picture.height // _HALF)
        picture.resize(size, Image.Resampling.LANCZOS).save(found, "JPEG", quality=_QUALITY, optimize=True)
    return compact_name(key), found.getvalue()


def compact_name(key: str) -> str:
    """The name of a figure's file in a compact report."""
    return f"{key}.{'jpg' if of_pixels(key) else 'png'}"


def of_pixels(key: str) -> bool:
    """Whether a figure is a grid of pictures."""
    return key.startswith("samples")
