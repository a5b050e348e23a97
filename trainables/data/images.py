"""Photographs as files: found in a folder, checked before training starts, and read as squares of one size.

Whatever the format, size, orientation tag and colour mode, `load_image` gives an upright 8-bit RGB square:
the first frame, turned as its EXIF tag says, converted to sRGB where it carries a colour profile,
transparency laid on white, 16-bit grey scaled (not cut off), cropped to the central square and resized with
anti-aliasing. Nothing here needs torch.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import os
import re
import stat
import warnings
from pathlib import Path

from PIL import Image, ImageOps

from trainables.data.image_kinds import CONVERT, HEIC, RAW, RAW_SUFFIXES, SVG, Kind, foreign_kind, opened_kind
from trainables.errors import UserError
from trainables.util.text import same_name, shown

MAX_PIXELS = 178_000_000  # just below where Pillow itself refuses; decoded they are half a GB
MIN_SIDE = 16  # pixels; anything smaller is an icon or a mistake
MAX_ENLARGEMENT = 4  # an image may be enlarged by at most this factor to reach the resolution

FINGERPRINT_SIDE = 64  # pixels at which two files are compared for being the same picture
_LONGEST = 8  # times its shorter side that a thumbnail has
MAX_BYTES = 2_000_000_000  # of a file; a photograph of MAX_PIXELS has less

_SIDECARS = {".txt", ".caption", ".json", ".md"}  # captions and notes that may lie beside images
_NOTICE = re.compile(r"(readme|licen[cs]e|copying|notice|authors|attribution)([-_. ].*)?")
_NOTICE_SUFFIXES = {"", ".txt", ".md", ".rst", ".html", ".pdf"}
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
_SUFFIX_KINDS = {
    ".heic": HEIC,
    ".heif": HEIC,
    ".svg": SVG,
    **dict.fromkeys(RAW_SUFFIXES, RAW),
}
_USUAL_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
_NODES = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def list_images(folder: Path) -> tuple[list[Path], list[str]]:
    """Returns the files of `folder` that should be images, sorted by name, and what is wrong with the folder.

    Hidden files, captions (``.txt``, ``.caption``), notes and the files that desktops leave behind are passed over,
    subfolders are not entered. Files that are no images are returned too: `check_image` names them.
    """
    place = shown(str(folder))
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            remedy = f"images must be a folder of photographs, name {shown(str(folder.parent))} instead"
            return [], [f"{place}: is a file; {remedy}"]
        # By the name as it reads, so that the order of the data is the same on every file system.
        entries = sorted(folder.iterdir(), key=lambda path: (same_name(path.name), path.name))
    except (FileNotFoundError, NotADirectoryError):
        return [], [f"{place}: no such folder; {_missing_remedy(folder)}"]
    except OSError as error:
        return [], [
            f"{place}: cannot be read ({error.strerror}); change its permissions, or name another folder"
        ]
    files = [path for path in entries if not os.path.isdir(path) and not is_passed_over(path)]
    if files:
        twice = [
            f"{place}: {shown(one.name)} is there twice, in two Unicode spellings of one name; rename or remove one"
            for one, other in itertools.pairwise(files)
            if same_name(one.name) == same_name(other.name)
        ]
        return files, list(dict.fromkeys(twice))
    subfolders = [
        shown(path.name) for path in entries if os.path.isdir(path) and not path.name.startswith(".")
    ]
    inside = f" (it has subfolders, which are not entered: {', '.join(subfolders[:5])})" if subfolders else ""
    return [], [f"{place}: the folder has no images{inside}; put the photographs of one subject into it"]


def check_image(path: Path, resolution: int | None = None) -> str | None:
    """Returns what is wrong with an image file (the file, the rule, the remedy), or None.

    The file is decoded completely: a truncated photograph has a sound header.

    Args:
        resolution: Pixels that it will be resized to, for the rule on enlargement; None leaves that rule out.
    """
    try:
        read_image(path, resolution)
    except UserError as error:
        return "; ".join(error.problems)
    return None


def load_image(path: Path | str, resolution: int) -> Image.Image:
    """Reads an image file as an RGB square of `resolution` pixels; raises UserError that names the file."""
    return square(read_image(Path(path), resolution), resolution)


def read_image(path: Path, resolution: int | None = None) -> Image.Image:
    """Reads an image file at its full size, upright and in RGB; raises UserError that names the file."""
    place = shown(str(path))
    content = read_file(path)
    suffix = path.suffix.lower()
    kind = foreign_kind(content)
    if kind is not None:
        raise UserError(_foreign(place, kind, suffix))
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and of odd metadata; the limit is checked below, before decoding.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content))
            kind = opened_kind(image.format, suffix)
            problem = _foreign(place, kind, suffix) if kind else size_problem(place, image.size, resolution)
            if problem is None:
                return to_rgb(image)
    except Image.UnidentifiedImageError:
        raise UserError(_unidentified(place, content, suffix)) from None
    except Image.DecompressionBombError:
        problem = _bomb(place, f"more than {MAX_PIXELS}")
    except MemoryError:
        raise
    # A damaged file can raise nearly anything in a decoder (OSError, SyntaxError, struct.error, zlib.error,
    # ...).
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise UserError(f"{place}: is damaged ({reason}); replace it or take it out of the folder") from None
    raise UserError(problem)


def read_mask(path: Path, size: tuple[int, int], *, alpha: bool = False) -> Image.Image:
    """Reads where an image shows its subject, 8-bit grey and upright: 255 is the subject, 0 the background.

    Args:
        path: Of the mask, or of the image itself.
        size: Of the upright image in pixels, which the mask must have.
        alpha: Take the image's own transparency; without one the mask is an image that is read as grey.

    Raises:
        UserError: Naming the file: it cannot be read, has another size, or no transparency.
    """
    place = shown(str(path))
    mask = _alpha(path) if alpha else read_image(path).convert("L")
    if mask.size != size:
        raise UserError(
            f"{place}: has {mask.width}x{mask.height} pixels and its image {size[0]}x{size[1]}; a mask must have its "
            "image's size"
        )
    return mask


def _alpha(path: Path) -> Image.Image:
    """The transparency of the first frame of an image that `read_image` can read, upright."""
    content = read_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(content))
        image.seek(0)
        image.load()
        if not image.has_transparency_data:
            raise UserError(
                f"{shown(str(path))}: has no transparency, which masks: alpha takes for the subject's place; cut the "
                "subject out of its background, or give a folder of masks"
            )
        return _upright(image).convert("RGBA").getchannel("A")


def read_file(path: Path, what: str = "an image file") -> bytes:
    """Returns the content of a regular file: reading from a named pipe or a device would never end.

    Args:
        what: What the file should be, for the message.

    Raises:
        UserError: It is something else, far too large, a link to nothing, or cannot be read.
    """
    place = shown(str(path))
    try:
        status = path.stat()
        node = next((name for is_node, name in _NODES if is_node(status.st_mode)), None)
        if node is not None:
            raise UserError(f"{place}: is {node}, not {what}; take it out of the folder")
        if status.st_size > MAX_BYTES:
            limit = f"{what} has at most {MAX_BYTES:,}"
            raise UserError(f"{place}: has {status.st_size:,} bytes; {limit}; take it out of the folder")
        return path.read_bytes()
    except OSError as error:
        if path.is_symlink() and error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            target = shown(os.readlink(path))
            problem = f"is a link to {target}, which leads to no file; mend the link or remove it"
        elif isinstance(error, FileNotFoundError):
            problem = "no such file"
        else:
            problem = f"cannot be read ({error.strerror}); change its permissions"
        raise UserError(f"{place}: {problem}") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns the first frame of an opened image, upright, 8-bit RGB, transparent parts white."""
    image.seek(0)
    image.load()
    image = _upright(image)
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        return _wide_to_8_bit(image).convert("RGB")
    if image.mode in ("CMYK", "RGB", "L") and profile:
        return _to_srgb(image, profile)
    if image.mode in ("RGBA", "LA", "La", "PA", "RGBa") or "transparency" in image.info:
        # RGBa and La hold premultiplied colours; converting to RGBA undoes that.
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        white.alpha_composite(image)
        image = white.convert("RGB")
        return _to_srgb(image, profile) if profile else image
    return image.convert("RGB")


