"""Which images are copies of training images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainables.subjects import image_digest


def copied(images: Sequence[Image.Image], training: Sequence[Image.Image]) -> NDArray[np.bool_]:
    """Whether each image has exactly the pixels of a training image; shape (images,)."""
    known = {image_digest(image) for image in training}
    return np.array([image_digest(image) in known for image in images], dtype=np.bool_)
