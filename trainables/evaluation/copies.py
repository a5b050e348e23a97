"""Which generated images are copies of a training image.

Nearest neighbour in pixels: every image is reduced to 64x64 and blurred a little, so that size, compression, noise
and the autoencoder leave no trace, and compared with each training image, mirrored or not, at every shift of up to two
pixels. Standardised contrast takes brightness out. A copy must agree on the whole (correlation) *and* in every part
(the worst block), because two pictures of the same subject on the same ground correlate highly as well, while some
part of them is always different.

The thresholds are calibrated on the embedded world and on photographs: ``python -m benchmarks.measures copies``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

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

_POOL = 6  # pixels of `SIDE` on a side, of which coarse pictures have the mean; a divisor of SIDE - 2 * SHIFT
_AT_ONCE = 64  # training images that are reduced together; 64 take 50 MB

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
    found[copy_pairs(images, training)] = True
    return found


def copy_pairs(
    images: Sequence[Image.Image], training: Sequence[Image.Image]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Returns the numbers of images that are copies, and those of the training images of which they are, see `copied`.

    Only pairs that can be copies are compared in full, so that thousands of each take seconds.

    Returns:
        Two arrays of one length, in the order of the training images.
    """
    found: list[tuple[NDArray[np.intp], int]] = [(np.empty(0, dtype=np.intp), 0)]
    if not len(images):
        return found[0][0], found[0][0]
    inner = slice(SHIFT, SHIFT + _INNER)
    # As bytes, which they are: thousands of them as floats are gigabytes.
    rows = np.stack([_reduced(image)[inner, inner].astype(np.uint8) for image in images])
    coarse = np.concatenate([_pooled(_standardised(row.astype(np.float32))[None]) for row in rows])
    for first in range(0, len(training), _AT_ONCE):
        for column, views, candidates in _candidates(coarse, training[first : first + _AT_ONCE]):
            standardised = np.stack([_standardised(rows[row].astype(np.float32)) for row in candidates])
            itself = training[first + column]
            own = np.array([images[row] is itself for row in candidates.tolist()], dtype=np.bool_)
            if images is training:
                own |= candidates == first + column
            # A picture is a copy of itself, unless it is so flat that nothing is.
            own &= (standardised**2).mean(axis=(1, 2, 3)) >= SAME_WHOLE
            found.append((candidates[own], first + column))
            if not own.all():
                correlation, difference = _compared(
                    standardised[~own], np.concatenate([_alignments(view) for view in views])
                )
                is_copy = (correlation >= SAME_WHOLE) & (difference <= SAME_PART)
                found.append((candidates[~own][is_copy], first + column))
    columns = np.repeat([column for _, column in found], [len(numbers) for numbers, _ in found])
    return np.concatenate([numbers for numbers, _ in found]), columns


def _candidates(
    coarse: Array, training: Sequence[Image.Image]
) -> Iterator[tuple[int, list[Array], NDArray[np.intp]]]:
    """Yields training images that may have copies, by their number, with their squares and the pictures in question.

    None is missed: standardised pictures x and y have mean squares of at most 1, so that a correlation of SAME_WHOLE
    means a mean square of x - y of 2 - 2 SAME_WHOLE at most, and means over blocks of x - y have no larger one. The
    shifts y of a training image lie in a ball, so that most pictures x are too far from all of them at once.

    Args:
        coarse: What `_pooled` makes of the pictures, standardised.
    """
    pictures = [[_reduced(view) for view in _squares(image)] for image in training]
    owner = np.array([number for number, views in enumerate(pictures) for _ in views])
    squares = (coarse**2).mean(axis=1)
    aligned = _coarse_alignments(np.stack([view for views in pictures for view in views]))
    most = 2 - 2 * SAME_WHOLE + 1e-3
    in_ball = _in_balls(coarse, squares, aligned, math.sqrt(most))
    for number, views in enumerate(pictures):
        own = owner == number
        near = np.flatnonzero(in_ball[:, own].any(axis=1))
        if not len(near):
            continue
        shifts = aligned[own].reshape(-1, coarse.shape[1])
        table = coarse[near] @ shifts.T / coarse.shape[1]
        distance = squares[near, None] + (shifts**2).mean(axis=1) - 2 * table
        near = near[(distance <= most).any(axis=1)]
        if len(near):
            yield number, views, near


def _in_balls(coarse: Array, squares: NDArray[np.float32], aligned: Array, reach: float) -> NDArray[np.bool_]:
    """Says of each picture and each view of a training image whether some shift of it may lie within `reach`.

    Args:
        squares: Mean squares of `coarse`.
        aligned: Of `_coarse_alignments`.
        reach: Root mean square.

    Returns:
        Shape (pictures, views).
    """
    # A picture and its mirror image lie far from each other: each has a ball.
    halves = aligned.reshape(len(aligned), -1, 2, aligned.shape[2])
    centres = halves.mean(axis=1)
    radii = np.sqrt(((halves - centres[:, None]) ** 2).mean(axis=3).max(axis=1))
    table = coarse @ centres.reshape(-1, coarse.shape[1]).T / coarse.shape[1]
    distance = squares[:, None] + (centres**2).mean(axis=2).ravel() - 2 * table
    inside = distance <= (radii.ravel() + reach) ** 2 + 1e-3
    return np.asarray(inside.reshape(len(coarse), len(aligned), 2).any(axis=2))


def _pooled(pictures: Array) -> Array:
    """Means over blocks of `_POOL` pixels, one row a picture."""
    count = pictures.shape[1] // _POOL
    return (
        pictures.reshape(len(pictures), count, _POOL, count, _POOL, 3)
        .mean(axis=(2, 4))
        .reshape(len(pictures), -1)
    )


def _coarse_alignments(pictures: Array) -> Array:
    """Returns what `_pooled` makes of the `_alignments` of pictures, shape (pictures, 50, values), without making
    these: means over blocks are differences of sums.
    """
    mean = _means(pictures, _INNER).mean(axis=3)
    square = _means(pictures.astype(np.float64) ** 2, _INNER).mean(axis=3)
    contrast = np.maximum(np.sqrt(np.maximum(square - mean**2, 0.0)), LEAST_CONTRAST)
    blocks = _means(pictures, _POOL)
    found = []
    for top in range(2 * SHIFT + 1):
        for left in range(2 * SHIFT + 1):
            grid = blocks[:, top : top + _INNER : _POOL, left : left + _INNER : _POOL]
            shape = (len(pictures), 1, 1, 1)
            view = (grid - mean[:, top, left].reshape(shape)) / contrast[:, top, left].reshape(shape)
            found += [view.reshape(len(pictures), -1), view[:, :, ::-1].reshape(len(pictures), -1)]
    return np.stack(found, axis=1).astype(np.float32)


def _means(pictures: Array | NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Means over all squares of `side` pixels in pictures, by their upper left corner; the channels stay apart."""
    sums = np.zeros((len(pictures), SIDE + 1, SIDE + 1, 3))
    sums[:, 1:, 1:] = pictures.cumsum(axis=1, dtype=np.float64).cumsum(axis=2)
    rows = sums[:, side:] - sums[:, :-side]
    return (rows[:, :, side:] - rows[:, :, :-side]) / side**2


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
