"""Names and paths from users and from storage: none of them leads out of the storage folder."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from study.driver.claim import claimed
from study.remote import working_copy
from study.results.csv_files import read_csv, write_csv
from study.results.from_folders import local_results
from study.spec.launched import readable_storage
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.storage.safe_paths import inside
from study.tracking.sync import sync
from tests.helpers.fake_runs import fake_runs, make_study
from tests.helpers.mlflow_stores import prepare_store, runs_by_key
from tests.helpers.small_studies import small_study, storage_of
from trainables.errors import UserError
from trainables.events import EventLog

NASTY = [
    "", ".", "..", "../x", "a/../../x", "/etc/passwd", "~", "~root", "a/b", "a\\b", "..\\x", "a\0b", "a\nb", "a\n",
    " a", "a b", "-rf", "--help", ".hidden", "con:", "a" * 65, "café", "аrm",  # a Cyrillic letter
    "a\u202eb", "a\u2215b", "ａ", "%2e%2e", "$(id)", "`id`", "a;b", "a'b", 'a"b', "<b>", "a*", "a?", "[a]",
]  # fmt: skip


@pytest.mark.parametrize("name", NASTY, ids=repr)
def test_no_nasty_name_is_taken_for_a_study_an_arm_or_a_subject(name: str) -> None:
    arm = {"method": "lora"}
    for sections in (
        {"name": name},
        {"arms": {name: arm}},
        {"subjects": [{"name": name, "images": "photos"}, "dog-1"]},
    ):
        with pytest.raises(ValidationError):
            small_study(**{"name": "sound", **sections})


@pytest.mark.parametrize("name", NASTY, ids=repr)
def test_no_nasty_name_is_a_run_key(name: str) -> None:
    for text in (
        name,
        f"search/{name}/0000-cat-1-s0",
        f"search/lora/0000-{name}-s0",
        f"{name}/lora/0000-cat-1-s0",
    ):
        with pytest.raises(ValueError, match="is not the name of a run"):
            RunKey.parse(text)
    for text in ("search/lora/0000-cat-1-s0\n", "search/lora/٠٠٠٠-cat-1-s0", "search/lora/0000-cat-1-s٠"):
        with pytest.raises(ValueError, match="is not the name of a run"):
            RunKey.parse(text)


@pytest.mark.parametrize("name", NASTY, ids=repr)
def test_no_nasty_name_finds_a_study(name: str, tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    (tmp_path / "study.json").write_text("{}")
    (tmp_path / "storage" / "study.json").write_text("{}")
    with pytest.raises(UserError, match="no study called"):
        readable_storage(tmp_path / "storage", name)


def test_commands_take_nasty_arguments_as_names(tmp_path: Path) -> None:
    """Exit code 2, a message, no traceback; and no file is made or read outside."""
    storage = make_study(tmp_path / "storage")
    (storage.folder / "study.json").write_text(json.dumps(small_study("fake").record()))
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    for words in (
        ["logs", "fake", "../../../../etc/passwd"],
        ["logs", "fake", "search/../0000-cat-1-s0"],
        ["generate", "fake", "../x", "--prompt", "a cat", "--out", str(tmp_path / "drawn")],
        ["status", "../fake"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "study.cli", *words, "--storage", str(storage.root)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert "root:" not in done.stdout + done.stderr
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_inside(tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "run-2"
    (run / "samples").mkdir(parents=True)
    outside.mkdir()
    (run / "samples" / "a.png").touch()
    (outside / "a.png").touch()
    (run / "inner").symlink_to(run / "samples")
    (run / "outer").symlink_to(outside)
    (run / "circle").symlink_to(run / "circle")
    assert inside(run, "samples/a.png") == run / "samples" / "a.png"
    assert inside(run, "inner/a.png") is not None
    for name in (
        "outer/a.png",
        "../run-2/a.png",
        str(outside / "a.png"),
        "",
        ".",
        "samples/..",
        "nothing",
        "circle",
        "a\0b",
    ):
        assert inside(run, name) is None, name


@pytest.fixture
def planted(tmp_path: Path) -> Storage:
    """A finished study in whose runs somebody planted paths to a secret picture and a secret text."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 64), (1, 2, 3)).save(secret, pnginfo=None)
    (tmp_path / "secret.txt").write_text("s3cret-text")
    confirmed = [run for run in fake_runs() if run.key.phase == "confirm" and run.arm.method != "base"]
    storage = make_study(tmp_path / "storage", runs=confirmed[:8])
    folders = sorted((storage.folder / "runs").glob("confirm/*/*"))
    for number, path in enumerate(
        (os.path.relpath(secret, folders[0]), str(secret), "link.png", "links/secret.png", "../x\0")
    ):
        folder = folders[number]
        (folder / "link.png").symlink_to(secret)
        (folder / "links").symlink_to(tmp_path)
        EventLog(folder).append("image", 1, key="planted", path=path)
    result = json.loads((folders[5] / "result.json").read_text())
    (folders[5] / "result.json").write_text(json.dumps({**result, "weights": "../../../../../secret.txt"}))
    (folders[6] / "weights").mkdir(exist_ok=True)
    (folders[6] / "weights" / "more.txt").symlink_to(tmp_path / "secret.txt")
    (folders[7] / "weights.json").symlink_to(tmp_path / "secret.txt")
    return storage


