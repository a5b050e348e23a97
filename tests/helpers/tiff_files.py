"""TIFF files with directories as cameras write them, in bytes: Pillow writes none below the first."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

REDUCED, KIND, MAKE, SUB_DIRECTORIES, DNG_VERSION = 254, 255, 271, 330, 50706
RGB, SENSOR = 2, 32803


@dataclass(frozen=True)
class Picture:
    """One directory of a TIFF file, and its pixels: grey 128 throughout.

    Attributes:
        photometric: RGB, or SENSOR for a colour filter array.
        tags: Further short or text values.
        below: Directories that it names as its own.
    """

    width: int
    height: int
    photometric: int = RGB
    tags: Mapping[int, int | str] = field(default_factory=dict)
    below: Sequence[Picture] = ()


def tiff(*chain: Picture, order: str = "<", head: bytes = b"") -> bytes:
    """Returns a TIFF file; `head` follows its eight bytes of header, as in Canon's."""
    content = bytearray(b"II*\0" if order == "<" else b"MM\0*")
    content += struct.pack(order + "I", 0) + head
    link = 4
    for picture in chain:
        offset, link_of_next = _append(content, picture, order)
        content[link : link + 4] = struct.pack(order + "I", offset)
        link = link_of_next
    return bytes(content)


def _append(content: bytearray, picture: Picture, order: str) -> tuple[int, int]:
    """Adds a directory; returns where it begins, and where it names the next."""
    below = [_append(content, other, order)[0] for other in picture.below]
    samples = 3 if picture.photometric == RGB else 1
    strip = _data(content, bytes([128]) * (picture.width * picture.height * samples))
    longs = {256: [picture.width], 257: [picture.height], 273: [strip], 278: [picture.height]}
    longs |= {279: [picture.width * picture.height * samples], SUB_DIRECTORIES: below}
    shorts = {258: [8] * samples, 259: [1], 262: [picture.photometric], 277: [samples]}
    shorts |= {tag: [value] for tag, value in picture.tags.items() if isinstance(value, int)}
    texts = {tag: value.encode() + b"\0" for tag, value in picture.tags.items() if isinstance(value, str)}
    entries = [
        (tag, 4, len(values), struct.pack(f"{order}{len(values)}I", *values)) for tag, values in longs.items()
    ]
    entries += [
        (tag, 3, len(values), struct.pack(f"{order}{len(values)}H", *values))
        for tag, values in shorts.items()
    ]
    entries += [(tag, 2, len(text), text) for tag, text in texts.items()]
    packed = b""
    for tag, kind, count, value in sorted(entry for entry in entries if entry[2]):
        if len(value) > 4:
            value = struct.pack(order + "I", _data(content, value))
        packed += struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0")
    offset = _data(content, struct.pack(order + "H", len(packed) // 12) + packed)
    return offset, _data(content, bytes(4))


def _data(content: bytearray, data: bytes) -> int:
    content += bytes(len(content) % 2)
    offset = len(content)
    content += data
    return offset
