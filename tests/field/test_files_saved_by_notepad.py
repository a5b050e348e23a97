"""Text files with a byte-order mark, in UTF-8 and in UTF-16: the mark became part of captions, and of keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.lint import lint_file
from study.spec.loading import load_study
from tests.helpers.photographs import photographs
from trainables.__main__ import load_run
from trainables.config.yaml_reader import load_document
from trainables.data.subjects import check_subject, resolve_subject

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]
CAPTION = "a sks dog in a café ☕"
STUDY = """name: notepad
subjects: [robot, owl]
arms: {lora: {method: lora}}
"""


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_captions(encoding: str, tmp_path: Path) -> None:
    subject = photographs(tmp_path, ["a.png", "b.png", "c.png"])
    for name in "abc":
        (tmp_path / f"{name}.txt").write_bytes(f"{CAPTION}\r\n".encode(encoding))
    assert check_subject(subject, 32, "files") == []
    assert resolve_subject(subject, 32, "files").captions == (CAPTION,)


def test_captions_that_were_joined_from_several_files(tmp_path: Path) -> None:
    subject = photographs(tmp_path, ["a.png", "b.png", "c.png"])
    for name in "abc":
        (tmp_path / f"{name}.txt").write_bytes("a sks dog\n".encode("utf-8-sig") * 2)
    assert resolve_subject(subject, 32, "files").captions == ("a sks dog a sks dog",)


@pytest.mark.parametrize("mark", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_caption_that_is_nothing_but_a_mark_is_empty(mark: str, tmp_path: Path) -> None:
    subject = photographs(tmp_path, ["a.png", "b.png", "c.png"])
    for name in "abc":
        (tmp_path / f"{name}.txt").write_bytes("\u200b \n".encode(mark))
    (problem,) = check_subject(subject, 32, "files")
    assert "these are empty" in problem


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a café".encode("cp1252"), "byte 5 is not UTF-8; save the file as UTF-8 text"),
        (
            "a dog".encode("utf-16-le"),
            "NUL bytes, as UTF-16 without a byte-order mark has; save the file as UTF-8",
        ),
        (b"\xff\xfea\0\x00", "byte 4 is not UTF-16"),
    ],
)
def test_captions_in_other_encodings_are_named(content: bytes, expected: str, tmp_path: Path) -> None:
    subject = photographs(tmp_path, ["a.png", "b.png", "c.png"])
    for name in "abc":
        (tmp_path / f"{name}.txt").write_bytes(content)
    (problem,) = check_subject(subject, 32, "files")
    assert ".txt: " in problem
    assert expected in problem


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_files_of_a_study_of_a_run_and_of_a_cluster(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(STUDY.replace("\n", "\r\n").encode(encoding))
    assert load_study(path).name == "notepad"
    path.write_bytes(b"method: lora\r\nsubject: robot\r\n".decode().encode(encoding))
    assert load_run(path).method == "lora"
    path.write_bytes("---\r\ncluster_name: café\r\n".encode(encoding))
    assert lint_file(path)
    assert load_document(path).data == {"cluster_name": "café"}
