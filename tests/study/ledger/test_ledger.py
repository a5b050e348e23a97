"""The tests of the ledger, on SQLite."""

from __future__ import annotations

from tests.helpers.ledger_cases import *  # noqa: F403
