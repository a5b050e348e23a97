"""Which generated images are copies of a training image.

Nearest neighbour in pixels: every image is reduced to 64x64 and blurred a little, so that size, compression, noise
and the autoencoder leave no trace, and compared with each training image, mirrored or not, at every shift of up to two
pixels. Standardised contrast takes brightness out. A copy must agree on the whole (correlation) *and* in every part
(the worst block), because two pictures of the same subject on the same ground correlate highly as well, while some
part of them is always different.

The thresholds are calibrated on the embedded world and on photographs: ``python -m benchmarks.measures copies``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

SIDE = 64  # pixels to which everything is reduced
SHIFT = 2  # pixels of `SIDE` in each direction: 3 % of the picture
BLUR = 1.0  # pixels of `SIDE`, radius of a Gaussian
BLOCK = 10  # pixels of `SIDE`: the part in which a copy must agree as well; a divisor of SIDE - 2 * SHIFT
LEAST_CONTRAST = 8.0  # of 255; flatter pictures are not stretched, or their noise would decide

SAME_WHOLE = 0.97  # correlation: copies have at least 0.98, photographs of the same subject up to 0.97
SAME_PART = (
    0.6  # in standard deviations of the picture: copies differ by up to 0.5, other scenes by 0.7 and more
)

_COARSE = 16  # pixels at which pairs that cannot be copies are told apart
MAY_BE = 0.8  # correlation there, below which no two pictures are copies

_INNER = SIDE - 2 * SHIFT

Array = NDArray[np.float32]


def copied(images: Sequence[Image.Image], training: Sequence[Image.Image]) -> NDArray[np.bool_]:
    """Says of each image whether it is a copy of a training image, exact or near.

    Mirrored, shifted (3 %), recompressed, slightly brighter or noisier copies count, and what the autoencoder makes of
    a training image. Other scenes of the same subject do not.

    Args:
        images: Of any size and mode.
        training: Of any size and mode; without any, nothing is a copy.

    Returns:
        Shape (images,).
    """
    return np.asarray(copies(images, training).any(axis=1))


def copies(images: Sequence[Image.Image], training: Sequence[Image.Image]) -> NDArray[np.bool_]:
    """Says of each image of which training images it is a copy, see `copied`: shape (images, training)."""
    found = np.zeros((len(images), len(training)), dtype=np.bool_)
    if not len(images):
        return found
    inner = slice(SHIFT, SHIFT + _INNER)
    rows = np.stack([_standardised(_reduced(image)[inner, inner]) for image in images])
    for column, image in enumerate(training):
        aligned = np.concatenate([_alignments(_reduced(view)) for view in _squares(image)])
        correlation, difference = _compared(rows, aligned)
        found[:, column] = (correlation >= SAME_WHOLE) & (difference <= SAME_PART)
    return found


def copies_of_many(images: Sequence[Image.Image], training: Sequence[Image.Image]) -> NDArray[np.bool_]:
    """Returns `copies` of hundreds of images at a fraction of the work: only pairs that may be copies are compared.

    A copy is shifted by half a pixel at most when both are reduced to `_COARSE` pixels, and what is left of them there
    still correlates far beyond `MAY_BE`; so do few other pairs.
    """
    found = np.zeros((len(images), len(training)), dtype=np.bool_)
    if not len(images) or not len(training):
        return found
    rows, columns = _coarse(images), _coarse(training)
    mirrored = columns.reshape(len(columns), _COARSE, _COARSE, 3)[:, :, ::-1].reshape(len(columns), -1)
    candidates = np.maximum(rows @ columns.T, rows @ mirrored.T) / rows.shape[1] >= MAY_BE
    for column in range(len(training)):
        others = [int(row) for row in np.flatnonzero(candidates[:, column])]
        near = [row for row in others if images[row] is not training[column]]
        if near:
            found[near, column] = copies([images[row] for row in near], [training[column]])[:, 0]
        found[[row for row in others if images[row] is training[column]], column] = True
    return found


def _coarse(images: Sequence[Image.Image]) -> Array:
    """One standardised row an image, of its mean colours on a coarse grid."""
    step = SIDE // _COARSE
    reduced = np.stack([_reduced(image) for image in images])
    grid = reduced.reshape(len(images), _COARSE, step, _COARSE, step, 3).mean(axis=(2, 4))
    return np.stack([_standardised(one).ravel() for one in grid])


def _compared(rows: Array, aligned: Array) -> tuple[Array, Array]:
    """Compares standardised pictures with all alignments of one training image.

    Returns:
        For each picture the correlation at the best alignment, in [-1, 1], and there the root mean square difference
        in the worst block, in standard deviations of the picture's pixels.
    """
    flat = rows.reshape(len(rows), -1)
    table = flat @ aligned.reshape(len(aligned), -1).T / flat.shape[1]
    best = table.argmax(axis=1)
    count = _INNER // BLOCK
    squares = ((rows - aligned[best]) ** 2).mean(axis=-1)
    blocks = squares.reshape(len(rows), count, BLOCK, count, BLOCK).mean(axis=(2, 4))
    return table[np.arange(len(rows)), best], np.sqrt(blocks.max(axis=(1, 2)))


def _squares(image: Image.Image) -> tuple[Image.Image, ...]:
    """What of a picture may come back as a square: itself; if it is none, its middle, and the whole of it."""
    width, height = image.size
    if width == height:
        return (image,)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side)), image


def _reduced(image: Image.Image) -> Array:
    """Returns shape (SIDE, SIDE, 3), values in 0..255."""
    picture = image.convert("RGB")
    if picture.size != (SIDE, SIDE):
        # Averages whole areas, so that detail of large pictures does not alias.
        picture = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(BLUR)), dtype=np.float32)


def _alignments(picture: Array) -> Array:
    """Returns every shift of a picture and of its mirror image, standardised, shape (50, 60, 60, 3)."""
    views = [
        view[top : top + _INNER, left : left + _INNER]
        for view in (picture, picture[:, ::-1])
        for top in range(2 * SHIFT + 1)
        for left in range(2 * SHIFT + 1)
    ]
    return np.stack([_standardised(view) for view in views])


def _standardised(picture: Array) -> Array:
    """Takes brightness and contrast out, over all channels together, so that colours stay what they are."""
    centred = picture - picture.mean()
    return (centred / max(float(centred.std()), LEAST_CONTRAST)).astype(np.float32)