def test_planted_paths_reach_neither_mlflow_nor_a_report(planted: Storage, tmp_path: Path) -> None:
    storage = planted
    store = prepare_store(storage)
    sync(storage)
    assert len(runs_by_key(store)) == len(list((storage.folder / "runs").glob("*/*/*")))
    shown = local_results(storage).images
    assert len(shown)
    assert "planted" not in set(shown["key"])
    pixels = Image.open(tmp_path / "secret.png").tobytes()
    told = []
    for folder in (storage.artifact_root,):
        for path in folder.rglob("*"):
            if path.is_file() and (b"s3cret-text" in path.read_bytes() or "planted" in path.name):
                told.append(str(path))
            if path.suffix == ".png" and Image.open(path).convert("RGB").tobytes() == pixels:
                told.append(str(path))
    assert told == []
    assert list(storage.artifact_root.rglob("*.png"))  # sound images got there


def test_a_table_of_somebody_else_draws_no_other_file_into_a_report(tmp_path: Path) -> None:
    storage = make_study(tmp_path / "storage")
    data = storage.folder
    write_csv(local_results(storage), data)
    (tmp_path / "secret.txt").write_text("s3cret-text")
    lines = (data / "images.csv").read_text().splitlines()
    first = lines[1].rsplit(",", 1)[0]
    (data / "images.csv").write_text(
        "\n".join([*lines, f"{first},../../secret.txt", f"{first},/etc/passwd"]) + "\n"
    )
    assert len(read_csv(data).images) == len(lines) - 1


@pytest.mark.parametrize(
    "place", ["runs", "runs/search", "runs/search/cosine", "run", "events.jsonl", "checkpoint"]
)
def test_a_link_under_which_a_run_would_write_outside_is_refused(place: str, tmp_path: Path) -> None:
    spec = small_study()
    storage = storage_of(tmp_path / "storage", spec)
    outside = tmp_path / "outside"
    outside.mkdir()
    run = storage.folder / "runs" / "search" / "cosine" / "0000-cat-1-s0"
    link = run if place == "run" else storage.folder / place if place.startswith("runs") else run / place
    link.parent.mkdir(parents=True)
    link.symlink_to(outside / "file" if place == "events.jsonl" else outside)
    with (
        pytest.raises(UserError, match="is a link that leads out of the study's folder"),
        claimed(spec, storage),
    ):
        pass
    assert list(outside.iterdir()) == []
    link.unlink()
    with claimed(spec, storage):
        pass


def test_storage_itself_may_be_a_link(tmp_path: Path) -> None:
    """A common way to keep runs on a larger disk."""
    spec = small_study()
    (tmp_path / "disk" / spec.name).mkdir(parents=True)
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / spec.name).symlink_to(tmp_path / "disk" / spec.name)
    with claimed(spec, storage_of(tmp_path / "storage", spec)):
        assert (tmp_path / "disk" / spec.name / "study.json").exists()


def test_a_study_that_was_copied_keeps_working(tmp_path: Path) -> None:
    spec: Any = small_study()
    storage = storage_of(tmp_path / "storage", spec)
    with claimed(spec, storage):
        pass
    shutil.copytree(tmp_path / "storage", tmp_path / "copy")
    with claimed(spec, storage_of(tmp_path / "copy", spec)):
        pass


def test_no_study_of_a_bucket_is_written_outside_the_working_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys of an object store are any text: ``prefix/../study.json`` is one."""

    class Bucket:
        def folders(self) -> list[str]:
            return [*NASTY, "good"]

        def get(self, key: str) -> bytes:
            return b"{}"

    monkeypatch.setattr(working_copy, "_reading", lambda url: contextlib.nullcontext(Bucket()))
    working_copy.fetch_studies(tmp_path / "deep" / "root", "s3://bucket")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("study.json")] == [
        "deep/root/good/study.json"
    ]
