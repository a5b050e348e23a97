"""How much is free where a folder will be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from study.util.disk import SPARE_BYTES, existing, free_bytes, room_problem


def test_a_folder_that_does_not_exist_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    usage = shutil.disk_usage(tmp_path)._replace(free=1234)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: (asked.append(place), usage)[1])
    assert existing(tmp_path / "a" / "b") == tmp_path
    assert free_bytes(tmp_path / "a" / "b") == 1234
    assert asked == [tmp_path]


def test_one_rule_for_all_who_need_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=SPARE_BYTES + 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    folder = tmp_path / "a"
    assert room_problem(folder, "a report", "or stop") is None
    assert room_problem(folder, "a report", "or stop", 1000) is None
    assert room_problem(folder, "the study", "or stop", 10**9) == (
        f"the study needs about 1.27 GB in {folder}, but 268 MB are free; make room, or stop"
    )
