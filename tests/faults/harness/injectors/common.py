"""What all faults share: their type, the run that they hit, and what a driver must have said."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from study.storage.attempts import attempts, worker_failures
from tests.faults.harness.driving import Driven, Hung
from tests.faults.harness.studies import run_folders

Recovered = Callable[[], bool]  # whether the fault was overcome
Injector = Callable[[Driven], Recovered]
NOTICED_SECONDS = 150.0  # within which Ray gives a silent node up, and another is at work: on a busy machine


def one_run(driven: Driven) -> str:
    """A run that is in the middle of its training now."""
    runs = driven.halfway() or [name for name in run_folders(driven.storage) if driven.attempts(name)][-1:]
    return driven.rng.choice(runs)


def runs_on(driven: Driven, node: Any) -> dict[str, Path]:
    """The folders of the runs that have not ended and whose last attempt began on that node."""
    found = {}
    for name, folder in run_folders(driven.storage).items():
        begun = attempts(folder)
        here = begun and str(begun[-1].get("node", "")).endswith("/" + str(node.node_id)[:8])
        if here and not (folder / "result.json").exists():
            found[name] = folder
    return found


def nothing_dies(driven: Driven, node: Any, of: str) -> Recovered:
    """A condition that holds as long as no attempt at a run that is on a node now has died; raises Hung if one has."""
    before = {name: len(worker_failures(folder)) for name, folder in runs_on(driven, node).items()}

    def condition() -> bool:
        folders = run_folders(driven.storage)
        if more := [name for name, count in before.items() if len(worker_failures(folders[name])) > count]:
            raise Hung(f"{', '.join(more)} died of {of}")
        return True

    return condition


def processes_of(node: Any) -> list[psutil.Process]:
    """The raylet of a node and all that it has started."""
    found: list[psutil.Process] = []
    for infos in node.all_processes.values():
        for info in infos:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(info.process.pid)
                found += [process, *process.children(recursive=True)]
    return found


def kill(pid: int) -> None:
    """SIGKILL to a process, if it still lives."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def until(condition: Callable[[], bool], what: str) -> None:
    """Waits, without launching the driver again: nothing of this may end it."""
    end = time.monotonic() + NOTICED_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise Hung(f"{what}: not within {NOTICED_SECONDS:g} s")
        time.sleep(0.1)


def must_say(driven: Driven, code: int, *texts: str) -> None:
    """Raises Hung unless the driver ended with that code, without a traceback, and said all of these texts."""
    said = " ".join(driven.said().split())
    assert driven.process is not None
    if driven.process.returncode != code or "Traceback" in said or not all(text in said for text in texts):
        raise Hung(f"the driver ended with {driven.process.returncode} and said: {said[-800:]}")
