"""Creatures of the sprite world: a body per class, then the traits and the accessory over it.

Everything is drawn in the units of `Canvas`; the creature stands on y = 62 and looks at the viewer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trainables.embedded.canvas import Canvas, Point
from trainables.embedded.world import RGB, Identity

INK: RGB = (34, 28, 34)
EYE_WHITE: RGB = (250, 250, 250)


@dataclass(frozen=True)
class Anatomy:
    """Where a class carries things: top of the head, eyes, neck, belly and hand."""

    head: Point
    head_size: Point
    eyes: tuple[Point, Point]
    top: float
    neck: tuple[float, float]
    neck_x: float
    body: Point
    body_size: Point
    belly: tuple[float, float, float, float]
    eye_radius: float = 2.6


_UPRIGHT = Anatomy(
    head=(32, 30),
    head_size=(13.5, 11.5),
    eyes=((26.5, 28.5), (37.5, 28.5)),
    top=20.0,
    neck=(41.0, 10.0),
    neck_x=32,
    body=(32, 51),
    body_size=(12.5, 12),
    belly=(32, 53, 8.2, 8.4),
)
ANATOMY: dict[str, Anatomy] = {
    "cat": _UPRIGHT,
    "dog": _UPRIGHT,
    "rabbit": Anatomy(
        (32, 32), (11.5, 10.5), ((27.2, 31), (36.8, 31)), 22.5, (42.0, 9.0), 32, (32, 52), (11, 11),
        (32, 53.5, 7.4, 7.6),
    ),
    "bear": Anatomy(
        (32, 29), (14.5, 12), ((26, 27), (38, 27)), 18.5, (40.5, 12.0), 32, (32, 50), (16, 13.5),
        (32, 52, 9.6, 9),
    ),
    "bird": Anatomy(
        (32, 30), (10, 9.5), ((28, 28.5), (36, 28.5)), 21.5, (38.5, 9.5), 32, (32, 46), (13.5, 12),
        (32, 48, 8.2, 8.6),
    ),
    "frog": Anatomy(
        (32, 37), (17, 10.5), ((22, 28), (42, 28)), 27.5, (46.0, 12.0), 32, (32, 53), (15, 9.5),
        (32, 54, 9.4, 7), 3.4,
    ),
    "elephant": Anatomy(
        (32, 29), (11.5, 12), ((27, 27), (37, 27)), 18.0, (41.5, 10.0), 32, (32, 50), (15.5, 12.5),
        (32, 53, 8.8, 7.8),
    ),
    "turtle": Anatomy(
        (14, 40), (8.8, 8.4), ((11, 38.5), (17.6, 38.5)), 32.5, (48.0, 6.5), 15, (38, 46), (20, 15),
        (39, 47, 9.5, 8.5), 2.3,
    ),
}  # fmt: skip


def _body(c: Canvas, who: Identity, a: Anatomy) -> None:
    c.ellipse(*a.body, a.body_size[0] * who.body_width, a.body_size[1], who.shade, line=True)


def _head(c: Canvas, who: Identity, a: Anatomy) -> None:
    c.ellipse(*a.head, *a.head_size, who.shade, line=True)


def _feet(c: Canvas, who: Identity, spread: float, size: float = 4.4) -> None:
    for side in (-1, 1):
        c.ellipse(32 + side * spread, 60, size, 2.6, who.secondary, line=True)


def _muzzle(c: Canvas, who: Identity, y: float, rx: float, ry: float) -> None:
    c.ellipse(32, y, rx, ry, who.secondary)
    c.ellipse(32, y - ry * 0.45, 2.0, 1.5, INK)


def _cat(c: Canvas, who: Identity, a: Anatomy) -> None:
    e = who.ear_size
    c.stroke([(42, 56), (51, 54), (54, 46), (52, 40)], 4.2, who.shade)
    for s in (-1, 1):
        tip = (32 + s * 13.5 * e, 23 - 13 * e)
        c.polygon([(32 + s * 13, 29), tip, (32 + s * 3, 20)], who.shade, line=True)
        inner = (32 + s * 11.8 * e, 24 - 9.5 * e)
        c.polygon([(32 + s * 11, 26), inner, (32 + s * 5.5, 21)], who.secondary)
    _body(c, who, a)
    _feet(c, who, 7)
    _head(c, who, a)
    _muzzle(c, who, 35, 5.4, 4)


def _dog(c: Canvas, who: Identity, a: Anatomy) -> None:
    c.stroke([(43, 54), (52, 46)], 5.0, who.shade)
    _body(c, who, a)
    _feet(c, who, 7.5)
    _head(c, who, a)
    e = who.ear_size
    for s in (-1, 1):
        c.ellipse(32 + s * 14.5, 28 + 4 * e, 4.6, 9.5 * e, who.secondary, line=True)
    _muzzle(c, who, 35.5, 7, 5.2)
    c.ellipse(32, 39.4, 2.2, 2.4, (230, 90, 110))


def _rabbit(c: Canvas, who: Identity, a: Anatomy) -> None:
    e = who.ear_size
    c.ellipse(45, 57, 4.4, 4.4, who.secondary, line=True)
    for s in (-1, 1):
        c.ellipse(32 + s * 7.5, 23 - 9 * e, 4.2, 12 * e, who.shade, line=True)
        c.ellipse(32 + s * 7.5, 23 - 9 * e, 2.0, 9 * e, who.secondary)
    _body(c, who, a)
    _feet(c, who, 6.5)
    _head(c, who, a)
    c.ellipse(32, 36, 4.2, 3.2, who.secondary)
    c.ellipse(32, 34.6, 1.6, 1.2, (226, 100, 130))
    c.rect(30.4, 37.2, 33.6, 40, (255, 255, 255))


def _bear(c: Canvas, who: Identity, a: Anatomy) -> None:
    e = who.ear_size
    for s in (-1, 1):
        c.ellipse(32 + s * 12, 19, 5.4 * e, 5.4 * e, who.shade, line=True)
        c.ellipse(32 + s * 12, 19, 2.8 * e, 2.8 * e, who.secondary)
    for s in (-1, 1):
        c.ellipse(32 + s * 15.5 * who.body_width, 48, 4.6, 7, who.shade, line=True)
    _body(c, who, a)
    _feet(c, who, 9.5, 5.4)
    _head(c, who, a)
    _muzzle(c, who, 34.5, 6.4, 5)


def _bird(c: Canvas, who: Identity, a: Anatomy) -> None:
    for s in (-1, 1):
        c.stroke([(32 + s * 4.5, 56), (32 + s * 4.5, 61)], 2.0, (240, 150, 30))
        c.stroke([(32 + s * 2.5, 61), (32 + s * 8, 61)], 2.0, (240, 150, 30))
    wing = 9 * who.ear_size
    for s in (-1, 1):
        x = 32 + s * 12 * who.body_width
        c.polygon([(x, 38), (x + s * wing, 48), (x + s * wing, 54), (x - s * 2, 52)],
                  who.secondary, line=True)  # fmt: skip
    _body(c, who, a)
    c.polygon([(30, 21), (28, 15), (32, 18), (36, 15), (34, 21)], who.shade)
    _head(c, who, a)
    c.polygon([(27.5, 32), (36.5, 32), (32, 38)], (244, 160, 30), line=True)


def _frog(c: Canvas, who: Identity, a: Anatomy) -> None:
    for s in (-1, 1):
        c.ellipse(32 + s * 17 * who.body_width, 54, 7, 6.5, who.shade, line=True)
    _body(c, who, a)
    for s in (-1, 1):
        c.ellipse(32 + s * 14, 60, 7, 2.6, who.secondary, line=True)
        c.ellipse(32 + s * 10, 29, 5.8 * who.ear_size**0.5, 6.2, who.shade, line=True)
    _head(c, who, a)
    c.ellipse(32, 41, 12, 4.6, who.secondary)
    c.stroke([(21, 38.5), (26, 41), (38, 41), (43, 38.5)], 1.4, INK)


def _elephant(c: Canvas, who: Identity, a: Anatomy) -> None:
    e = who.ear_size
    for s in (-1, 1):
        c.ellipse(32 + s * 17, 30, 9 * e, 11.5 * e, who.shade, line=True)
        c.ellipse(32 + s * 17.5, 30, 5.6 * e, 7.6 * e, who.secondary)
    _body(c, who, a)
    for s in (-1, 1):
        c.rect(32 + s * 9 - 4, 54, 32 + s * 9 + 4, 62, who.shade)
        c.rect(32 + s * 9 - 4, 60, 32 + s * 9 + 4, 62, who.secondary)
    _head(c, who, a)


def _trunk(c: Canvas, who: Identity) -> None:
    c.stroke([(32, 34), (32, 43), (35, 47), (39, 46)], 6.4, c.outline or INK)
    c.stroke([(32, 33), (32, 43), (35, 47), (39, 46)], 4.8, who.shade)


def _turtle(c: Canvas, who: Identity, a: Anatomy) -> None:
    c.polygon([(56, 52), (63, 57), (54, 57)], who.secondary, line=True)
    for x in (25, 49):
        c.ellipse(x, 58, 5, 4, who.secondary, line=True)
    c.stroke([(14, 43), (22, 51)], 7.5, who.secondary)
    _body(c, who, a)
    c.rect(38 - 20 * who.body_width, 53, 38 + 20 * who.body_width, 56, who.secondary)
    c.ellipse(*a.head, *a.head_size, who.shade, line=True)
    c.stroke([(9, 44), (14, 45.5)], 1.2, INK)


_DRAW: dict[str, Callable[[Canvas, Identity, Anatomy], None]] = {
    "cat": _cat, "dog": _dog, "rabbit": _rabbit, "bear": _bear,
    "bird": _bird, "frog": _frog, "elephant": _elephant, "turtle": _turtle,
}  # fmt: skip

_SPOTS = (
    ((-0.62, -0.62), (0.62, -0.55), (-0.8, 0.15), (0.82, 0.2), (-0.1, -0.85), (-0.55, 0.7)),
    ((-0.4, -0.75), (0.75, -0.3), (-0.85, -0.15), (0.5, 0.75), (0.3, -0.8), (-0.75, 0.5)),
)


def _pattern(c: Canvas, who: Identity, a: Anatomy) -> None:
    """Spots, stripes or a patch, on body and head, clipped to them."""
    if who.pattern == "none":
        return
    top, clip = c.like(), c.like()
    parts = ((a.head, a.head_size), (a.body, (a.body_size[0] * who.body_width, a.body_size[1])))
    for (x, y), (rx, ry) in parts:
        clip.ellipse(x, y, rx - 0.9, ry - 0.9, (255, 255, 255))
    top.rect(-20, -20, 84, 84, who.shade)
    for index, ((x, y), (rx, ry)) in enumerate(parts):
        if who.pattern == "spots":
            for u, v in _SPOTS[(who.pattern_seed + index) % 2]:
                top.ellipse(x + u * rx, y + v * ry, 3.0, 3.0, who.pattern_colour)
        elif who.pattern == "stripes":
            offset = (who.pattern_seed % 2) * 0.25
            for u in (-0.8, -0.3, 0.2, 0.7):
                middle = x + (u + offset) * rx
                top.rect(middle - 1.6, y - ry, middle + 1.6, y + ry, who.pattern_colour)
        else:
            side = -1 if who.pattern_seed % 2 else 1
            side = side if index == 0 else -side
            top.ellipse(x + side * rx * 0.75, y - ry * 0.2, rx * 0.8, ry * 0.9, who.pattern_colour)
    c.paste_clipped(top, clip)


def _mark(c: Canvas, who: Identity, x: float, y: float) -> None:
    """The mark on the belly, about 9 pixels wide."""
    fill = who.mark_colour
    if who.mark == "circle":
        c.ellipse(x, y, 4.3, 4.3, fill)
    elif who.mark == "star":
        c.star(x, y, 6.2, fill)
    elif who.mark == "heart":
        c.ellipse(x - 2.3, y - 1.6, 2.7, 2.7, fill)
        c.ellipse(x + 2.3, y - 1.6, 2.7, 2.7, fill)
        c.polygon([(x - 4.7, y - 0.4), (x + 4.7, y - 0.4), (x, y + 5.2)], fill)
    elif who.mark == "diamond":
        c.polygon([(x, y - 5.6), (x + 4.4, y), (x, y + 5.6), (x - 4.4, y)], fill)
    elif who.mark == "bar":
        c.rect(x - 5.6, y - 2, x + 5.6, y + 2, fill)


def _face_again(c: Canvas, who: Identity, a: Anatomy) -> None:
    """What the pattern must not hide: muzzle, beak, mouth."""
    if who.class_name in ("cat", "dog", "bear"):
        size = {"cat": (35, 5.4, 4), "dog": (35.5, 7, 5.2), "bear": (34.5, 6.4, 5)}[who.class_name]
        _muzzle(c, who, *size)
    elif who.class_name == "rabbit":
        c.ellipse(32, 36, 4.2, 3.2, who.secondary)
        c.ellipse(32, 34.6, 1.6, 1.2, (226, 100, 130))
    elif who.class_name == "bird":
        c.polygon([(27.5, 32), (36.5, 32), (32, 38)], (244, 160, 30), line=True)
    elif who.class_name == "frog":
        c.ellipse(32, 41, 12, 4.6, who.secondary)
        c.stroke([(21, 38.5), (26, 41), (38, 41), (43, 38.5)], 1.4, INK)
    elif who.class_name == "turtle":
        c.stroke([(9, 44), (14, 45.5)], 1.2, INK)


def draw_creature(c: Canvas, who: Identity) -> None:
    """Body, pattern, belly with mark, face."""
    a = ANATOMY[who.class_name]
    dark = tuple(int(channel * 0.45) for channel in who.shade)
    c.outline = (dark[0], dark[1], dark[2])
    _DRAW[who.class_name](c, who, a)
    _pattern(c, who, a)
    c.ellipse(a.belly[0], a.belly[1], a.belly[2] * who.body_width, a.belly[3], who.secondary)
    _mark(c, who, a.belly[0], a.belly[1] + 0.5)
    _face_again(c, who, a)
    if who.class_name == "elephant":
        _trunk(c, who)
    for x, y in a.eyes:
        c.ellipse(x, y, a.eye_radius + 0.8, a.eye_radius + 0.8, EYE_WHITE)
        c.ellipse(x, y, a.eye_radius * 0.72, a.eye_radius * 0.72, who.eye_colour)


def draw_accessory(c: Canvas, accessory: str, class_name: str) -> None:
    """A hat, crown, scarf, pair of sunglasses or balloon, at the place where the class wears it."""
    a = ANATOMY[class_name]
    x, top = a.head[0], a.top
    if accessory == "hat":
        c.rect(x - 11, top - 1, x + 11, top + 3, (250, 250, 250))
        c.rect(x - 10.2, top - 0.2, x + 10.2, top + 2.2, (40, 40, 48))
        c.rect(x - 7.4, top - 14, x + 7.4, top, (250, 250, 250))
        c.rect(x - 6.6, top - 13.2, x + 6.6, top, (40, 40, 48))
        c.rect(x - 6.6, top - 4.4, x + 6.6, top - 0.2, (224, 44, 60))
    elif accessory == "crown":
        points = [(x - 9, top + 3), (x - 10, top - 10), (x - 4.4, top - 4), (x, top - 12),
                  (x + 4.4, top - 4), (x + 10, top - 10), (x + 9, top + 3)]  # fmt: skip
        c.outline = (150, 96, 10)
        c.polygon(points, (255, 206, 40), line=True)
        for dx in (-5.5, 0, 5.5):
            c.ellipse(x + dx, top - 0.6, 1.6, 1.6, (214, 30, 90))
    elif accessory == "scarf":
        y, half = a.neck
        c.outline = (110, 10, 30)
        tail = a.neck_x + half * 0.45
        c.polygon([(tail - 3, y), (tail + 4, y), (tail + 6, y + 14), (tail - 2, y + 14)],
                  (226, 30, 70), line=True)  # fmt: skip
        c.ellipse(a.neck_x, y, half + 1.5, 4.2, (226, 30, 70), line=True)
        c.rect(tail - 1.4, y + 8, tail + 5.0, y + 11, (252, 250, 246))
        for dx in (-0.62, 0.0):
            c.rect(a.neck_x + dx * half - 1.6, y - 3, a.neck_x + dx * half + 1.6, y + 3.2,
                   (252, 250, 246))  # fmt: skip
    elif accessory == "sunglasses":
        (x0, y0), (x1, _) = a.eyes
        r = a.eye_radius + 2.0
        c.rect(x0 - r - 1, y0 - r * 0.8 - 1.4, x1 + r + 1, y0 - r * 0.8 + 1.6, (18, 18, 22))
        for eye in (x0, x1):
            c.ellipse(eye, y0, r + 0.2, r, (18, 18, 22))
            c.ellipse(eye - 1.4, y0 - 1.4, 1.3, 1.0, (150, 190, 220))
    elif accessory == "balloon":
        c.stroke([(52, 50), (54, 30), (55, 22)], 1.0, (70, 60, 70))
        c.outline = (140, 10, 110)
        c.polygon([(52.6, 26), (57.4, 26), (55, 21)], (236, 40, 180))
        c.ellipse(55, 14, 7.8, 9.6, (236, 40, 180), line=True)
        c.ellipse(52.4, 10.6, 1.8, 2.6, (255, 200, 240))
