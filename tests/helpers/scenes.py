"""Made pictures that are as sharp as photographs."""

from __future__ import annotations

import numpy as np
from PIL import Image


def scene(seed: int, side: int) -> Image.Image:
    """A picture with edges of all sizes: rectangles upon rectangles."""
    draws = np.random.default_rng(seed)
    pixels = np.zeros((side, side, 3))
    for _ in range(300):
        low = draws.integers(0, side, 2)
        high = low + 1 + (draws.random(2) ** 3 * side / 2).astype(int)
        pixels[low[0] : high[0], low[1] : high[1]] = draws.integers(0, 256, 3)
    return Image.fromarray(pixels.astype(np.uint8))
