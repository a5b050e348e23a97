"""The driver's sign of life, for whoever sees the study's folder: who drives it, on which nodes, and a request to stop.

A thread of the driver writes ``driver.json`` every few seconds and looks for ``stop-request.json``. A request names
the driver that it is meant for, so that one which comes too late can never end a later launch.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from study.claim import LOCK_FILE
from study.json_files import write_json
from study.remote.working_copy import send
from study.runs import Storage

DRIVER_FILE = "driver.json"
REQUEST_FILE = "stop-request.json"
BEAT_SECONDS = 5.0
LOOK_SECONDS = 1.0
SILENT_SECONDS = 60.0  # a driver on another machine that has not been heard of for so long is taken for dead

Life = Literal["alive", "ended", "dead"]


@dataclass(frozen=True)
class Driver:
    """What a driver said of itself last; times in seconds since the epoch.

    Attributes:
        id: Of this launch; a stop request names it.
        folder: Of the study as this driver sees it; the lock that it holds lies there.
        since: When it began; `beat` is its last sign of life, `ended` when it let go of the study.
        how: After its end: ``finished``, or why it was interrupted.
        session: Of the attempts that it gives out now.
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
    session: str | None = None
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
        is not seen says nothing, and the last sign of life decides.
        """
        if self.ended is not None:
            return "ended"
        if lock_is_held(storage):
            return "alive"
        same_lock = self.host == socket.gethostname() and self.folder in (None, _place(storage))
        return "dead" if same_lock or time.time() - self.beat >= SILENT_SECONDS else "alive"


def _place(storage: Storage) -> str:
    return str(storage.folder.resolve())


def read_driver(storage: Storage) -> Driver | None:
    """Returns what the last driver of a study said of itself; None if there was none, or it is unreadable."""
    try:
        content = json.loads((storage.folder / DRIVER_FILE).read_text(encoding="utf-8"))
        known = {field.name for field in fields(Driver)}
        lists = {name: tuple(content[name]) for name in ("live", "pending", "nodes") if name in content}
        return Driver(**{name: content[name] for name in content if name in known} | lists)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def lock_is_held(storage: Storage) -> bool:
    """Whether some process that this machine knows of drives the study."""
    try:
        with (storage.folder / LOCK_FILE).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def request_stop(storage: Storage, driver: Driver) -> Path:
    """Writes the request that this driver, and no other, shall end; it obeys within seconds."""
    path = storage.folder / REQUEST_FILE
    asked = {"driver": driver.id, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
    write_json(path, asked)
    if storage.url is not None:
        send(storage, REQUEST_FILE)
    return path


class Heart:
    """Beats while a driver holds its study; use it as a context manager, inside the study's claim.

    Args:
        on_stop: Called with the reason when somebody asks this driver to stop.

    Attributes:
        describe: Returns what else `Driver` knows: session, live, pending, limit, nodes. Called from a thread.
        how: Written at the end; see `Driver`.
    """

    def __init__(self, storage: Storage, on_stop: Callable[[str], None]) -> None:
        self.describe: Callable[[], dict[str, Any]] = dict
        self.how = "finished"
        self._storage, self._on_stop = storage, on_stop
        now = time.time()
        self._driver = Driver(
            uuid.uuid4().hex, os.getpid(), socket.gethostname(), now, now, folder=_place(storage)
        )
        self._said: dict[str, Any] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="heart", daemon=True)

    @property
    def id(self) -> str:
        """Names this launch."""
        return self._driver.id

    def __enter__(self) -> Self:
        (self._storage.folder / REQUEST_FILE).unlink(missing_ok=True)  # one that came too late for its driver
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        self._done.set()
        self._thread.join(LOOK_SECONDS + BEAT_SECONDS)
        if kind is not None:
            self.how = f"{kind.__name__}: {error}"[:500]
        self.beat(ended=time.time(), how=self.how, live=(), pending=(), dashboard=None, token_file=None)
        (self._storage.folder / REQUEST_FILE).unlink(missing_ok=True)

    def beat(self, **changes: Any) -> None:
        """Writes the sign of life; a storage that cannot be written now is the business of others."""
        with contextlib.suppress(Exception):  # the driver's thread may be changing it: the last one will do
            self._said = self.describe()
        content = asdict(self._driver) | {"beat": time.time()} | self._said | changes
        with contextlib.suppress(OSError):
            write_json(self._storage.folder / DRIVER_FILE, content)

    def _work(self) -> None:
        beat_at = time.monotonic() + BEAT_SECONDS
        while not self._done.wait(LOOK_SECONDS):
            self._look_for_request()
            if time.monotonic() >= beat_at:
                self.beat()
                beat_at = time.monotonic() + BEAT_SECONDS

    def _look_for_request(self) -> None:
        try:
            asked = json.loads((self._storage.folder / REQUEST_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if isinstance(asked, dict) and asked.get("driver") == self.id:
            self._on_stop(f"interrupted by `study stop` on {asked.get('host', 'another machine')}")
