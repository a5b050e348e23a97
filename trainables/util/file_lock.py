"""Locks on files, held by an open file (``flock``): the system lets go of them when the process ends, however it ends.

Who needs to exclude other processes opens a file of its own, calls `lock_file`, and keeps the file open. Closing it
gives the lock back.
"""

from __future__ import annotations

import fcntl
import math
import time
from pathlib import Path
from typing import IO, Any

FOREVER = math.inf
_PAUSE_SECONDS = 0.05


def lock_file(file: IO[Any], *, wait_seconds: float = 0.0) -> None:
    """Takes the exclusive lock of an open file.

    Args:
        wait_seconds: How long to wait for whoever holds it; `FOREVER` has no end.

    Raises:
        BlockingIOError: Another open file still holds it after that time.
        OSError: The file system has no such locks.
    """
    if wait_seconds == FOREVER:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    until = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def is_locked(path: Path) -> bool:
    """Whether some process that this machine knows of holds the lock of a file; leaves the file as it is.

    Raises:
        OSError: There is no such file, or it cannot be asked.
    """
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
