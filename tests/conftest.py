"""Fixtures of all tests, and their order: what takes long begins first."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

# Ray's workers are as important here as the test that waits for them; Ray lets everything else on the machine go first.
os.environ.setdefault("RAY_worker_niceness", "0")
# Asserts in what tests share tell as much as those in tests.
pytest.register_assert_rewrite("tests.helpers")


def pytest_configure(config: pytest.Config) -> None:
    """Keeps pytest-xdist from beginning with the files of many tests, which are the quickest."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files with slow tests first, so that no worker begins a long one when the others are done."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish() -> None:
    """Leaves what was collected and imported out of garbage collection: to walk it took a quarter of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def fast_path() -> Iterator[Path]:
    """A temporary folder, in memory where there is one: ledger and events are synced at every write."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="study-test-", dir=memory if memory.is_dir() else None))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
