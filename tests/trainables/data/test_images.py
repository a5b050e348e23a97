"""Any common photograph becomes an upright RGB square; anything else is named with a remedy."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from trainables.data import images
from trainables.data.images import check_image, list_images, load_image, read_image, square
from trainables.errors import UserError

RED, GREEN, BLUE, WHITE = (220, 30, 40), (30, 200, 60), (40, 60, 230), (255, 255, 255)
PHOTOS = Path(__file__).parents[3].parent / "shared" / "data" / "dreambooth"


def quarters(mode: str = "RGB") -> Image.Image:
    """64x64 image whose quarters are red, green, blue, white (row by row)."""
    image = Image.new("RGB", (64, 64))
    for box, colour in (((0, 0), RED), ((32, 0), GREEN), ((0, 32), BLUE), ((32, 32), WHITE)):
        image.paste(Image.new("RGB", (32, 32), colour), box)
    return image.convert(mode)


def quarter_colours(image: Image.Image) -> np.ndarray:
    side = image.width
    near, far = side // 4, 3 * side // 4
    return np.array([image.getpixel(place) for place in ((near, near), (far, near), (near, far), (far, far))])


def assert_quarters(image: Image.Image, tolerance: int = 6) -> None:
    assert image.mode == "RGB"
    difference = np.abs(quarter_colours(image) - np.array([RED, GREEN, BLUE, WHITE]))
    assert difference.max() <= tolerance, quarter_colours(image)


@pytest.mark.parametrize(
    ("name", "mode", "tolerance"),
    [
        ("rgb.jpg", "RGB", 8),
        ("rgb.png", "RGB", 0),
        ("rgb.bmp", "RGB", 0),
        ("rgb.tiff", "RGB", 0),
        ("rgb.webp", "RGB", 12),
        ("cmyk.jpg", "CMYK", 12),
        ("cmyk.tiff", "CMYK", 4),
        ("ycbcr.jpg", "YCbCr", 8),
        ("palette.png", "P", 30),
        ("rgba.png", "RGBA", 0),
    ],
)
def test_formats_and_colour_modes(tmp_path: Path, name: str, mode: str, tolerance: int) -> None:
    quarters(mode).save(tmp_path / name, quality=95)
    assert_quarters(load_image(tmp_path / name, 32), tolerance)


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((255, 0, 0, 128), (0, 0, 20, 40))
    image.save(tmp_path / "alpha.png")
    loaded = load_image(tmp_path / "alpha.png", 40)
    assert loaded.getpixel((35, 20)) == WHITE
    assert loaded.getpixel((5, 20)) == pytest.approx((255, 127, 127), abs=1)


def test_transparent_palette_and_grey_lie_on_white(tmp_path: Path) -> None:
    palette = Image.new("P", (32, 32), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.paste(1, (0, 0, 16, 32))
    palette.save(tmp_path / "palette.png", transparency=0)
    assert load_image(tmp_path / "palette.png", 32).getpixel((24, 16)) == WHITE
    assert load_image(tmp_path / "palette.png", 32).getpixel((4, 16)) == (255, 0, 0)
    Image.new("LA", (32, 32), (0, 0)).save(tmp_path / "grey.png")
    assert load_image(tmp_path / "grey.png", 32).getpixel((16, 16)) == WHITE


def test_grey_and_one_bit(tmp_path: Path) -> None:
    Image.new("L", (32, 32), 99).save(tmp_path / "grey.jpg")
    Image.new("1", (32, 32), 1).save(tmp_path / "bit.png")
    assert load_image(tmp_path / "grey.jpg", 32).getpixel((16, 16)) == (99, 99, 99)
    assert load_image(tmp_path / "bit.png", 32).getpixel((16, 16)) == WHITE


@pytest.mark.parametrize("name", ["deep.png", "deep.tiff"])
def test_16_bit_grey_is_scaled_and_not_cut_off(tmp_path: Path, name: str) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)
    Image.fromarray(np.tile(ramp, (64, 1))).save(tmp_path / name)
    loaded = np.asarray(load_image(tmp_path / name, 64))[32, :, 0]
    assert np.abs(loaded - np.round(ramp / 257)).max() <= 1


def test_float_and_32_bit_greys(tmp_path: Path) -> None:
    Image.fromarray(np.full((32, 32), 0.5, np.float32)).save(tmp_path / "float.tiff")
    Image.fromarray(np.full((32, 32), 40000, np.int32)).save(tmp_path / "int.tiff")
    assert load_image(tmp_path / "float.tiff", 32).getpixel((1, 1)) == (128, 128, 128)
    assert load_image(tmp_path / "int.tiff", 32).getpixel((1, 1))[0] == round(40000 / 257)


@pytest.mark.parametrize("name", ["moving.gif", "moving.webp", "moving.png"])
def test_animations_give_their_first_frame(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, GREEN, BLUE)]
    extra = {"lossless": True} if name.endswith("webp") else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=50, **extra)
    with Image.open(tmp_path / name) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert load_image(tmp_path / name, 32).getpixel((16, 16)) == pytest.approx(RED, abs=2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tag_is_applied(tmp_path: Path, orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = quarters().transpose(undo[orientation]) if orientation in undo else quarters()
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert_quarters(load_image(tmp_path / "turned.jpg", 32), 8)


def test_damaged_exif_is_no_reason_to_refuse(tmp_path: Path) -> None:
    quarters().save(
        tmp_path / "odd.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff" + b"\x07" * 40, quality=95
    )
    assert_quarters(load_image(tmp_path / "odd.jpg", 32), 8)


def test_colour_profile_is_converted_to_srgb(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    quarters().save(tmp_path / "srgb.png", icc_profile=srgb)
    assert_quarters(load_image(tmp_path / "srgb.png", 32), 2)
    # A profile whose red and green primaries are exchanged: what it calls red is green.
    swapped = srgb.replace(b"rXYZ", b"????", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"????", b"gXYZ", 1)
    Image.new("RGB", (32, 32), (250, 10, 10)).save(tmp_path / "swapped.png", icc_profile=swapped)
    assert load_image(tmp_path / "swapped.png", 32).getpixel((16, 16)) == pytest.approx((10, 250, 10), abs=12)
    quarters().save(tmp_path / "broken.png", icc_profile=b"no profile at all")
    assert_quarters(load_image(tmp_path / "broken.png", 32), 0)


def test_square_is_the_central_crop() -> None:
    wide = Image.new("RGB", (90, 30), RED)
    wide.paste(GREEN, (30, 0, 60, 30))
    assert set(square(wide, 30).get_flattened_data()) == {GREEN}
    tall = wide.transpose(Image.Transpose.ROTATE_90)
    assert set(square(tall, 15).get_flattened_data()) == {GREEN}


def test_resizing_is_anti_aliased() -> None:
    board = np.indices((512, 512)).sum(axis=0) % 2 * 255
    small = np.asarray(square(Image.fromarray(board.astype(np.uint8)).convert("RGB"), 64)).astype(float)
    assert np.abs(small - 127.5).max() < 8  # without a filter it would be black or white


def test_resizing_keeps_the_mean_of_a_large_image() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    small = np.asarray(square(Image.fromarray(noise), 32)).astype(float)
    assert small.mean() == pytest.approx(127.5, abs=1.5)


def test_truncated_file_is_damaged(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for kind in ("jpeg", "png", "webp"):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, kind)
        path = tmp_path / f"cut.{kind}"
        path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        problem = check_image(path)
        assert problem is not None, kind
        assert path.name in problem
        assert "replace it" in problem or "convert it" in problem


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("notes.pdf", b"%PDF-1.7 nothing", "not an image"),
        ("empty.jpg", b"", "is empty"),
        ("photo.heic", b"\x00\x00\x00\x18ftypheic" + b"\x00" * 64, "HEIC"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "drawing"),
        ("page.jpg", b"<html>404</html>", "not an image"),
    ],
)
def test_files_that_are_no_images_are_named(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    problem = check_image(tmp_path / name)
    assert problem is not None
    assert name in problem
    assert expected in problem


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png: no such file"):
        load_image(tmp_path / "gone.png", 32)


def test_too_small_is_refused_with_the_rule(tmp_path: Path) -> None:
    Image.new("RGB", (100, 12)).save(tmp_path / "icon.png")
    assert "at least 16 pixels" in str(check_image(tmp_path / "icon.png"))
    Image.new("RGB", (100, 100)).save(tmp_path / "small.png")
    assert check_image(tmp_path / "small.png", 400) is None
    assert "at least 128 pixels to train at resolution 512" in str(check_image(tmp_path / "small.png", 512))


def test_pixel_limit_is_checked_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (400, 300)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 100_000)
    monkeypatch.setattr(images, "to_rgb", lambda image: pytest.fail("decoded"))
    assert "400x300" in str(check_image(tmp_path / "bomb.png"))


def test_bomb_that_pillow_refuses_is_named(tmp_path: Path) -> None:
    header = io.BytesIO()
    Image.new("1", (8, 8)).save(header, "png")
    content = bytearray(header.getvalue())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem = check_image(tmp_path / "bomb.png")
    assert problem is not None
    assert "178 million" in problem


def test_folder_listing_is_sorted_and_passes_over_what_is_not_meant(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", ".hidden.png", "a.txt", "Thumbs.db", ".DS_Store", "README.md"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "subfolder").mkdir()
    paths, problems = list_images(tmp_path)
    assert [path.name for path in paths] == ["a.JPG", "b.png"]
    assert problems == []


def test_folder_problems(tmp_path: Path) -> None:
    assert "no such folder" in list_images(tmp_path / "gone")[1][0]
    (tmp_path / "deeper").mkdir()
    (problem,) = list_images(tmp_path)[1]
    assert "no images" in problem
    assert "deeper" in problem
    (tmp_path / "file.png").write_bytes(b"x")
    assert "is a file" in list_images(tmp_path / "file.png")[1][0]


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the shared photographs are not here")
def test_real_photographs() -> None:
    folders = [path for path in sorted(PHOTOS.iterdir()) if path.is_dir()]
    assert len(folders) >= 2
    for folder in folders[:2]:
        paths, problems = list_images(folder)
        assert not problems
        for path in paths[:2]:
            full = read_image(path)
            small = load_image(path, 64)
            assert small.size == (64, 64)
            # The square is a faithful small version of the photograph's centre.
            side = min(full.size)
            box = ((full.width - side) // 2, (full.height - side) // 2)
            centre = np.asarray(full.crop((*box, box[0] + side, box[1] + side))).reshape(-1, 3).mean(0)
            assert np.abs(np.asarray(small).reshape(-1, 3).mean(0) - centre).max() < 2
