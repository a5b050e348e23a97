"""Fixtures of all tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def fast_path() -> Iterator[Path]:
    """A temporary folder, in memory where there is one: ledger and events are synced at every write."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="study-test-", dir=memory if memory.is_dir() else None))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
