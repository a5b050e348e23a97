"""Decoded images of a large data set, which need not all be in memory: those beyond a limit lie in a temporary file.

Ten thousand images of 512 x 512 pixels are 8 GB, in every process that trains on them. They are read one at a time (to
be encoded, digested, compared), in order, so that a file serves; it has no name, and goes when the last image of it is
forgotten, or with the process.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, overload

from PIL import Image

from trainables.data.buckets import Size
from trainables.errors import UserError

#: Bytes of pixels that stay in memory: 1365 images of 512 x 512.
IN_MEMORY_BYTES = 1 << 30


class ImageStore:
    """Takes images in, and keeps those that come first in memory, all others in a file.

    Args:
        limit: Bytes of pixels in memory, at most; None: `IN_MEMORY_BYTES`.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._left = IN_MEMORY_BYTES if limit is None else limit
        self._file: IO[bytes] | None = None
        self._end = 0

    def keep(self, image: Image.Image) -> StoredImage:
        """Returns where an image can be had again, bit for bit.

        Raises:
            UserError: The folder for temporary files has no room for it.
        """
        pixels = image.tobytes()
        if len(pixels) <= self._left:
            self._left -= len(pixels)
            return StoredImage(image)
        self._left = 0  # the order of reading is that of the file
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it lives as long as its images
            place = self._end
            self._end += _write_all(self._file, pixels, place)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"the folder for temporary files, {tempfile.gettempdir()}, is full with {self._end / 1e9:.1f} GB of "
                "the images of a data set, which needs more; make room, set TMPDIR to a folder on a larger disk, or "
                "take a smaller training.resolution"
            ) from error
        return StoredImage(None, self._file, place, image.size, image.mode, len(pixels))


class StoredImage:
    """An image in memory, or the part of a file that has its pixels."""

    def __init__(
        self,
        image: Image.Image | None,
        file: IO[bytes] | None = None,
        place: int = 0,
        size: Size = (0, 0),
        mode: str = "RGB",
        length: int = 0,
    ) -> None:
        self._image = image
        self._file = file
        self._place = place
        self._mode = mode
        self._length = length
        self.size = size if image is None else image.size

    def open(self) -> Image.Image:
        """Returns the image; may be called from several threads."""
        if self._image is not None:
            return self._image
        assert self._file is not None
        pixels = bytearray()
        while len(pixels) < self._length:
            part = os.pread(self._file.fileno(), self._length - len(pixels), self._place + len(pixels))
            if not part:
                raise OSError(errno.EIO, "a temporary file with images has been cut off")
            pixels += part
        return Image.frombytes(self._mode, self.size, bytes(pixels))


class StoredImages(Sequence[Image.Image]):
    """Images in order, each of which is there while it is looked at."""

    def __init__(self, images: Iterable[StoredImage]) -> None:
        self._images = tuple(images)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Width and height of each, without reading it."""
        return tuple(image.size for image in self._images)

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Image.Image]:
        return (image.open() for image in self._images)

    @overload
    def __getitem__(self, place: int) -> Image.Image: ...

    @overload
    def __getitem__(self, place: slice) -> StoredImages: ...

    def __getitem__(self, place: int | slice) -> Image.Image | StoredImages:
        if isinstance(place, slice):
            return StoredImages(self._images[place])
        return self._images[place].open()

    def picked(self, places: Iterable[int]) -> StoredImages:
        """Returns some of them, in the order given."""
        return StoredImages(self._images[place] for place in places)


def sizes_of(images: Sequence[Image.Image]) -> tuple[Size, ...]:
    """Returns width and height of images, without reading those that lie in a file."""
    return images.sizes if isinstance(images, StoredImages) else tuple(image.size for image in images)


def picked(images: Sequence[Image.Image], places: Sequence[int]) -> Sequence[Image.Image]:
    """Returns some of the images, in the order given, without reading those that lie in a file."""
    return images.picked(places) if isinstance(images, StoredImages) else [images[place] for place in places]


def _write_all(file: IO[bytes], content: bytes, place: int) -> int:
    view = memoryview(content)
    while view:
        written = os.pwrite(file.fileno(), view, place)
        view, place = view[written:], place + written
    return len(content)