def square(image: Image.Image, resolution: int) -> Image.Image:
    """Cuts out the central square of an image and resizes it to `resolution` pixels, anti-aliased
    (Lanczos).
    """
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    # Cropped first: a resize with a box would let the filter see pixels beyond the crop.
    cropped = image.crop((left, top, left + side, top + side))
    return cropped.resize((resolution, resolution), Image.Resampling.LANCZOS, reducing_gap=3.0)


def thumbnail(image: Image.Image, side: int) -> Image.Image:
    """Returns the whole of an image, resized so that its shorter side has `side` pixels; of a square what `square`
    returns.

    What is longer than `_LONGEST` times its width is squeezed to that.
    """
    short = min(image.size)
    width, height = (min(round(side * edge / short), side * _LONGEST) for edge in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def image_digest(image: Image.Image) -> str:
    """Returns the hex SHA-256 of an image's mode, size and pixels."""
    head = f"{image.mode} {image.width}x{image.height} ".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


def fingerprint_of(image: Image.Image) -> str:
    """Returns what two files have in common that show the same pixels, whatever their format and metadata."""
    return image_digest(thumbnail(image, FINGERPRINT_SIDE)) + str(image.size)


def geometry_of(size: tuple[int, int], resolution: int) -> tuple[float, ...]:
    """Returns what SDXL is told of an image: height and width of the file, top, left, height and width of the crop.

    The crop is that of `square`; top and left count pixels of the image resized to where the crop has `resolution`.

    Args:
        size: Width and height of the upright image, before anything was done to it.
    """
    width, height = size
    side = min(width, height)
    top, left = (round((edge - side) // 2 * resolution / side) for edge in (height, width))
    return tuple(map(float, (height, width, top, left, resolution, resolution)))


def _missing_remedy(folder: Path) -> str:
    with contextlib.suppress(OSError):
        names = {path.name for path in folder.parent.iterdir()} - {folder.name}
        if same_name(folder.name) in map(same_name, names):
            return "there is one whose name reads the same in another Unicode spelling; rename that one"
    return "images must be an existing folder of photographs"


def is_passed_over(path: Path) -> bool:
    """Whether a file among images is a hidden one, a caption, a note, a licence, or one that desktops leave behind."""
    is_sidecar = path.suffix.lower() in _SIDECARS or path.name.lower() in _SYSTEM_FILES
    return path.name.startswith(".") or is_sidecar or is_notice(path)


def is_notice(path: Path) -> bool:
    """Whether a file is a licence or readme by its name, and no image: README.md, LICENSE, LICENSE-CC-BY-4.0."""
    is_text = path.suffix.lower() in _NOTICE_SUFFIXES or path.suffix[1:].isdigit()
    return is_text and _NOTICE.fullmatch(path.name.lower()) is not None


def _foreign(place: str, kind: Kind, suffix: str) -> str:
    in_spite = f", whatever {suffix} says" if suffix in _USUAL_SUFFIXES else ""
    return f"{place}: is {kind.name}{in_spite}, not an image that Pillow can read; {kind.remedy}"


def _unidentified(place: str, content: bytes, suffix: str) -> str:
    if not content:
        return f"{place}: is empty; take it out of the folder"
    kind = _SUFFIX_KINDS.get(suffix)
    remedy = f"{kind.name}? {kind.remedy}" if kind else f"move it out of the folder, or {CONVERT}"
    return f"{place}: is not an image that Pillow can read; {remedy}"


def size_problem(place: str, size: tuple[int, int], resolution: int | None) -> str | None:
    """Returns why an image of this width and height is too small or too large, or None.

    Args:
        place: Names the image.
        resolution: As for `check_image`.
    """
    width, height = size
    if width * height > MAX_PIXELS:
        return _bomb(place, f"{width}x{height}")
    smallest = max(MIN_SIDE, -(-(resolution or 0) // MAX_ENLARGEMENT))
    if min(size) < smallest:
        rule = f"the shorter side must have at least {smallest} pixels"
        if resolution and smallest > MIN_SIDE:
            rule += f" to train at resolution {resolution}"
        return f"{place}: is {width}x{height} pixels; {rule}; use a larger original"
    return None


def _bomb(place: str, size: str) -> str:
    limit = f"{MAX_PIXELS // 1_000_000} million"
    return f"{place}: has {size} pixels; at most {limit} are decoded, more can exhaust the memory; resize it"


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data is common and no reason to refuse a sound photograph
        return image


def _wide_to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float greys; Pillow's own ``convert`` cuts them off at 255 instead of scaling."""
    import numpy as np

    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        largest = 1.0 if values.size == 0 or values.max() <= 1.0 else 255.0
    else:
        largest = 65535.0 if image.mode.startswith("I;16") or values.max() > 255 else 255.0
    scaled = np.clip(np.nan_to_num(values) * (255.0 / largest), 0, 255)
    return Image.fromarray(np.round(scaled).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Telephones save wide-gamut colours (Display P3); read as sRGB they are pale, and CMYK is garish."""
    try:
        from PIL import ImageCms

        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except Exception:  # an unreadable profile, one for another mode, or a Pillow without colour management
        return image.convert("RGB")
    return converted if converted is not None else image.convert("RGB")
