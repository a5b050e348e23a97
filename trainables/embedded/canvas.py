"""A small anti-aliased drawing surface in units of output pixels (0..64 on both axes)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFilter

from trainables.embedded.world import RGB

SIZE = 64
OVERSAMPLING = 4
SOFTNESS = 0.8  # radius of the final blur in pixels
Point = tuple[float, float]


@dataclass
class Canvas:
    """Draws at 4x and reduces by a box filter.

    `shift`, `scale` (about the point (32, 62), the ground under the creature) and `mirror` apply to
    everything drawn until they are changed.
    """

    shift: Point = (0.0, 0.0)
    scale: float = 1.0
    mirror: bool = False
    outline: RGB | None = None
    _image: Image.Image = field(init=False)
    _draw: ImageDraw.ImageDraw = field(init=False)

    def __post_init__(self) -> None:
        side = SIZE * OVERSAMPLING
        self._image = Image.new("RGB", (side, side))
        self._draw = ImageDraw.Draw(self._image)

    def _at(self, x: float, y: float) -> Point:
        x = (x - 32) * self.scale + 32 + self.shift[0]
        y = (y - 62) * self.scale + 62 + self.shift[1]
        if self.mirror:
            x = SIZE - x
        return x * OVERSAMPLING, y * OVERSAMPLING

    def rect(self, left: float, top: float, right: float, bottom: float, fill: RGB) -> None:
        (x0, y0), (x1, y1) = self._at(left, top), self._at(right, bottom)
        self._draw.rectangle((min(x0, x1), y0, max(x0, x1) - 1, y1 - 1), fill=fill)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: RGB, line: bool = False) -> None:
        (x0, y0), (x1, y1) = self._at(x - rx, y - ry), self._at(x + rx, y + ry)
        box = (min(x0, x1), y0, max(x0, x1), y1)
        if line and self.outline is not None:
            self._draw.ellipse(box, fill=fill, outline=self.outline, width=4)
        else:
            self._draw.ellipse(box, fill=fill)

    def polygon(self, points: Sequence[Point], fill: RGB, line: bool = False) -> None:
        at = [self._at(*point) for point in points]
        if line and self.outline is not None:
            self._draw.polygon(at, fill=fill, outline=self.outline, width=4)
        else:
            self._draw.polygon(at, fill=fill)

    def stroke(self, points: Sequence[Point], width: float, fill: RGB) -> None:
        """A thick line with round ends."""
        at = [self._at(*point) for point in points]
        wide = width * self.scale * OVERSAMPLING
        self._draw.line(at, fill=fill, width=max(1, round(wide)), joint="curve")
        for x, y in (at[0], at[-1]):
            self._draw.ellipse((x - wide / 2, y - wide / 2, x + wide / 2, y + wide / 2), fill=fill)

    def star(self, x: float, y: float, radius: float, fill: RGB) -> None:
        points = []
        for step in range(10):
            reach = radius if step % 2 == 0 else radius * 0.45
            angle = math.pi * step / 5 - math.pi / 2
            points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
        self.polygon(points, fill)

    def paste_clipped(self, top: Canvas, clip: Canvas) -> None:
        """Put `top` where `clip` is white (both drawn on canvases of the same transform)."""
        self._image.paste(top._image, (0, 0), clip._image.convert("L"))

    def like(self) -> Canvas:
        """An empty canvas with the same transform."""
        return Canvas(self.shift, self.scale, self.mirror)

    def flat(self) -> Image.Image:
        """The picture as it was drawn, at `OVERSAMPLING` times 64 pixels: areas of one colour each."""
        return self._image

    def finish(self) -> Image.Image:
        """The picture, reduced to 64x64 RGB and softened as a lens would.

        Without the softening an autoencoder that trains in minutes is 3 dB worse.
        """
        return self._image.reduce(OVERSAMPLING).filter(ImageFilter.GaussianBlur(SOFTNESS))
