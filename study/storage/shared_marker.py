"""A driver's mark in a study's folder, by which a process on another node knows that it sees the same folder."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from study.storage.layout import MARKER_FILE
from trainables.util.files import replacing

VISIBLE_SECONDS = 10.0  # network file systems remember for some seconds what was not there


def write_marker(folder: Path, driver_id: str) -> None:
    """Leaves the driver's mark in a study's folder, by which nodes know that they see the same one."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / MARKER_FILE, durable=False) as partial:
        partial.write_text(driver_id, encoding="utf-8")


def is_visible(folder: Path, driver_id: str, seconds: float = 0.0) -> bool:
    """Whether this process sees the mark of that driver, at once or within some seconds."""
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if (folder / MARKER_FILE).read_text(encoding="utf-8") == driver_id:
                return True
        if time.monotonic() > until:
            return False
        time.sleep(0.5)
