"""Draw an identity in a setting: a pure function of its arguments."""

from __future__ import annotations

from PIL import Image

from trainables.embedded import creatures, scenes
from trainables.embedded.canvas import Canvas
from trainables.embedded.world import Identity, Setting


def render(identity: Identity, setting: Setting) -> Image.Image:
    """A 64x64 RGB picture; equal arguments give equal pixels."""
    import numpy as np

    rng = np.random.default_rng(setting.seed)
    canvas = Canvas()
    scenes.DRAW[setting.scene](canvas, rng)
    # Mirrored pictures leave room for the balloon on the other side.
    canvas.shift = (float(rng.uniform(-2, 2)), float(rng.uniform(-1.5, 1)))
    canvas.scale = float(rng.uniform(0.94, 1.04))
    canvas.mirror = bool(rng.integers(2))
    creatures.draw_creature(canvas, identity)
    creatures.draw_accessory(canvas, setting.accessory, identity.class_name)
    return canvas.finish()
