"""What drivers and workers of the harness run in place of plain training: the same, with faults that files switch on.

The folder that ``STUDY_FAULTS`` names may hold, at any time:

- ``clock``: seconds that are added to the wall clock;
- ``disk``: ``{"errno": number, "under": folder}``: every write of a worker under that folder fails so;
- ``slow``: seconds that every flush of a worker's file to the disk takes longer;
- ``silent``: a worker that would report stays silent for as long as the file is there;
- ``pace``: seconds that a worker waits after each progress event, so that there is a middle to be hit.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = "STUDY_FAULTS"
_installed: set[str] = set()
_wall_clock = time.time


def execute(config: Any, resident: Any = None, worker_group: Any = None) -> Iterator[Any]:
    """`trainables.run.execute.execute`, in a process whose clock, disk and speed the harness rules."""
    from trainables.run import execute as run

    install_clock()
    install_worker()
    yield from run.execute(config, resident, worker_group)


def install_clock() -> None:
    """Makes the wall clock of this process jump when the harness says so; monotonic clocks go on."""
    if "clock" not in _installed:
        _installed.add("clock")
        time.time = lambda: _wall_clock() + float(_said("clock") or 0.0)


def install_worker() -> None:
    """Makes the disk of this process fail, its flushes slow, and its reports late."""
    if "worker" in _installed:
        return
    _installed.add("worker")
    from trainables.events import EventLog

    fsync, replace, opened, append = os.fsync, os.replace, io.open, EventLog.append

    def failing_fsync(descriptor: int) -> None:
        _fail(f"/proc/self/fd/{descriptor}")
        time.sleep(float(_said("slow") or 0.0))
        fsync(descriptor)

    def failing_replace(source: Any, target: Any, **more: Any) -> None:
        _fail(target)
        replace(source, target, **more)

    def failing_open(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if isinstance(file, (str, os.PathLike)) and set(mode) & set("wax+"):
            _fail(file)
        return opened(file, mode, *rest, **more)

    def late_append(log: Any, kind: Any, step: int | None = None, **data: Any) -> Any:
        event = append(log, kind, step, **data)
        if kind == "progress":
            time.sleep(float(_said("pace") or 0.0))
        while _said("silent") is not None:
            time.sleep(0.2)
        return event

    os.fsync, os.replace = failing_fsync, failing_replace
    builtins.open = io.open = failing_open  # type: ignore[assignment]
    EventLog.append = late_append  # type: ignore[method-assign]


def _fail(path: Any) -> None:
    said = _said("disk")
    if said:
        fault = json.loads(said)
        if os.path.realpath(path).startswith(fault["under"]):
            raise OSError(fault["errno"], os.strerror(fault["errno"]), str(path))


def _said(name: str) -> str | None:
    try:
        descriptor = os.open(Path(os.environ[FOLDER]) / name, os.O_RDONLY)
    except (OSError, KeyError):
        return None
    try:
        return os.read(descriptor, 4096).decode()
    finally:
        os.close(descriptor)
