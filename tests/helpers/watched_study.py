"""A study in a process of its own, and what can be seen of it from outside while it runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from tests.helpers.small_studies import RESIDENT, RUNNER, results

PATIENCE_SECONDS = 240


@dataclass(frozen=True)
class Running:
    """A driver that works on a study."""

    process: psutil.Process
    storage: Storage
    log: Path

    def tree(self) -> list[psutil.Process]:
        """The driver and everything that it started, workers too."""
        return [self.process, *self.process.children(recursive=True)]

    def wait_for_results(self, count: int) -> None:
        """Waits until so many runs have ended."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while sum(result is not None for result in results(self.storage).values()) < count:
            assert self.process.is_running(), self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)


@contextlib.contextmanager
def driver(
    spec: StudySpec, storage: Storage, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Launches a study with the fake runner; ends it in order at the end of the block, if it has not ended."""
    file, log = folder / "spec.json", folder / "driver.log"
    file.write_text(spec.model_dump_json())
    words = [
        sys.executable,
        "-m",
        "tests.helpers.launch_study",
        str(storage.root),
        str(file),
        RUNNER,
        RESIDENT,
    ]
    with log.open("w") as output:
        process = subprocess.Popen(
            words,
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        )
    try:
        yield Running(psutil.Process(process.pid), storage, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def outcome(running: Running) -> dict[str, object]:
    """What the driver printed as its last line."""
    found: dict[str, object] = json.loads(running.log.read_text().strip().splitlines()[-1])
    return found


def words_of(process: psutil.Process) -> list[str]:
    """The arguments of a process; empty for one that is gone."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []
