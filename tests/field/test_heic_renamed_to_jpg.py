"""A telephone's HEIC under the name of a JPEG, and others that are not what their suffix says."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from trainables.data.images import check_image, read_image


def movie(brand: bytes, *others: bytes) -> bytes:
    """The first box of a file in ISO's base media format."""
    body = b"ftyp" + brand + bytes(4) + b"".join(others)
    return (len(body) + 4).to_bytes(4, "big") + body + bytes(64)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (movie(b"heic", b"mif1"), "is HEIC, whatever .jpg says"),
        (movie(b"mif1", b"heix", b"miaf"), "is HEIC, whatever .jpg says"),
        (movie(b"msf1"), "is HEIF, whatever .jpg says"),
        (movie(b"qt  "), "is a video"),  # the moving half of a Live Photo
        (movie(b"isom", b"mp42"), "is a video"),
        (b"RIFF\0\0\0\0AVI LIST", "is a video"),
        (b"\xff\x0a\xfa\x7f", "is JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "is JPEG XL"),
        (b"%PDF-1.7", "is a PDF"),
        (b"PK\3\4\x14\0", "is an archive"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 80 80\n%%EndComments\n", "is a PostScript drawing"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "is a table of data"),
        (b"\n<!DOCTYPE html><html><svg/>404</html>", "is a web page"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "is a drawing (SVG)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    ],
)
def test_is_named_for_what_it_is(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    problem = str(check_image(path))
    assert f"{path}: is " in problem
    assert expected in problem
    assert "not an image that Pillow can read" in problem


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "avif", "gif", "tiff", "bmp"])
@pytest.mark.parametrize("suffix", [".jpg", ".heic", ".TXT.png", ".dat"])
def test_what_pillow_reads_is_read_under_any_suffix(kind: str, suffix: str, tmp_path: Path) -> None:
    if f".{kind}" not in Image.registered_extensions():
        pytest.skip(f"this Pillow has no {kind}")
    Image.new("RGB", (40, 30), (200, 20, 20)).save(tmp_path / "photo", kind)
    (tmp_path / "photo").rename(tmp_path / f"photo{suffix}")
    assert read_image(tmp_path / f"photo{suffix}").getpixel((20, 15)) == pytest.approx((200, 20, 20), abs=12)


def test_first_frame_of_a_camera_s_several(tmp_path: Path) -> None:
    """MPO, as 3D cameras and telephones write it under .jpg: the photograph comes first."""
    photo, depth = Image.new("RGB", (64, 48), (200, 20, 20)), Image.new("RGB", (96, 96), (0, 0, 0))
    photo.save(tmp_path / "photo.mpo", save_all=True, append_images=[depth])
    (tmp_path / "photo.mpo").rename(tmp_path / "photo.jpg")
    image = read_image(tmp_path / "photo.jpg")
    assert image.size == (64, 48)
    assert image.getpixel((32, 24)) == pytest.approx((200, 20, 20), abs=12)
