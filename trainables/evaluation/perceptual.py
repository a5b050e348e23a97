"""How different images look."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image


def diversity(images: Sequence[Image.Image], prompt_of_image: Sequence[int]) -> float | None:
    """Mean over prompts of the mean pairwise difference of the images of one prompt.

    Returns:
        A value in [0, 1]; None if no prompt has two images.
    """
    groups = np.asarray(prompt_of_image)
    pixels = np.stack([np.asarray(image, dtype=np.float64) / 255 for image in images])
    means = []
    for prompt in np.unique(groups):
        members = pixels[groups == prompt]
        pairs = [np.abs(one - other).mean() for i, one in enumerate(members) for other in members[:i]]
        if pairs:
            means.append(np.mean(pairs))
    return float(np.mean(means)) if means else None
