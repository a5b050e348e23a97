"""A drawing style that pre-training never saw: flat areas in nine printing inks, thick outlines, hatched paper.

Creatures, scenes and accessories are those of the sprite world; only how they are drawn differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from trainables.embedded import render
from trainables.embedded.canvas import OVERSAMPLING
from trainables.embedded.world import RGB, Identity, Setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INK: RGB = (26, 22, 30)
PAPER: RGB = (247, 236, 208)
INKS: tuple[RGB, ...] = (
    PAPER,
    (196, 62, 48),
    (226, 152, 52),
    (92, 128, 74),
    (64, 98, 138),
    (124, 82, 120),
    (206, 150, 150),
    (112, 84, 64),
    (40, 46, 92),
)
_LINE = (
    4  # pixels of the drawing, four of which are one of the picture: width of an outline around the creature
)
_FINE = 1  # the same of all other outlines
_PITCH = 22  # from one line of the hatching to the next, along a row
_HATCH = 6  # how wide such a line is


def render_in_ink(identity: Identity, setting: Setting) -> Image.Image:
    """A 64x64 RGB picture of what `render` shows; equal arguments give equal pixels."""
    import numpy as np

    drawn = np.asarray(render.draw(identity, setting).flat())
    behind = np.asarray(render.draw_scene(setting).flat())
    figure = (drawn != behind).any(axis=2)
    printed = _printed(drawn)
    rows, columns = np.indices(figure.shape)
    hatched = ((rows + columns) % _PITCH < _HATCH) & ~figure
    printed[hatched] = PAPER
    printed[_wide(_edges(drawn), _FINE)] = INK
    printed[_wide(_edges(figure[..., None]), _LINE)] = INK
    return Image.fromarray(printed).reduce(OVERSAMPLING)


def _printed(drawn: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Every colour by the nearest ink; what is nearly black stays ink."""
    import numpy as np

    inks = np.array([*INKS, INK], dtype=np.int32)
    # One number a colour: a picture has a few dozen of them, and rows of three would be sorted slowly.
    codes, places = np.unique(drawn.astype(np.int32) @ (65536, 256, 1), return_inverse=True)
    colours = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)
    nearest = ((colours[:, None] - inks) ** 2).sum(axis=2).argmin(axis=1)
    return inks[nearest][places.reshape(-1)].reshape(drawn.shape).astype(np.uint8)


def _edges(areas: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Where a pixel differs from the next one to the right or below."""
    import numpy as np

    found = np.zeros(areas.shape[:2], dtype=np.bool_)
    found[:, :-1] |= (areas[:, 1:] != areas[:, :-1]).any(axis=2)
    found[:-1] |= (areas[1:] != areas[:-1]).any(axis=2)
    return found


def _wide(line: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """A line grown by `width` pixels to every side, as a round pen would."""
    import numpy as np

    padded = np.pad(line, width)
    found = np.zeros_like(line)
    height, length = line.shape
    for down in range(-width, width + 1):
        for right in range(-width, width + 1):
            if down * down + right * right <= width * width:
                found |= padded[width + down : width + down + height, width + right : width + right + length]
    return found
