"""What an installation gets, by the project's own settings of the build."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from setuptools import find_namespace_packages, find_packages

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_holds_the_packages_and_nothing_that_only_made_the_embedded_model() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "packages"
    ]
    # Named `find` in a pyproject.toml, setuptools takes folders without __init__.py too, unless told otherwise.
    find = find_namespace_packages if settings["find"].get("namespaces", True) else find_packages
    found = find(
        where=str(ROOT), include=settings["find"]["include"], exclude=settings["find"].get("exclude", ())
    )
    assert {name.split(".")[0] for name in found} == {"study", "trainables", "search_spaces"}
    assert {"trainables.embedded", "trainables.methods", "study.cli"} <= set(found)
    assert [name for name in found if "pretrain" in name] == []


def test_installed_code_imports_nothing_that_is_in_the_repository_alone() -> None:
    sources = [
        path
        for package in ("study", "trainables", "search_spaces")
        for path in (ROOT / package).rglob("*.py")
    ]
    assert len(sources) > 200
    imports = re.compile(r"^\s*(?:from|import) (?:benchmarks|tests)\b", re.MULTILINE)
    assert [str(path) for path in sources if imports.search(path.read_text(encoding="utf-8"))] == []
