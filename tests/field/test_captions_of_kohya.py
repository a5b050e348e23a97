"""kohya's scripts write captions as .caption: they were passed over, and then missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.photographs import photographs
from trainables.data.subjects import check_subject, resolve_subject

NAMES = ["a.png", "b.png", "c.PNG"]


@pytest.mark.parametrize("suffix", [".caption", ".CAPTION", ".txt", ".Txt"])
def test_they_are_read(suffix: str, tmp_path: Path) -> None:
    subject = photographs(tmp_path, NAMES)
    for name in NAMES:
        (tmp_path / name).with_suffix(suffix).write_text(f"a sks dog, {name}\n")
    loaded = resolve_subject(subject, 32, "files")
    assert loaded.captions == tuple(f"a sks dog, {name}" for name in loaded.image_names)


def test_both_are_fine_if_they_say_the_same(tmp_path: Path) -> None:
    subject = photographs(tmp_path, NAMES)
    for stem in "abc":
        (tmp_path / f"{stem}.txt").write_text("a sks dog\n")
        (tmp_path / f"{stem}.caption").write_text("a sks  dog")
    assert check_subject(subject, 32, "files") == []
    (trained,) = resolve_subject(subject, 32).image_names
    stem = Path(trained).stem
    (tmp_path / f"{stem}.caption").write_text("a dog in the snow")
    (problem,) = check_subject(subject, 32, "files")
    assert f"{stem}.caption and {stem}.txt differ" in problem
    assert check_subject(subject, 32) == []  # where captions are not read, they may lie there


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    subject = photographs(tmp_path, NAMES)
    (trained,) = resolve_subject(subject, 32).image_names
    (problem,) = check_subject(subject, 32, "files")
    assert "(.txt, or kohya's .caption)" in problem
    assert f"these are missing: {Path(trained).stem}.txt" in problem
