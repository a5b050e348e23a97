"""An object that shows whether anybody unpickled it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, nest: Path) -> None:
        self.nest = nest

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return os.system, (f"touch {self.nest}",)


@pytest.fixture(scope="module")
def nest() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="canary-"))
    yield folder / "sang"
    shutil.rmtree(folder, ignore_errors=True)
