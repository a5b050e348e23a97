"""What is done for a run before it starts and after each attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from study.storage.planned_run import PlannedRun


class StorageUnavailable(Exception):
    """A run must not be given out now: the storage cannot be written."""


def _nothing(run: PlannedRun, driver_id: str) -> None:
    pass


def _at_hand(run: PlannedRun, driver_id: str) -> bool:
    return True


@dataclass(frozen=True)
class RunHooks:
    """What is done around every run; nothing where the storage is a folder.

    Attributes:
        before_start: Called before a run is given out; may raise `StorageUnavailable`.
        after_attempt: Called when an attempt has ended: its folder then holds what it left; returns False if that
            cannot be told now.
        publish: Called when the driver itself has written the end of a run.
    """

    before_start: Callable[[PlannedRun, str], None] = _nothing
    after_attempt: Callable[[PlannedRun, str], bool] = _at_hand
    publish: Callable[[PlannedRun, str], None] = _nothing
