"""Sets of pictures with classes: their names, the folder that is written of them, and the digits."""

from __future__ import annotations

import csv
import hashlib
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.data.labelled_images import read_labelled_folder
from trainables.embedded.class_folder import ClassPicture, ClassSet, png_bytes, write_class_folder
from trainables.embedded.class_sets import CLASS_SETS, graded_lesions, load_class_set
from trainables.embedded.digits import digits


def digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def test_every_name_is_a_set() -> None:
    assert set(CLASS_SETS) == {
        "graded-lesions",
        *(f"graded-lesions-{number}" for number in range(2, 9)),
        "graded-lesions-large",
        "digits",
    }
    for name in CLASS_SETS:
        shown = load_class_set(name)
        assert shown.name == name
        assert {one.class_name for one in shown.pictures} == set(shown.class_names)
    with pytest.raises(ValueError, match=r"no data set 'graded' with classes.*there are: graded-lesions, "):
        load_class_set("graded")


# The folder


def test_a_folder_of_lesions_has_fixed_bytes_and_holds_what_is_drawn(tmp_path: Path) -> None:
    shown = graded_lesions(images=24, animals=6)
    folder = write_class_folder(shown, tmp_path / "new" / "lesions")
    assert digest(folder) == "11c74bb97c410bbf"
    assert digest(write_class_folder(shown, tmp_path / "again")) == digest(folder)
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file_name", "class", "group", "severity"]
    for row, one, image in zip(rows, shown.pictures, shown.images(), strict=True):
        assert row["file_name"] == f"{one.class_name}/{one.name}.png"
        assert (row["class"], row["group"]) == (one.class_name, one.group)
        assert float(row["severity"]) == pytest.approx(one.severity, abs=1e-6)
        with Image.open(folder / row["file_name"]) as read:
            assert (read.mode, read.tobytes()) == ("RGB", image.tobytes())
    assert sorted(path.name for path in folder.iterdir()) == ["metadata.csv", *shown.class_names]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["lesions"]
    found, problems = read_labelled_folder(folder)
    assert problems == []
    assert found.classes == shown.class_names
    assert {(one.name, one.label, one.group) for one in found.images} == {
        (f"{one.class_name}/{one.name}.png", one.class_name, one.group) for one in shown.pictures
    }


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path) -> None:
    shown = graded_lesions(images=24, animals=6)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(ValueError, match="is not empty; name a folder that does not exist yet"):
            write_class_folder(shown, tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert write_class_folder(shown, tmp_path / "empty").is_dir()

    def failing() -> tuple[Image.Image, ...]:
        raise OSError("no room")

    broken = ClassSet("x", ("a",), (ClassPicture("one", "a"),), failing)
    with pytest.raises(OSError, match="no room"):
        write_class_folder(broken, tmp_path / "broken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "full"]


def test_a_png_is_a_function_of_the_pixels_alone(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    (tmp_path / "x.png").write_bytes(png_bytes(Image.fromarray(pixels)))
    with Image.open(tmp_path / "x.png") as read:
        assert read.format == "PNG"
        assert (np.asarray(read) == pixels).all()
    assert len(png_bytes(Image.fromarray(pixels))) == 8 + 25 + 12 + 2 + 5 + 5 * 22 + 4 + 12
    for image in (Image.new("L", (4, 4)), Image.new("RGB", (200, 200))):
        with pytest.raises(ValueError, match="below 64 KiB"):
            png_bytes(image)


# The digits


def test_one_digit_is_rare() -> None:
    everything, rare, rarer = digits(None), digits(3, 0.2), digits(3, 0.001)
    counts = Counter(one.class_name for one in everything.pictures)
    assert len(everything.pictures) == 1797
    assert counts["digit-3"] == 183
    assert Counter(one.class_name for one in rare.pictures) == {**counts, "digit-3": 37}
    assert sum(one.class_name == "digit-3" for one in rarer.pictures) == 1
    assert {one.name for one in rarer.pictures} < {one.name for one in rare.pictures}
    assert {(one.group, one.severity) for one in everything.pictures} == {(None, None)}
    with pytest.raises(ValueError, match=r"0 to 9, or None, not 10\nthe share that is kept must be above 0"):
        digits(10, 0)


def test_digits_are_enlarged_as_they_say(tmp_path: Path) -> None:
    shown = digits()
    pixels = np.stack([np.asarray(image) for image in shown.images()])
    assert pixels.shape == (len(shown.pictures), 64, 64, 3)
    assert (pixels == pixels[..., :1]).all()
    assert (pixels.min(), pixels.max()) == (0, 255)
    classes_of: dict[bytes, set[str]] = defaultdict(set)
    for one, image in zip(shown.pictures, pixels, strict=True):
        classes_of[image.tobytes()].add(one.class_name)
    assert max(map(len, classes_of.values())) == 1
    from sklearn.datasets import load_digits

    original = load_digits().images[int(shown.pictures[5].name[-4:])] * 255 / 16
    blocks = pixels[5, ..., 0].reshape(8, 8, 8, 8).mean(axis=(1, 3))
    assert np.corrcoef(blocks.ravel(), original.ravel())[0, 1] > 0.97
    few = ClassSet("few", ("digit-0", "digit-1"), shown.pictures[:2], lambda: shown.images()[:2])
    assert digest(write_class_folder(few, tmp_path / "digits")) == "79ce56c33c0e2074"
    assert {one.group for one in read_labelled_folder(tmp_path / "digits")[0].images} == {""}
    assert (tmp_path / "digits" / "metadata.csv").read_text().splitlines()[
        1
    ] == "digit-0/digit-0000.png,digit-0,,"


def test_without_scikit_learn_the_digits_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainables.embedded import digits as module

    module._data.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"comes with scikit-learn, which is not installed.*pip install"
    ):
        load_class_set("digits")
    assert load_class_set("graded-lesions").pictures
