"""Run files, and waiting for what a run writes."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import yaml

from trainables.events import read_events
from trainables.run_config import RunConfig


def write_yaml(config: RunConfig, path: Path) -> Path:
    content = config.model_dump(mode="json", exclude_unset=True)
    path.write_text(yaml.safe_dump(content))
    return path


def wait_for(folder: Path, kind: str, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not any(event.kind == kind and (event.step or 0) >= step for event in read_events(folder)):
        if process.poll() is not None:
            raise AssertionError(f"the run ended early: {process.communicate()}")
        if time.monotonic() > deadline:
            raise AssertionError("the run did not come so far")
        time.sleep(0.02)
