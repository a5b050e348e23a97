"""Reads the severity of a lesion off any picture by drawing it again: analysis by synthesis.

First lesions of a few sizes and colours are drawn on the belly, each a little moved; the one that is nearest in the
pixels says where the lesion is. Then all severities are compared with what is seen there, ring by ring around its
middle, so that it does not matter where a spike of a ragged outline happens to be. Class and palette are known; the fur
around the belly may have any colour, since the best one has a closed form (least squares).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.embedded import lesions
from trainables.embedded.canvas import SIZE, Canvas
from trainables.embedded.creatures import ANATOMY
from trainables.embedded.graded_lesions import SKINS

if TYPE_CHECKING:
    from PIL import Image

REACH = 3  # whole pixels by which a lesion may be off its place in each direction
HALVES = (0.0, 0.5)  # of a pixel, likewise
SOUGHT = (0.5, 1.5, 2.5, 3.5)  # severities that are drawn to find the place
SHAPES = tuple(number / 4 for number in range(-1, 19))  # severities whose size and outline are compared
COLOURS = tuple(number / 8 for number in range(33))  # severities whose colours are
OUTLINES = 6  # drawings of each shape, with other spikes, whose mean is compared
WIDTHS = (0.88, 1.0, 1.12)  # of the belly, over the range that is drawn
NEAREST = 4  # places that are compared by rings
HALF = 9  # pixels from the middle of what is compared to its sides
RING = 0.75  # pixels: width of a ring
TEMPERATURE = (
    0.04  # how much farther than the nearest one a drawing may be (share of its error) to have a say
)
#: Share of what varies around the belly that the nearest lesion must explain for there to be one.
LEAST_EXPLAINED = 0.6

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """What a picture shows.

    Attributes:
        severity: 0 to 4, the mean of what size and colour say.
        explained: Share (at most 1) of what varies around the belly that the nearest drawing explains; low where there
            is no lesion, or a creature that is none.
    """

    severity: float
    explained: float

    @property
    def score(self) -> int | None:
        """1 to 4; None where no lesion is seen."""
        return lesions.score_of(self.severity) if self.explained >= LEAST_EXPLAINED else None


def read_lesions(images: Sequence[Image.Image], class_name: str) -> list[Reading]:
    """Returns what each 64x64 picture of a creature of this class shows.

    Raises:
        ValueError: A picture has another size.
    """
    sizes = sorted({image.size for image in images} - {(SIZE, SIZE)})
    if sizes:
        raise ValueError(f"lesions are read off pictures of {SIZE}x{SIZE}, not {sizes}; resize them first")
    atlas = _atlas(class_name)
    return [_read(np.asarray(image.convert("RGB"), dtype=np.float64), atlas) for image in images]


@dataclass(frozen=True)
class _Drawings:
    """Lesions as they are compared: D drawings, each as N weighted values (pixels, or means of rings).

    Attributes:
        shapes: Shape (D,), the severity of each.
        fur: Shape (D, N), of length 1 or 0: what fur of any colour shows beside the lesion.
        parts: Shape (D, 4, N): rim, middle, crust and bare belly, without what fur can show.
        products: Shape (D, 4, 4): of those parts with each other.
    """

    shapes: _Floats
    fur: _Floats
    parts: _Floats
    products: _Floats

    @classmethod
    def of(cls, drawn: Iterable[tuple[float, _Floats]]) -> _Drawings:
        """From the severity of each and how much of each value is rim, middle, crust, belly and fur, shape (5, N)."""
        shapes, seen = zip(*drawn, strict=True)
        values = np.stack(seen)
        length = np.linalg.norm(values[:, 4], axis=1, keepdims=True)
        fur = values[:, 4] / np.maximum(length, 1e-9)
        parts = values[:, :4]
        parts = parts - (parts @ fur[:, :, None]) * fur[:, None, :]
        return cls(np.array(shapes), fur, parts, parts @ parts.transpose(0, 2, 1))

    def errors(self, places: _Floats, colours: _Floats) -> _Floats:
        """Squared distances of every drawing in every choice of colours from what is seen in every place.

        Args:
            places: Shape (P, N, 3).
            colours: Shape (K, 4, 3).

        Returns:
            Shape (D, K, P).
        """
        stacked = np.ascontiguousarray(places.transpose(1, 0, 2)).reshape(places.shape[1], -1)
        on_fur = (self.fur @ stacked).reshape(len(self.fur), len(places), 3)
        on_parts = (self.parts.reshape(-1, places.shape[1]) @ stacked).reshape(-1, 4, len(places), 3)
        left = (places**2).sum(axis=(1, 2)) - (on_fur**2).sum(axis=2)
        own = np.einsum("kac,dab,kbc->dk", colours, self.products, colours, optimize=True)
        count = len(colours)
        along = colours.reshape(count, -1) @ on_parts.transpose(0, 1, 3, 2).reshape(len(self.fur), 12, -1)
        return left[:, None, :] - 2 * along + own[:, :, None]


@dataclass(frozen=True)
class _Place:
    """What is compared where the middle of a lesion is at a fraction of a pixel.

    Attributes:
        sought: Pixels of a few lesions.
        known: Rings of all.
        bare: Rings of bellies without one.
        rings: Shape (rings, pixels): turns pixels into rings, each weighted by the root of how many pixels it has.
    """

    sought: _Drawings
    known: _Drawings
    bare: _Drawings
    rings: _Floats


@dataclass(frozen=True)
class _Atlas:
    """All lesions of a class.

    Attributes:
        places: One for each fraction of a pixel.
        middles: Pixels (x, y) about which a lesion is looked for: two where mirrored creatures have it elsewhere.
        weights: Shape (pixels,): how much a pixel counts where the place is sought, as square roots.
    """

    places: tuple[_Place, ...]
    middles: tuple[tuple[int, int], ...]
    weights: _Floats


def _read(picture: _Floats, atlas: _Atlas) -> Reading:
    windows = _windows(picture, atlas.middles)
    weighted = windows * atlas.weights[:, None]
    errors = [place.sought.errors(weighted, _colours(SOUGHT)).min(axis=(0, 1)) for place in atlas.places]
    order = np.argsort(np.stack(errors), axis=None, kind="stable")[:NEAREST]
    found = []
    for fraction, window in zip(*np.unravel_index(order, (len(errors), len(windows))), strict=True):
        place = atlas.places[fraction]
        rings = (place.rings @ windows[window])[None]
        distances = place.known.errors(rings, _colours(COLOURS))[:, :, 0]
        found.append((float(distances.min()), place, rings, distances))
    least, place, rings, distances = min(found, key=lambda one: one[0])
    say = np.exp(-(distances - least) / max(least * TEMPERATURE, 1e-9))
    say /= say.sum()
    shape = float(say.sum(axis=1) @ place.known.shapes)
    colour = float(say.sum(axis=0) @ np.repeat(COLOURS, len(SKINS)))
    bare = float(place.bare.errors(rings, _colours((0.0,))).min())
    return Reading(min(lesions.WORST, max(0.0, (shape + colour) / 2)), 1 - least / max(bare, 1e-9))


def _windows(picture: _Floats, middles: Sequence[tuple[int, int]]) -> _Floats:
    """The pixels about every place that is tried, shape (places, pixels, 3)."""
    margin, side = HALF + REACH, 2 * HALF + 1
    padded = np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    return np.stack(
        [
            padded[y + down : y + down + side, x + right : x + right + side].reshape(-1, 3)
            for x, y in middles
            for down in range(2 * REACH + 1)
            for right in range(2 * REACH + 1)
        ]
    )


@cache
def _atlas(class_name: str) -> _Atlas:
    """A second's work."""
    x, y = lesions.place_of(class_name)
    column, row = round(x), round(y)
    mirrored = SIZE - 1 - column if abs(x - SIZE / 2) > REACH else column
    full = 7 * lesions.size_of(class_name)
    weights = np.sqrt(np.clip((full + 2.5 - _distances(0.0, 0.0)) / 2.5, 0, 1))
    places = []
    for right in HALVES:
        for down in HALVES:
            shift = (column + 0.5 + right - x, row + 0.5 + down - y)

            def seen(
                shape: float | None, outline: int, width: float, shift: tuple[float, float] = shift
            ) -> _Floats:
                return _seen(class_name, shape, outline, width, shift, (column, row))

            rings = _rings(_distances(right, down), full + 2.5)
            sought = _Drawings.of((shape, seen(shape, 0, 1.0) * weights) for shape in SOUGHT)
            known = _Drawings.of(
                (
                    shape,
                    np.mean([seen(shape, outline, width) for outline in range(OUTLINES)], axis=0) @ rings.T,
                )
                for shape in SHAPES
                for width in WIDTHS
            )
            bare = _Drawings.of((0.0, seen(None, 0, width) @ rings.T) for width in WIDTHS)
            places.append(_Place(sought, known, bare, rings))
    return _Atlas(tuple(places), tuple(dict.fromkeys([(column, row), (mirrored, row)])), weights)


