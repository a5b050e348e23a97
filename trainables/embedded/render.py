"""Draw an identity in a setting: pure functions of their arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from trainables.embedded import creatures, scenes
from trainables.embedded.canvas import SIZE, Canvas
from trainables.embedded.world import Identity, Setting

if TYPE_CHECKING:
    import numpy as np


def render(identity: Identity, setting: Setting) -> Image.Image:
    """A 64x64 RGB picture; equal arguments give equal pixels."""
    return draw(identity, setting).finish()


def draw(identity: Identity, setting: Setting) -> Canvas:
    """The picture that `render` finishes, still on its canvas."""
    canvas, rng = _scene(setting)
    _draw_creature(canvas, identity, rng)
    creatures.draw_accessory(canvas, setting.accessory, identity.class_name)
    return canvas


def draw_scene(setting: Setting) -> Canvas:
    """The same without a creature and what it wears."""
    return _scene(setting)[0]


def render_mask(identity: Identity, setting: Setting) -> Image.Image:
    """Where `render` shows the creature, 64x64 8-bit grey: how much of each pixel it covers, accessories left out."""
    import numpy as np

    seen = []
    for backdrop in ((0, 0, 0), (255, 255, 255)):
        canvas, rng = _scene(setting)
        canvas.rect(0, 0, SIZE, SIZE, backdrop)
        _draw_creature(canvas, identity, rng)
        seen.append(np.asarray(canvas.finish(), dtype=np.float64))
    # What the creature does not cover shows the backdrop: black in one picture, white in the other.
    covered = 255 - np.abs(seen[1] - seen[0]).mean(axis=2)
    return Image.fromarray(np.round(covered).astype(np.uint8))


def _scene(setting: Setting) -> tuple[Canvas, np.random.Generator]:
    """A canvas with the scene, and the stream that goes on with what stands in it."""
    import numpy as np

    rng = np.random.default_rng(setting.seed)
    canvas = Canvas()
    scenes.DRAW[setting.scene](canvas, rng)
    return canvas, rng


def _draw_creature(canvas: Canvas, identity: Identity, rng: np.random.Generator) -> None:
    # Mirrored pictures leave room for the balloon on the other side.
    canvas.shift = (float(rng.uniform(-2, 2)), float(rng.uniform(-1.5, 1)))
    canvas.scale = float(rng.uniform(0.94, 1.04))
    canvas.mirror = bool(rng.integers(2))
    creatures.draw_creature(canvas, identity)
