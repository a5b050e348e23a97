"""Pictures with classes, and their folder: one folder a class and a ``metadata.csv``, with fixed bytes."""

from __future__ import annotations

import csv
import io
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

METADATA = "metadata.csv"
COLUMNS = ("file_name", "class", "group", "severity")


@dataclass(frozen=True)
class ClassPicture:
    """What is known of one picture without looking at it.

    Attributes:
        group: Of pictures that belong to one part of a split, such as those of one animal; None where nobody knows.
        severity: What the class was cut from; None where classes are no grades.
    """

    name: str
    class_name: str
    group: str | None = None
    severity: float | None = None


@dataclass(frozen=True)
class ClassSet:
    """Pictures with classes; `images` gives them, 64x64 RGB, in the order of `pictures`."""

    name: str
    class_names: tuple[str, ...]
    pictures: tuple[ClassPicture, ...]
    images: Callable[[], tuple[Image.Image, ...]]


def write_class_folder(shown: ClassSet, folder: Path) -> Path:
    """Writes ``CLASS/NAME.png`` and ``metadata.csv`` with the columns `COLUMNS`; what is not known is empty.

    The folder appears when it is complete. Pictures are PNG without compression, as the bytes that compression makes
    are not the same with every version of zlib.

    Returns:
        The folder.

    Raises:
        ValueError: The folder is there and holds something, or is a file.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty; name a folder that does not exist yet")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for class_name in shown.class_names:
            (made / class_name).mkdir()
        for one, image in zip(shown.pictures, shown.images(), strict=True):
            (made / _file_name(one)).write_bytes(png_bytes(image))
        (made / METADATA).write_bytes(metadata_text(shown).encode())
        made.chmod(0o755)  # mkdtemp's folders are the owner's alone
        os.replace(made, folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return folder


def metadata_text(shown: ClassSet) -> str:
    """The lines of ``metadata.csv``, severities with six decimals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in shown.pictures:
        severity = "" if one.severity is None else f"{one.severity:.6f}"
        writer.writerow((_file_name(one), one.class_name, one.group or "", severity))
    return text.getvalue()


def png_bytes(image: Image.Image) -> bytes:
    """A PNG of an RGB picture of less than 64 KiB, stored: a function of the pixels alone.

    Raises:
        ValueError: The picture is larger, or not RGB.
    """
    width, height = image.size
    if image.mode != "RGB" or (raw_size := height * (1 + 3 * width)) >= 2**16:
        raise ValueError(
            f"a stored PNG is made of RGB pictures below 64 KiB, not of {image.mode} {image.size}"
        )
    rows, pixels = 3 * width, image.tobytes()
    raw = b"".join(b"\0" + pixels[start : start + rows] for start in range(0, len(pixels), rows))
    # zlib (RFC 1950, 1951): header, one block that is the last and stored, its length and complement, checksum.
    block = struct.pack("<BHH", 1, raw_size, raw_size ^ 0xFFFF) + raw
    stored = b"\x78\x01" + block + struct.pack(">I", zlib.adler32(raw))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", stored), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _file_name(one: ClassPicture) -> str:
    return f"{one.class_name}/{one.name}.png"
