"""What a file among photographs is, by its first bytes, where it is none that can be read."""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
from typing import NamedTuple

from PIL import features
from PIL.TiffImagePlugin import ImageFileDirectory_v2

CONVERT = "convert it to JPEG or PNG"
RAW_SUFFIXES = {
    *(".3fr", ".ari", ".arw", ".bay", ".cap", ".cr2", ".cr3", ".crw", ".dcr", ".dcs", ".dng", ".drf", ".eip"),
    *(".erf", ".fff", ".gpr", ".iiq", ".k25", ".kdc", ".mdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf"),
    *(".pef", ".ptx", ".pxn", ".r3d", ".raf", ".raw", ".rw2", ".rwl", ".rwz", ".sr2", ".srf", ".srw", ".x3f"),
}


class Kind(NamedTuple):
    """What a file is ("a video"), and what can be done."""

    name: str
    remedy: str


RAW = Kind("a raw photograph", f"{CONVERT} with the camera's own program, darktable or RawTherapee")
HEIC = Kind("HEIC", f"{CONVERT} (on an iPhone: Settings, Camera, Formats, Most Compatible)")
SVG = Kind("a drawing (SVG)", CONVERT)
_AVIF = Kind("AVIF", f"this Pillow was built without it; {CONVERT}")
_VIDEO = Kind("a video", "take it out of the folder")
_DATA = Kind("a table of data", "take it out of the folder")
_ARCHIVE = Kind("an archive", "unpack it")
_PAGE = Kind("a web page", "the download went wrong: fetch the image itself")
_JPEG_XL = Kind("JPEG XL", CONVERT)

