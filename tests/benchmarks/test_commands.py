"""Every benchmark is a command: ``python -m benchmarks.NAME``."""

from __future__ import annotations

import importlib
import re

import pytest

from tests.helpers.imports import ROOT

COMMANDS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_is_there_and_says_how_it_is_run(name: str) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    source = (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
    if "__main__" in source:
        assert f"python -m benchmarks.{name}" in (module.__doc__ or "")
    # Run as a file, its folder would come first, whose statistics.py is not Python's.
    assert "sys.path.insert" not in source


def test_documents_name_benchmarks_that_are_there() -> None:
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "trainables").rglob("*.md")]
    texts = {path.name: path.read_text(encoding="utf-8") for path in files}
    found = {name for text in texts.values() for name in re.findall(r"python -m benchmarks\.(\w+)", text)}
    assert len(found) > 5
    assert found <= {*COMMANDS, "pretraining"}
    assert [name for name, text in texts.items() if "python benchmarks/" in text] == []
