"""Somebody has a report's folder and nothing else: the command in its manifest makes the same report again."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from study.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "reports" / "quickstart"


def test_the_command_of_its_manifest_makes_the_same_report(tmp_path: Path) -> None:
    copy = tmp_path / "from a colleague"
    shutil.copytree(SHIPPED, copy)
    program, *words = shlex.split(json.loads((copy / "manifest.json").read_text())["rebuild"])
    assert program == "study"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "STUDY"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "study.cli", *words],
        cwd=copy,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rebuilt = copy / "rebuilt" / "quickstart"
    names = [path.relative_to(SHIPPED) for path in SHIPPED.rglob("*") if path.is_file()]
    assert names
    for name in names:
        # Figures depend on the fonts' and drawing library's versions, which the manifest names.
        if name.parts[0] in ("tables", "data") or name.suffix == ".md":
            assert (rebuilt / name).read_bytes() == (copy / name).read_bytes(), name
    assert {path.name for path in copy.iterdir()} == {path.name for path in SHIPPED.iterdir()} | {"rebuilt"}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["report", *arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_other_names_and_places_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "of study 'quickstart', not of 'mine'" in refused(capsys, "mine", "--from-csv", str(SHIPPED))
    assert "cannot be the name of a study" in refused(capsys, "../up", "--from-csv", str(SHIPPED))
    assert "holds no runs.csv" in refused(capsys, "quickstart", "--from-csv", str(tmp_path))
    assert list(tmp_path.iterdir()) == []
