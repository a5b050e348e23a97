"""How much is free where a folder will be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from study.util.disk import existing, free_bytes


def test_a_folder_that_does_not_exist_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    usage = shutil.disk_usage(tmp_path)._replace(free=1234)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: (asked.append(place), usage)[1])
    assert existing(tmp_path / "a" / "b") == tmp_path
    assert free_bytes(tmp_path / "a" / "b") == 1234
    assert asked == [tmp_path]