def _seen(
    class_name: str,
    shape: float | None,
    outline: int,
    width: float,
    shift: tuple[float, float],
    middle: tuple[int, int],
) -> _Floats:
    """How much of each pixel about `middle` is rim, middle and crust of a lesion, belly and fur, shape (5, pixels)."""
    lesion = np.zeros(((2 * HALF + 1) ** 2, 3))
    if shape is not None:
        lesion = _window(_parts(class_name, shape, outline, shift), middle)
    belly = _window(_belly(class_name, width, shift), middle)[:, 0]
    bare = 1 - lesion.sum(axis=1)
    return np.stack([*lesion.T, bare * belly, bare * (1 - belly)])


@cache
def _parts(class_name: str, shape: float, outline: int, shift: tuple[float, float]) -> Image.Image:
    look = lesions.draw_look(np.random.default_rng(outline), shape, noise=0.0)
    canvas = Canvas(shift=shift)
    lesions.draw_parts(canvas, look, class_name, ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    return canvas.finish()


@cache
def _belly(class_name: str, width: float, shift: tuple[float, float]) -> Image.Image:
    canvas = Canvas(shift=shift)
    x, y, across, along = ANATOMY[class_name].belly
    canvas.ellipse(x, y, across * width, along, (255, 255, 255))
    return canvas.finish()


def _window(image: Image.Image, middle: tuple[int, int]) -> _Floats:
    """The pixels about a place, in 0..1, shape (pixels, 3)."""
    pixels = np.pad(np.asarray(image, dtype=np.float64) / 255, ((HALF, HALF), (HALF, HALF), (0, 0)))
    side = 2 * HALF + 1
    return pixels[middle[1] :, middle[0] :][:side, :side].reshape(-1, 3)


def _distances(right: float, down: float) -> _Floats:
    """Of each pixel from a place near the middle one, in pixels."""
    rows, columns = np.indices((2 * HALF + 1, 2 * HALF + 1)) - HALF
    return np.hypot(columns - right, rows - down).reshape(-1)


def _rings(distances: _Floats, farthest: float) -> _Floats:
    rings = (distances // RING).astype(int)
    members = np.stack([rings == ring for ring in range(int(farthest / RING))]).astype(np.float64)
    count = members.sum(axis=1, keepdims=True)
    return (members / np.sqrt(np.maximum(count, 1)))[count[:, 0] > 0]


@cache
def _colours(severities: tuple[float, ...]) -> _Floats:
    """Colours of rim, middle, crust and belly at each severity and with each of `SKINS`, shape (K, 4, 3)."""
    return np.array(
        [(*lesions.colours_of(severity), skin) for severity in severities for skin in SKINS],
        dtype=np.float64,
    )
