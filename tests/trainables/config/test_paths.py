"""What in a study file or run file becomes an absolute path, and what is left for the hub or for a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.config.paths import absolute_model, absolute_models, absolute_subject, is_hub_id


@pytest.mark.parametrize("name", ["owner/name", "stable-diffusion-v1-5/stable-diffusion-v1-5", "a_b/c.d-e"])
def test_a_hub_id(name: str, tmp_path: Path) -> None:
    assert is_hub_id(name)
    assert absolute_model(name, tmp_path) == name


@pytest.mark.parametrize(
    "name",
    [
        "embedded",
        "sd15",
        "a/b/c",
        "/a/b",
        "./a",
        "../a",
        "~/a",
        ".hidden/a",
        "owner/file.safetensors",
        "a b/c",
        "",
    ],
)
def test_no_hub_id(name: str) -> None:
    assert not is_hub_id(name)


def test_a_folder_that_is_there_goes_before_the_hub(tmp_path: Path) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert absolute_model("owner/name", tmp_path) == str(tmp_path / "owner" / "name")
    (tmp_path / "embedded").mkdir()
    assert absolute_model("embedded", tmp_path) == "embedded"


@pytest.mark.parametrize("name", ["a/b/c", "./a", "../a", "owner/file.safetensors", "/a/b"])
def test_a_path_is_absolute_whether_it_is_there_or_not(name: str, tmp_path: Path) -> None:
    assert absolute_model(name, tmp_path) == str((tmp_path / name).resolve())


@pytest.mark.parametrize("name", ["embeded", "sd15", " "])
def test_what_is_neither_stays_for_its_message(name: str, tmp_path: Path) -> None:
    assert absolute_model(name, tmp_path) == name


def test_nothing_is_the_folder_of_the_file(tmp_path: Path) -> None:
    assert absolute_model("", tmp_path) == str(tmp_path)


def test_home_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert absolute_model("~/sd15", tmp_path / "elsewhere") == str(tmp_path / "home" / "sd15")


def test_folders_of_subjects_and_data_sets(tmp_path: Path) -> None:
    subject = {"name": "mine", "images": "a", "references": "/b", "masks": "alpha", "class_prompt": "a/b"}
    assert absolute_subject(subject, tmp_path) == {**subject, "images": str(tmp_path / "a")}
    assert absolute_subject({"masks": "m"}, tmp_path) == {"masks": str(tmp_path / "m")}
    blank = {"images": "", "dataset": {"path": " "}}
    assert absolute_subject(blank, tmp_path) == blank
    data_set = {"name": "set", "dataset": {"path": "p", "references": "r", "trigger": "t/t"}}
    assert absolute_subject(data_set, tmp_path)["dataset"] == {
        "path": str(tmp_path / "p"), "references": str(tmp_path / "r"), "trigger": "t/t",
    }  # fmt: skip


@pytest.mark.parametrize("malformed", [None, 3, "dog-1", ["a"], {"images": 3, "dataset": "x"}])
def test_what_is_malformed_comes_back_as_it_is(malformed: object, tmp_path: Path) -> None:
    assert absolute_subject(malformed, tmp_path) == malformed
    assert absolute_models(malformed, ("images",), tmp_path) == malformed
