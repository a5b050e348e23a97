"""How blurred a picture is, without another one to compare it with.

Crete et al. 2007 (The blur effect: perception and estimation with a new no-reference perceptual blur metric, SPIE
6492): a picture is blurred once more, and what its differences between neighbours lose by that is little where it was
blurred already. Nothing here needs torch.

Limits are calibrated on 32 photographs of six things and on all subjects of the embedded world. From 224 pixels on,
sharp photographs have at most 0.48, and those blurred by a Gaussian of three pixels at least 0.63. Below, sharp
photographs have at most 0.58 and renders 0.68, those blurred by two pixels at least 0.74. Of large pictures that are
blurred by two pixels about half are found. ``python -m benchmarks.measures blur`` measures it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGE = 224  # pixels; from there on the window is that of the paper
_WINDOWS = {True: 11, False: 5}  # pixels, of the second blur; large or not
_LIMITS = {True: 0.6, False: 0.72}
_FLAT = 0.1  # of 255, mean difference of neighbours; below there is nothing to be sharp or blurred


def blur_of(image: Image.Image) -> float:
    """Returns how blurred a picture is, from 0 (sharp) to 1, in the direction in which it is more so.

    It is 0 of a picture in which there is next to nothing to see.

    Args:
        image: Of any mode, at the size at which it is looked at.
    """
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    window = _WINDOWS[_is_large(image)]
    return max(_blur_along(grey, window), _blur_along(grey.T, window))


def blur_limit(image: Image.Image) -> float:
    """Returns the value of `blur_of` above which a picture of this size is taken for blurred."""
    return _LIMITS[_is_large(image)]


def _is_large(image: Image.Image) -> bool:
    return min(image.size) >= LARGE


def _blur_along(grey: NDArray[np.float64], window: int) -> float:
    """The blur along the first axis of a picture [h, w]."""
    half = window // 2
    if len(grey) <= half:
        return 0.0
    sums = np.cumsum(np.pad(grey, ((half + 1, half), (0, 0)), mode="reflect"), axis=0)
    again = (sums[window:] - sums[:-window]) / window
    before, after = np.abs(np.diff(grey, axis=0)), np.abs(np.diff(again, axis=0))
    if before.mean() < _FLAT:
        return 0.0
    lost = np.maximum(0, before - after).sum()
    return float(1 - lost / before.sum())
