"""File names in macOS' spelling (NFD), and names that are not UTF-8: the same images are held out everywhere."""

from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path

import pytest

from study.cluster.node_check import fingerprint
from study.preflight.checks import check_study
from study.spec.loading import load_study
from study.submit.package import _content
from tests.helpers.photographs import photograph, photographs
from trainables.data.subjects import check_subject, hold_out, resolve_subject
from trainables.errors import UserError

NAMES = ["Bär.png", "Café.png", "Zoé 2.png", "Über.png", "ぱ.png", "plain.png"]
LATIN = [os.fsdecode(b"caf\xe9.png"), os.fsdecode(b"\xfcber.png"), "dog.png", "plain.png"]

STUDY = """name: names
subjects:
  - {{name: dog, images: {photos}, instance_prompt: a sks dog, class_prompt: a dog}}
arms: {{lora: {{method: lora}}}}
confirm: {{seeds: []}}
"""


def spelled(form: str) -> list[str]:
    return [unicodedata.normalize(form, name) for name in NAMES]


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems spell names themselves")


def test_the_same_photographs_are_held_out_and_the_same_trained_on_in_the_same_order(tmp_path: Path) -> None:
    composed = resolve_subject(photographs(tmp_path / "nfc", spelled("NFC")), 32)
    decomposed = resolve_subject(photographs(tmp_path / "nfd", spelled("NFD")), 32)
    assert composed.image_names == decomposed.image_names
    assert composed.reference_names == decomposed.reference_names
    assert composed.digest == decomposed.digest


def test_a_hold_out_of_plain_names_is_what_it_was() -> None:
    assert hold_out([f"{n}.png" for n in range(5)], 2) == {"0.png", "2.png"}


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("suffix", [".txt", ".TXT"])
def test_captions_are_found_under_the_other_spelling(
    forms: tuple[str, str], suffix: str, tmp_path: Path
) -> None:
    subject = photographs(tmp_path, spelled(forms[0]))
    for name in spelled(forms[1]):
        (tmp_path / name).with_suffix(suffix).write_text(unicodedata.normalize("NFC", name), encoding="utf-8")
    assert check_subject(subject, 32, "files") == []
    loaded = resolve_subject(subject, 32, "files")
    assert loaded.captions == loaded.image_names


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    subject = photographs(tmp_path, [*spelled("NFC"), unicodedata.normalize("NFD", "Café.png")])
    (problem,) = check_subject(subject, 32)
    assert "Café.png is there twice" in problem


def test_a_folder_in_the_other_spelling_is_named(tmp_path: Path) -> None:
    subject = photographs(tmp_path / unicodedata.normalize("NFD", "Bär"), spelled("NFD"))
    named = subject.model_copy(update={"images": str(tmp_path / "Bär")})
    (problem,) = check_subject(named, 32)
    assert "another Unicode spelling" in problem


def test_names_that_are_not_utf_8_work(tmp_path: Path) -> None:
    subject = photographs(tmp_path / "photos", LATIN)
    for name in LATIN:
        (tmp_path / "photos" / name).with_suffix(".txt").write_text("a sks dog", encoding="utf-8")
    assert check_subject(subject, 32, "files") == []
    loaded = resolve_subject(subject, 32, "files")
    shown = [*loaded.image_names, *loaded.reference_names]
    assert sorted(shown) == sorted(["caf\\xe9.png", "\\xfcber.png", "dog.png", "plain.png"])
    assert fingerprint(str(tmp_path / "photos")) is not None
    with pytest.raises(UserError, match=r"not UTF-8 cannot be sent to a cluster: .*caf\\xe9\.png"):
        _content(tmp_path / "photos")


def test_messages_about_such_files_can_be_printed(tmp_path: Path) -> None:
    subject = photographs(tmp_path, LATIN)
    (tmp_path / LATIN[0]).write_bytes(b"no image")
    (tmp_path / LATIN[1]).write_bytes((tmp_path / "dog.png").read_bytes())
    photograph(tmp_path / "\x1b[31mred\n.png", 9)
    problems = "\n".join(check_subject(subject, 512, "files"))
    assert "caf\\xe9.png" in problems
    assert "\\x1b[31mred\\x0a.png" in problems
    problems.encode("utf-8")


def test_a_working_folder_whose_name_is_not_utf_8_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray broke off there with an abort of its own."""
    photographs(tmp_path / "photos", LATIN)
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    study = STUDY.format(photos=tmp_path / "photos")
    (folder / "study.yaml").write_text(study)
    monkeypatch.chdir(tmp_path)
    assert check_study(load_study(folder / "study.yaml"), "storage") == []
    monkeypatch.chdir(folder)
    problems = check_study(load_study("study.yaml"), "storage")
    assert problems[0].startswith(f"{tmp_path}/caf\\xe9: the path is not UTF-8")
    assert "which neither databases nor Ray take" in problems[1]
    assert os.listdir() == ["study.yaml"]
