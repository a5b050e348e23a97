"""The heartbeat of a driver: a record in the study's folder, renewed while the driver lives."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Self

from study.storage.driver_record import Driver, location_of
from study.storage.layout import DRIVER_FILE, STOP_REQUEST_FILE, Storage
from study.util.json_files import write_json

BEAT_SECONDS = 5.0
LOOK_SECONDS = 1.0


class Heartbeat:
    """Renews the driver's record while it holds its study; use it as a context manager, inside the study's claim.

    Args:
        on_stop: Called with the reason when somebody asks this driver to stop.

    Attributes:
        describe: Returns what else `Driver` knows: driver_id, live, pending, limit, nodes. Called from a thread.
        how: Written at the end; see `Driver`.
    """

    def __init__(self, storage: Storage, on_stop: Callable[[str], None]) -> None:
        self.describe: Callable[[], dict[str, Any]] = dict
        self.how = "finished"
        self._storage, self._on_stop = storage, on_stop
        now = time.time()
        self._driver = Driver(
            uuid.uuid4().hex, os.getpid(), socket.gethostname(), now, now, folder=location_of(storage)
        )
        self._said: dict[str, Any] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="heartbeat", daemon=True)

    @property
    def id(self) -> str:
        """Names this launch."""
        return self._driver.id

    def __enter__(self) -> Self:
        (self._storage.folder / STOP_REQUEST_FILE).unlink(
            missing_ok=True
        )  # one that came too late for its driver
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        self._done.set()
        self._thread.join(LOOK_SECONDS + BEAT_SECONDS)
        if kind is not None:
            self.how = f"{kind.__name__}: {error}"[:500]
        self.beat(ended=time.time(), how=self.how, live=(), pending=(), dashboard=None, token_file=None)
        (self._storage.folder / STOP_REQUEST_FILE).unlink(missing_ok=True)

    def beat(self, **changes: Any) -> None:
        """Writes the record; whether the storage can be written is found out elsewhere."""
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
            asked = json.loads((self._storage.folder / STOP_REQUEST_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if isinstance(asked, dict) and asked.get("driver") == self.id:
            self._on_stop(f"interrupted by `study stop` on {asked.get('host', 'another machine')}")
