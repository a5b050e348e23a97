"""What all faults share: their type, the run that they hit, and what a driver must have said."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

from benchmarks.fault_harness.driving import Driven, Hung
from benchmarks.fault_harness.studies import run_folders

Recovered = Callable[[], bool]  # whether the fault was overcome
Injector = Callable[[Driven], Recovered]


def one_run(driven: Driven) -> str:
    """A run that is in the middle of its training now."""
    runs = driven.halfway() or [name for name in run_folders(driven.storage) if driven.attempts(name)][-1:]
    return driven.rng.choice(runs)


def kill(pid: int) -> None:
    """SIGKILL to a process, if it still lives."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def must_say(driven: Driven, code: int, *texts: str) -> None:
    """Raises Hung unless the driver ended with that code, without a traceback, and said all of these texts."""
    said = " ".join(driven.said().split())
    assert driven.process is not None
    if driven.process.returncode != code or "Traceback" in said or not all(text in said for text in texts):
        raise Hung(f"the driver ended with {driven.process.returncode} and said: {said[-800:]}")
