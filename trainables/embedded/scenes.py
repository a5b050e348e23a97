"""Backgrounds of the sprite world: flat, soft shapes on a 64x64 unit square."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trainables.embedded.canvas import Canvas

if TYPE_CHECKING:
    import numpy as np


def _grass(c: Canvas, rng: np.random.Generator) -> None:
    horizon = rng.uniform(34, 40)
    c.rect(0, 0, 64, 64, (160, 214, 246))
    c.ellipse(rng.uniform(8, 56), 11, 6, 3.4, (244, 250, 252))
    c.rect(0, horizon, 64, 64, (104, 188, 84))
    for _ in range(4):
        c.ellipse(rng.uniform(2, 62), rng.uniform(horizon + 4, 62), 1.7, 1.7, (252, 240, 130))


def _beach(c: Canvas, rng: np.random.Generator) -> None:
    horizon = rng.uniform(26, 31)
    c.rect(0, 0, 64, 64, (190, 232, 250))
    c.ellipse(rng.uniform(8, 56), 10, 5.5, 5.5, (255, 236, 140))
    c.rect(0, horizon, 64, 64, (40, 150, 200))
    c.rect(0, horizon + 13, 64, 64, (240, 218, 160))
    c.rect(0, horizon + 12, 64, horizon + 14, (236, 248, 250))


def _snow(c: Canvas, rng: np.random.Generator) -> None:
    horizon = rng.uniform(36, 42)
    c.rect(0, 0, 64, 64, (176, 190, 208))
    c.rect(0, horizon, 64, 64, (246, 249, 253))
    for _ in range(9):
        c.ellipse(rng.uniform(2, 62), rng.uniform(2, 34), 1.8, 1.8, (255, 255, 255))


def _night(c: Canvas, rng: np.random.Generator) -> None:
    horizon = rng.uniform(42, 47)
    c.rect(0, 0, 64, 64, (22, 26, 66))
    moon = rng.uniform(9, 55)
    c.ellipse(moon, 10, 5.5, 5.5, (250, 244, 200))
    c.ellipse(moon + 3, 8.6, 4.6, 4.6, (22, 26, 66))
    for _ in range(5):
        c.ellipse(rng.uniform(2, 62), rng.uniform(3, 36), 1.1, 1.1, (240, 240, 220))
    c.rect(0, horizon, 64, 64, (40, 46, 60))


def _forest(c: Canvas, rng: np.random.Generator) -> None:
    horizon = rng.uniform(40, 45)
    c.rect(0, 0, 64, 64, (84, 132, 96))
    for middle in (7, 23, 41, 57):
        x = middle + rng.uniform(-2.5, 2.5)
        c.rect(x - 2, 16, x + 2, horizon + 3, (94, 64, 44))
        c.polygon([(x - 9, 30), (x, rng.uniform(2, 7)), (x + 9, 30)], (22, 84, 54))
    c.rect(0, horizon, 64, 64, (96, 86, 52))


def _city(c: Canvas, rng: np.random.Generator) -> None:
    c.rect(0, 0, 64, 64, (206, 212, 222))
    for x, shade in ((0, 118), (17, 140), (33, 108), (49, 130)):
        top = rng.uniform(5, 22)
        c.rect(x, top, x + 15, 52, (shade, shade, shade + 12))
        for row in range(3):
            for column in (3.5, 9.5):
                y = top + 4 + 7 * row
                c.rect(x + column, y, x + column + 3, y + 3.4, (252, 232, 150))
    c.rect(0, 50, 64, 64, (76, 76, 84))


def _room(c: Canvas, rng: np.random.Generator) -> None:
    c.rect(0, 0, 64, 64, (238, 214, 190))
    x = rng.uniform(3, 40)
    c.rect(x, 5, x + 20, 25, (250, 250, 246))
    c.rect(x + 2, 7, x + 18, 23, (150, 206, 240))
    c.rect(x + 9, 7, x + 11, 23, (250, 250, 246))
    c.rect(0, 47, 64, 64, (160, 104, 66))
    c.rect(0, 45, 64, 47.5, (250, 250, 246))


def _desert(c: Canvas, rng: np.random.Generator) -> None:
    c.rect(0, 0, 64, 64, (252, 198, 128))
    c.ellipse(rng.uniform(8, 56), 10, 6, 6, (252, 122, 70))
    middle = rng.uniform(10, 54)
    c.ellipse(middle, 58, 40, rng.uniform(20, 25), (222, 150, 86))
    c.rect(0, 50, 64, 64, (226, 168, 100))
    x = 7 if middle > 32 else 57
    c.rect(x - 2, 26, x + 2, 54, (50, 122, 76))
    c.rect(x - 6, 33, x + 6, 36.5, (50, 122, 76))
    c.rect(x + 3, 28, x + 6, 35, (50, 122, 76))


DRAW: dict[str, Callable[[Canvas, np.random.Generator], None]] = {
    "on grass": _grass,
    "on a beach": _beach,
    "in the snow": _snow,
    "at night": _night,
    "in a forest": _forest,
    "in a city": _city,
    "in a room": _room,
    "in the desert": _desert,
}
