"""Photographs as files: found in a folder, checked before training starts, and read as squares of one size.

Whatever the format, size, orientation tag and colour mode, `load_image` gives an upright 8-bit RGB square:
the first frame, turned as its EXIF tag says, converted to sRGB where it carries a colour profile,
transparency laid on white, 16-bit grey scaled (not cut off), cropped to the central square and resized with
anti-aliasing. Nothing here needs torch.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import Image, ImageOps

from trainables.errors import UserError

MAX_PIXELS = 178_000_000  # just below where Pillow itself refuses; decoded they are half a GB
MIN_SIDE = 16  # pixels; anything smaller is an icon or a mistake
MAX_ENLARGEMENT = 4  # an image may be enlarged by at most this factor to reach the resolution

_SIDECARS = {".txt", ".caption", ".json", ".md"}  # captions and notes that may lie beside images
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
_CONVERT = "convert it to JPEG or PNG"
_REMEDIES = {
    ".heic": f"Pillow reads no HEIC; {_CONVERT} (on an iPhone: Settings, Camera, Formats, Most Compatible)",
    ".heif": f"Pillow reads no HEIF; {_CONVERT}",
    ".svg": f"a drawing, not pixels; {_CONVERT}",
    ".dng": f"a raw photograph; {_CONVERT}",
    ".cr2": f"a raw photograph; {_CONVERT}",
    ".nef": f"a raw photograph; {_CONVERT}",
    ".arw": f"a raw photograph; {_CONVERT}",
}


def list_images(folder: Path) -> tuple[list[Path], list[str]]:
    """Returns the files of `folder` that should be images, sorted by name, and what is wrong with the folder.

    Hidden files, captions (``.txt``), notes and the files that desktops leave behind are passed over,
    subfolders are not entered. Files that are no images are returned too: `check_image` names them.
    """
    if not folder.exists():
        return [], [f"{folder}: no such folder; images must be an existing folder of photographs"]
    if not folder.is_dir():
        return [], [
            f"{folder}: is a file; images must be a folder of photographs, name {folder.parent} instead"
        ]
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        return [], [f"{folder}: cannot be read ({error.strerror}); change its permissions"]
    files = [path for path in entries if not path.is_dir() and not _is_passed_over(path)]
    if files:
        return files, []
    subfolders = [path.name for path in entries if path.is_dir() and not path.name.startswith(".")]
    inside = f" (it has subfolders, which are not entered: {', '.join(subfolders[:5])})" if subfolders else ""
    return [], [f"{folder}: the folder has no images{inside}; put the photographs of one subject into it"]


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
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); change its permissions") from None
    remedy = _REMEDIES.get(path.suffix.lower())
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and of odd metadata; the limit is checked below, before decoding.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content))
            problem = _size_problem(path, image.size, resolution)
            if problem is None:
                return to_rgb(image)
    except Image.UnidentifiedImageError:
        what = "is empty" if not content else "is not an image that Pillow can read"
        raise UserError(
            f"{path}: {what}; {remedy or 'move it out of the folder, or convert it to JPEG or PNG'}"
        ) from None
    except Image.DecompressionBombError:
        problem = _bomb(path, f"more than {MAX_PIXELS}")
    except MemoryError:
        raise
    # A damaged file can raise nearly anything in a decoder (OSError, SyntaxError, struct.error, zlib.error,
    # ...).
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise UserError(f"{path}: is damaged ({reason}); replace it or take it out of the folder") from None
    raise UserError(problem)


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


def _is_passed_over(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _SYSTEM_FILES or path.suffix.lower() in _SIDECARS


def _size_problem(path: Path, size: tuple[int, int], resolution: int | None) -> str | None:
    width, height = size
    if width * height > MAX_PIXELS:
        return _bomb(path, f"{width}x{height}")
    smallest = max(MIN_SIDE, -(-(resolution or 0) // MAX_ENLARGEMENT))
    if min(size) < smallest:
        rule = f"the shorter side must have at least {smallest} pixels"
        if resolution and smallest > MIN_SIDE:
            rule += f" to train at resolution {resolution}"
        return f"{path}: is {width}x{height} pixels; {rule}; use a larger original"
    return None


def _bomb(path: Path, size: str) -> str:
    limit = f"{MAX_PIXELS // 1_000_000} million"
    return f"{path}: has {size} pixels; at most {limit} are decoded, more can exhaust the memory; resize it"


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