# First bytes -> what it is, and the remedy.
_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"FUJIFILMCCD-RAW", RAW),
    (b"FOVb", RAW),
    (b"\0MRM", RAW),
    (b"IIU\0", RAW),  # Panasonic, Leica
    (b"IIRO", RAW),  # Olympus
    (b"IIRS", RAW),
    (b"MMOR", RAW),
    (b"ARRI", RAW),
    (b"\xff\x0a", _JPEG_XL),
    (b"\0\0\0\x0cJXL \r\n\x87\n", _JPEG_XL),
    (b"II\xbc", Kind("JPEG XR", CONVERT)),
    (b"\x76\x2f\x31\x01", Kind("OpenEXR", CONVERT)),
    (b"#?RADIANCE", Kind("Radiance HDR", CONVERT)),
    (b"gimp xcf", Kind("a GIMP project", "export it as PNG")),
    (b"8BPS\0\x02", Kind("a large Photoshop document (PSB)", "export it as PNG")),
    (b"%PDF", Kind("a PDF", CONVERT)),
    (b"PK\x03\x04", _ARCHIVE),
    (b"Rar!", _ARCHIVE),
    (b"7z\xbc\xaf", _ARCHIVE),
    (b"\x1f\x8b", _ARCHIVE),
    (b"\x1aE\xdf\xa3", _VIDEO),
    (b"version https://git-lfs", Kind("a pointer of Git LFS", "fetch the image itself: git lfs pull")),
)
# Brands of files in ISO's base media format ("ftyp"), the most telling first.
_BRANDS = {
    b"crx ": RAW,
    b"avif": _AVIF,
    b"avis": _AVIF,
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), HEIC),
    **dict.fromkeys((b"mif1", b"msf1"), Kind("HEIF", CONVERT)),
}
_MARKUP = ((b"<html", _PAGE), (b"<!doctype html", _PAGE), (b"<svg", SVG))
# What Pillow opens, but which is no photograph, or has only a small copy of one.
_OPENED = {
    "EPS": Kind("a PostScript drawing", CONVERT),
    "WMF": Kind("a drawing (WMF)", CONVERT),
    "PCD": Kind("a Photo CD, of which only a small copy could be read", CONVERT),
    "MPEG": _VIDEO,
    "BUFR": _DATA,
    "GRIB": _DATA,
    "HDF5": _DATA,
}
# A camera's raw file has one of these only if somebody gave a photograph the wrong name.
_DEVELOPED = {"JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "AVIF", "JPEG2000", "PPM"}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAX_DIRECTORIES = 64

# Tags of TIFF.
_NUMBERS = (254, 255, 256, 257, 262)  # of which a _Directory consists
_MAKE, _SUB_DIRECTORIES, _LEAF_DATA, _DNG_VERSION = 271, 330, 34310, 50706
_SENSOR_DATA = (32803, 34892)  # values of the photometric interpretation: colour filter array, linear raw


def foreign_kind(content: bytes) -> Kind | None:
    """Returns what a file is that is no photograph for Pillow ("a video"), and the remedy; None if unknown."""
    if content[4:8] == b"ftyp":
        end = min(int.from_bytes(content[:4], "big"), 256)
        brands = {content[8:12], *(content[at : at + 4] for at in range(16, end, 4))}
        kind = next((kind for brand, kind in _BRANDS.items() if brand in brands), _VIDEO)
        return None if kind is _AVIF and features.check("avif") else kind
    if content[:4] == b"RIFF" and content[8:12] == b"AVI ":
        return _VIDEO
    if content[6:14] == b"HEAPCCDR":
        return RAW
    for magic, kind in _MAGIC:
        if content.startswith(magic):
            return kind
    head = content[:1024].lower()
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return next((kind for tag, kind in _MARKUP if tag in head), None)
    return raw_kind(content)


def opened_kind(image_format: str | None, suffix: str) -> Kind | None:
    """The same of a file that Pillow has opened: what is no photograph all the same."""
    if suffix in RAW_SUFFIXES and image_format not in _DEVELOPED:
        return RAW
    return _OPENED.get(image_format or "")


def raw_kind(content: bytes) -> Kind | None:
    """The same of TIFF whose first image, which is all that Pillow reads, is a small copy of the photograph.

    Raw files of most cameras are such TIFF, with the sensor's data behind the thumbnail, whatever their suffix.
    """
    if not content.startswith(_TIFF):
        return None
    if content[8:10] == b"CR" or content[8:12] in (b"IIII", b"MMMM"):  # Canon, Phase One
        return RAW
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged tags
        chain, below = _directories(content)
        return _kind_of(chain, below) if chain else None


class _Directory(NamedTuple):
    """What one directory of a TIFF file says of its image; 0 for what it leaves out."""

    reduced: int
    kind: int
    width: int
    height: int
    photometric: int
    tags: frozenset[int]

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def is_copy(self) -> bool:
        return bool(self.reduced & 1) or self.kind == 2


def _kind_of(chain: list[_Directory], below: list[_Directory]) -> Kind | None:
    first = chain[0]
    sensor_data = any(directory.photometric in _SENSOR_DATA for directory in (*chain, *below))
    if sensor_data or first.tags & {_DNG_VERSION, _LEAF_DATA}:
        return RAW
    # A scan of several pages may well have a larger page behind the first; that is no copy of it.
    full = max((*chain, *below) if first.is_copy else (first, *below), key=lambda directory: directory.pixels)
    is_larger = full.pixels > first.pixels
    if (is_larger or first.is_copy) and _MAKE in first.tags:
        return RAW
    if not is_larger:
        return None
    sizes = (
        f"a small copy ({first.width}x{first.height}) of the image itself ({full.width}x{full.height} pixels)"
    )
    return Kind(f"TIFF that begins with {sizes}", CONVERT)


def _directories(content: bytes) -> tuple[list[_Directory], list[_Directory]]:
    """The directories of a TIFF file, each describing an image: those of the chain, and those below them."""
    header = content[: 16 if content[2:4] in (b"+\0", b"\0+") else 8]
    file = io.BytesIO(content)
    found: tuple[list[_Directory], list[_Directory]] = ([], [])
    seen: set[int] = set()
    waiting = [(int(ImageFileDirectory_v2(header).next), 0)]
    while waiting and len(seen) < _MAX_DIRECTORIES:
        offset, level = waiting.pop(0)
        if offset in seen or not 0 < offset < len(content):
            continue
        seen.add(offset)
        directory = ImageFileDirectory_v2(header)
        file.seek(offset)
        # A damaged file can raise nearly anything here; what has been found still counts.
        with suppress(Exception):
            directory.load(file)
            offsets = directory.get(_SUB_DIRECTORIES, ())
            found[level].append(_directory(directory))
            waiting += [(int(at), 1) for at in (offsets if isinstance(offsets, tuple) else (offsets,))]
            waiting.append((int(directory.next), level))
    return found


def _directory(directory: ImageFileDirectory_v2) -> _Directory:
    reduced, kind, width, height, photometric = (_number(directory.get(tag)) for tag in _NUMBERS)
    return _Directory(reduced, kind, width, height, photometric, frozenset(directory))


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
