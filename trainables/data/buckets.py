"""Aspect-ratio buckets: the sizes that training images may have, which one an image gets, and how it is cut to it.

As in kohya's sd-scripts (``BucketManager``): all buckets have nearly the same area, an image gets the one whose ratio
is nearest to its own, is scaled until it covers it, and loses what stands over on both sides. The measure is
``|log(ratio / ratio)|``, which treats wide and tall alike; kohya's difference of ratios does not. Nothing here needs
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from PIL import Image

Size = tuple[int, int]  # width, height


def bucket_sizes(resolution: int, step: int, smallest: int, largest: int) -> tuple[Size, ...]:
    """Returns the buckets of a resolution, the square first, the others by width: each with its turned twin.

    Args:
        resolution: Pixels whose square is the largest area of a bucket.
        step: Of which all sides are multiples: the pixels that one point of the denoiser's coarsest map stands for.
        smallest: Pixels that a shorter side has at least; the square has them whatever its side is.
        largest: Pixels that a longer side has at most.

    Raises:
        ValueError: `resolution` has not even one step, or a number is below 1.
    """
    if min(resolution, step, smallest, largest) < 1 or resolution < step:
        raise ValueError(
            f"buckets of resolution {resolution} in steps of {step} from {smallest} to {largest} pixels: all must be "
            "at least 1, and the resolution at least one step"
        )
    side = resolution // step * step
    sizes: set[Size] = set()
    for width in range(-(-smallest // step) * step, largest + 1, step):
        height = min(largest, resolution * resolution // width) // step * step
        if height >= smallest:
            sizes |= {(width, height), (height, width)}
    return ((side, side), *sorted(sizes - {(side, side)}))


def buckets_of(resolution: int, step: int) -> tuple[Size, ...]:
    """Returns the buckets from half to twice the resolution, which at 512 are kohya's defaults (256 to 1024)."""
    return bucket_sizes(resolution, step, max(step, resolution // 2), 2 * resolution)


def nearest_bucket(size: Size, buckets: Sequence[Size]) -> Size:
    """Returns the bucket with the least ``|log ratio|`` to an image of `size`, the first of those that are equal.

    Of the buckets of a resolution no image is enlarged more than it would be to the square of that resolution, which
    is the rule that images are checked by: a bucket that is nearer than the square has at most the square of the
    image's own ratio and at most the resolution's area, so that neither side needs a larger factor. (Where the
    resolution is no multiple of the step, the square among the buckets is smaller than that, and a nearer bucket may
    need a larger factor than it.) Images that are smaller than their bucket are enlarged: see `enlargement`.

    Raises:
        ValueError: There is no bucket.
    """
    width, height = size

    def distance(bucket: Size) -> Fraction:
        # Grows with |log ratio|, and is exact: what is equally near must not be told apart by rounding.
        one, other = width * bucket[1], height * bucket[0]
        return Fraction(max(one, other), min(one, other))

    return min(buckets, key=distance)


def enlargement(size: Size, bucket: Size) -> float:
    """Returns the factor by which an image is scaled until it covers a bucket; above 1 it is enlarged.

    It leaves out that the part which is cut out has whole pixels, at most half a pixel beside the exact one.
    """
    return max(bucket[0] / size[0], bucket[1] / size[1])


def cover_box(size: Size, bucket: Size) -> tuple[int, int, int, int]:
    """Returns the middle part of an image that has a bucket's ratio: left, top, right, bottom, in its own pixels.

    It is the largest such part, rounded to whole pixels; of a square bucket that of `images.square`.
    """
    width, height = size
    if width * bucket[1] >= height * bucket[0]:
        part = min(width, max(1, round(height * bucket[0] / bucket[1]))), height
    else:
        part = width, min(height, max(1, round(width * bucket[1] / bucket[0])))
    left, top = (width - part[0]) // 2, (height - part[1]) // 2
    return left, top, left + part[0], top + part[1]


def cut(image: Image.Image, bucket: Size) -> Image.Image:
    """Cuts an image to a bucket: its middle part, resized to the bucket's pixels, anti-aliased (Lanczos).

    To a square bucket it does, bit for bit, what `images.square` does.
    """
    # Cropped first: a resize with a box would let the filter see pixels beyond the crop.
    part = image.crop(cover_box(image.size, bucket))
    return part.resize(bucket, Image.Resampling.LANCZOS, reducing_gap=3.0)


def geometry_in(size: Size, bucket: Size) -> tuple[float, ...]:
    """Returns what SDXL is told of an image: height and width of the file, top, left, height and width of the crop.

    Args:
        size: Width and height of the upright image, before anything was done to it.
        bucket: To which it was cut; top and left count pixels of the image resized to where the crop has that size.
    """
    left, top, right, bottom = cover_box(size, bucket)
    top, left = round(top * bucket[1] / (bottom - top)), round(left * bucket[0] / (right - left))
    return tuple(map(float, (size[1], size[0], top, left, bucket[1], bucket[0])))
