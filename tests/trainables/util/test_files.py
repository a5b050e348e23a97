"""Files that take their place in one step: whole or not at all, and nothing is left beside them."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from study.util.json_files import write_json
from trainables.run.run_folder import write_json as write_record
from trainables.util.files import remove_partials, replacing, sha256_of


def test_a_file_appears_whole_and_alone(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250)
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert (partial.name[0], partial.suffix) == (
            ".",
            ".partial",
        )  # by which nobody takes it for a run's file
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
    assert sha256_of(path) == hashlib.sha256(b"new").hexdigest()


@pytest.mark.parametrize("fails", ["body", "fsync", "replace"])
def test_what_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    def write() -> None:
        with replacing(path) as partial:
            partial.write_text("new")
            if fails == "body":
                fail()

    with monkeypatch.context() as patch:
        if fails != "body":
            patch.setattr(os, fails, fail)
        with pytest.raises(OSError, match="full"):
            write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("durable", "flushes"), [(True, 1), (False, 0)])
def test_what_must_outlive_a_crash_is_flushed_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, flushes: int
) -> None:
    done: list[str] = []
    replace = os.replace

    def note_replace(source: Path, target: Path) -> None:
        done.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", lambda _: done.append("fsync"))
    monkeypatch.setattr(os, "replace", note_replace)
    with replacing(tmp_path / "x", durable=durable) as partial:
        partial.write_text("new")
    assert done == ["fsync"] * flushes + ["replace"]


def test_the_records_keep_their_form(tmp_path: Path) -> None:
    content = {"b": 1, "a": None}
    before = os.umask(0o077)
    try:
        write_json(tmp_path / "new" / "sorted.json", content)
    finally:
        os.umask(before)
    path = tmp_path / "new" / "sorted.json"
    assert path.read_text() == '{\n  "a": null,\n  "b": 1\n}\n'
    # Others than its owner read it on storage that several share.
    assert path.stat().st_mode & 0o777 == 0o644
    size = write_record(tmp_path / "record.json", content)
    assert size == (tmp_path / "record.json").stat().st_size
    assert (tmp_path / "record.json").read_text() == '{\n  "b": 1,\n  "a": null\n}'


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    with replacing(tmp_path / "x.json") as partial:
        partial.write_text("half")
    for name in ("x.json", "y.partial", ".hidden", partial.name):
        (tmp_path / name).write_text("")
    remove_partials(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "x.json", "y.partial"]
