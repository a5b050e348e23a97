"""The driver's heartbeat in the study's folder: who drives it, on which nodes, and a request to stop it.

A thread of the driver writes ``driver.json`` every few seconds and looks for ``stop-request.json``. A request names
the driver that it is meant for, so that one which comes too late can never end a later launch.
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass, fields
from typing import Any, Literal

from study.storage.layout import DRIVER_FILE, LOCK_FILE, Storage
from trainables.util.file_lock import is_locked

SILENT_SECONDS = 60.0  # a driver on another machine that has not been heard of for so long is taken for dead

Life = Literal["alive", "ended", "dead"]


@dataclass(frozen=True)
class Driver:
    """What a driver said of itself last; times in seconds since the epoch.

    Attributes:
        id: Of this launch; a stop request names it.
        folder: Of the study as this driver sees it; the lock that it holds lies there.
        since: When it began; `beat` is its last heartbeat, `ended` when it let go of the study.
        how: After its end: ``finished``, or why it was interrupted.
        driver_id: Of the attempts that it gives out now.
        live: Names of the runs that it has given out.
        pending: Those of them that still wait in Ray for room.
        limit: How many runs it gives out at once.
        nodes: Of the Ray cluster, each with ``name`` (address/id), ``cpus`` and ``gpus``.
        dashboard: URL of Ray's dashboard, if there is one; `token_file` holds what it asks for.
    """

    id: str
    pid: int
    host: str
    since: float
    beat: float
    ended: float | None = None
    how: str | None = None
    driver_id: str | None = None
    live: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    limit: int | None = None
    nodes: tuple[dict[str, Any], ...] = ()
    dashboard: str | None = None
    token_file: str | None = None
    folder: str | None = None

    def life(self, storage: Storage) -> Life:
        """Says whether it is at work now.

        On its own machine the study's lock tells. Elsewhere, and in another working copy of the same URL, a lock that
        is not seen says nothing, and the last heartbeat decides.
        """
        if self.ended is not None:
            return "ended"
        if lock_is_held(storage):
            return "alive"
        same_lock = self.host == socket.gethostname() and self.folder in (None, location_of(storage))
        return "dead" if same_lock or time.time() - self.beat >= SILENT_SECONDS else "alive"


def location_of(storage: Storage) -> str:
    """Returns the absolute path of a study's folder, without links."""
    return str(storage.folder.resolve())


def read_driver(storage: Storage) -> Driver | None:
    """Returns what the last driver of a study said of itself; None if there was none, or it is unreadable."""
    try:
        content = json.loads((storage.folder / DRIVER_FILE).read_text(encoding="utf-8"))
        content.setdefault("driver_id", content.get("session"))  # its name before
        known = {field.name for field in fields(Driver)}
        lists = {name: tuple(content[name]) for name in ("live", "pending", "nodes") if name in content}
        return Driver(**{name: content[name] for name in content if name in known} | lists)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def lock_is_held(storage: Storage) -> bool:
    """Whether some process that this machine knows of drives the study."""
    try:
        return is_locked(storage.folder / LOCK_FILE)
    except OSError:
        return False
