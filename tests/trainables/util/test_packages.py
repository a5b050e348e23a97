"""Versions of packages."""

from __future__ import annotations

from importlib import metadata

from trainables.util.packages import versions_of


def test_packages_that_are_not_installed_are_left_out() -> None:
    found = versions_of(["torch", "no-such-package", "numpy"])
    assert found == {"torch": metadata.version("torch"), "numpy": metadata.version("numpy")}
    assert list(found) == ["torch", "numpy"]
