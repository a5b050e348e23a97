"""Fixtures of all tests, and their order: what takes long begins first, beside what computes."""

from __future__ import annotations

import gc
import itertools
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
from tests.helpers.postgres_server import Postgres, postgres, reason_to_skip  # noqa: E402 - after the line above

_numbers = itertools.count()  # of the databases of this process


def pytest_configure(config: pytest.Config) -> None:
    """Keeps pytest-xdist from beginning with the files of many tests, which are the quickest."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files with slow tests first, each followed by one without.

    So no worker begins a long one when the others are done; and as slow tests mostly wait (for Ray, for processes), the
    others compute meanwhile.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    waiting = sorted(slow, key=lambda path: -slow[path])
    others = [path for path in dict.fromkeys(item.path for item in items) if path not in slow]
    pairs = itertools.zip_longest(waiting, others)
    places = {path: place for place, path in enumerate(itertools.chain.from_iterable(pairs)) if path}
    items.sort(key=lambda item: places[item.path])


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


@pytest.fixture(scope="session")
def database_server() -> Iterator[Postgres]:
    """A PostgreSQL server; skips with the reason where there can be none."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    with postgres() as server:
        yield server


@pytest.fixture
def database(database_server: Postgres) -> Iterator[str]:
    """The URL of an empty database; its password comes from a file, as a user's would."""
    name = f"ledger_{next(_numbers)}"
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in database_server.environment.items():
            patch.setenv(variable, value)
        yield database_server.create_database(name)
    database_server.drop_database(name)
