"""Raw photographs are TIFF with a thumbnail in front: they were trained on as thumbnails of 160x120 pixels."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.tiff_files import DNG_VERSION, KIND, MAKE, REDUCED, SENSOR, Picture, tiff
from trainables.config.fields import SubjectConfig
from trainables.data.image_kinds import RAW_SUFFIXES
from trainables.data.images import check_image, read_image
from trainables.data.subjects import check_subject

FULL = Picture(600, 400, SENSOR)
PREVIEW = Picture(300, 200, tags={REDUCED: 1})
NIKON = tiff(Picture(160, 120, tags={REDUCED: 1, MAKE: "NIKON"}, below=[PREVIEW, FULL]), order=">")
ADOBE = tiff(Picture(160, 120, tags={REDUCED: 1, DNG_VERSION: 1}, below=[FULL]))
RAW = {
    "Nikon": NIKON,
    "Adobe, Leica, telephones": ADOBE,
    "linear DNG of one image": tiff(Picture(160, 120, 34892, tags={DNG_VERSION: 1})),
    "sensor first, as Pentax": tiff(Picture(600, 400, SENSOR, tags={MAKE: "PENTAX"}), Picture(160, 120)),
    "sensor in the chain, as Canon": tiff(Picture(160, 120), Picture(600, 400, SENSOR)),
    "Canon": tiff(Picture(300, 200, tags={MAKE: "Canon"}), head=b"CR\2\0" + bytes(4)),
    "Phase One": tiff(Picture(160, 120), head=b"IIII" + bytes(4)),
    "unknown data, marked as a copy": tiff(Picture(160, 120, tags={REDUCED: 1, MAKE: "Kodak"})),
    "old mark of a copy": tiff(Picture(160, 120, tags={KIND: 2, MAKE: "Kodak"}), Picture(600, 400)),
    "larger below": tiff(Picture(160, 120, tags={MAKE: "Epson"}, below=[Picture(600, 400)])),
}
OTHER_RAW = {
    "Fujifilm": b"FUJIFILMCCD-RAW 0201",
    "Canon CR3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
    "Canon CRW": b"II\x1a\0\0\0HEAPCCDR",
    "Panasonic": b"IIU\0\x18\0\0\0",
    "Olympus": b"IIRO\x08\0\0\0",
    "Sigma": b"FOVb\0\0\2\0",
}


@pytest.mark.parametrize("suffix", [".nef", ".tif", ".jpg", ""])
@pytest.mark.parametrize("content", [*RAW.values(), *OTHER_RAW.values()], ids=[*RAW, *OTHER_RAW])
def test_is_named_as_one_whatever_its_suffix(content: bytes, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"photo{suffix}").write_bytes(content)
    problem = check_image(tmp_path / f"photo{suffix}", 32)
    assert problem is not None
    assert f"photo{suffix}: is a raw photograph" in problem
    assert "convert it to JPEG or PNG" in problem


@pytest.mark.parametrize("suffix", sorted(RAW_SUFFIXES | {".NEF"}))
def test_a_suffix_of_a_camera_is_enough_where_pillow_reads_a_tiff(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"photo{suffix}").write_bytes(tiff(Picture(160, 120)))
    assert "is a raw photograph" in str(check_image(tmp_path / f"photo{suffix}"))
    (tmp_path / f"photo{suffix}").write_bytes(b"nothing that is known")
    assert "a raw photograph" in str(check_image(tmp_path / f"photo{suffix}"))
    Image.new("RGB", (50, 40)).save(tmp_path / "photo.jpg")  # a JPEG under a camera's suffix is a JPEG
    (tmp_path / "photo.jpg").rename(tmp_path / f"photo{suffix}")
    assert check_image(tmp_path / f"photo{suffix}") is None


def test_a_truncated_raw_photograph_is_no_thumbnail_either(tmp_path: Path) -> None:
    (tmp_path / "photo.tif").write_bytes(NIKON)
    for share in (0.5, 0.9, 0.99):
        (tmp_path / "cut.tif").write_bytes(NIKON[: int(len(NIKON) * share)])
        assert check_image(tmp_path / "cut.tif") is not None


def test_tiff_that_begins_with_a_small_copy_is_named_with_both_sizes(tmp_path: Path) -> None:
    (tmp_path / "scan.tif").write_bytes(tiff(Picture(40, 30, tags={REDUCED: 1}), Picture(400, 300)))
    assert "a small copy (40x30) of the image itself (400x300 pixels)" in str(
        check_image(tmp_path / "scan.tif")
    )


@pytest.mark.parametrize(
    "content",
    [
        tiff(Picture(40, 30)),
        tiff(Picture(40, 30), Picture(60, 50)),  # pages
        tiff(Picture(40, 30), Picture(20, 15, tags={REDUCED: 1}), order=">"),  # a thumbnail behind
        tiff(Picture(40, 30, tags={MAKE: "Nikon"}, below=[Picture(20, 15, tags={REDUCED: 1})])),  # a pyramid
        tiff(Picture(40, 30, tags={REDUCED: 1})),
    ],
    ids=["one page", "larger second page", "thumbnail behind", "pyramid below", "wrongly marked"],
)
def test_sound_tiff_is_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "scan.tif").write_bytes(content)
    assert read_image(tmp_path / "scan.tif").size == (40, 30)


def test_nothing_is_trained_on(tmp_path: Path) -> None:
    for index in range(4):
        (tmp_path / f"{index}.nef").write_bytes(NIKON)
    subject = SubjectConfig(
        name="dog", images=str(tmp_path), instance_prompt="a sks dog", class_prompt="a dog"
    )
    problems = check_subject(subject, 64)
    assert len([problem for problem in problems if "is a raw photograph" in problem]) == 4
