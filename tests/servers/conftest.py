"""One PostgreSQL server for all tests of this folder; each test has a database of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.helpers.postgres_server import Postgres, postgres, reason_to_skip

_numbers = itertools.count()


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
