"""Waiting for what shall come, and for processes that somebody ends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Any

import psutil


def wait_gone(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Waits until processes are gone, at most so long; returns those that are not.

    `psutil.wait_procs` does the same, and raises where one vanishes while it looks.
    """
    alive = list(processes)
    end = time.monotonic() + seconds
    while True:
        alive = [process for process in alive if _lives(process)]
        if not alive or time.monotonic() > end:
            return alive
        time.sleep(0.05)


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Waits until a condition holds, at most so long; returns what it came to."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found
