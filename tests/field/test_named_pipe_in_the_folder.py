"""A named pipe among photographs made `study validate` wait for ever; links to nothing were "no such file"."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.photographs import photographs
from trainables.data import images
from trainables.data.images import check_image
from trainables.data.subjects import check_subject

RUN = """method: lora
subject: {name: dog, images: photos, instance_prompt: a sks dog, class_prompt: a dog}
training: {captions: files}
"""


def test_the_command_ends_and_names_all_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    photographs(folder, ["a.png", "b.png", "c.png"])
    os.mkfifo(folder / "pipe.png")
    for name in "abc":
        os.mkfifo(folder / f"{name}.txt")
    (folder / "gone.png").symlink_to("/nowhere/at all.png")
    (folder / "round.png").symlink_to("round.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "run.yaml").write_text(RUN)
    command = [sys.executable, "-m", "trainables", str(tmp_path / "run.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    for told in (
        "pipe.png: is a named pipe, not an image file",
        "zero.png: is a device, not an image file",
        "gone.png: is a link to /nowhere/at all.png, which leads to no file",
        "round.png: is a link to round.png, which leads to no file",
        ".txt: is a named pipe, not a text file",
    ):
        assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "run").exists()


def test_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.png")
        assert "s.png: is a socket" in str(check_image(tmp_path / "s.png"))


def test_links_to_photographs_are_photographs(tmp_path: Path) -> None:
    photographs(tmp_path / "elsewhere", ["a.png", "b.png", "c.png"])
    subject = photographs(tmp_path / "photos", [])
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / "photos" / name).symlink_to(tmp_path / "elsewhere" / name)
    assert check_subject(subject, 32) == []


def test_a_film_of_gigabytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "film.jpg").open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("read"))
    assert "an image file has at most" in str(check_image(tmp_path / "film.jpg"))
