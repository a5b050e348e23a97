"""``study stop``: asks the driver of a study to end, and waits for it."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from study.remote.working_copy import fetch_heartbeat, send
from study.storage.driver_record import SILENT_SECONDS, Driver, lock_is_held, read_driver
from study.storage.layout import STOP_REQUEST_FILE, Storage
from study.util.json_files import write_json
from study.util.printing import say

POLL_SECONDS = 0.5


def stop_study(storage: Storage, *, wait: bool, timeout: float) -> int:
    """Asks the driver of a study to end and waits for it; returns the exit code."""
    driver = read_driver(storage)
    if driver is None or driver.life(storage) != "alive":
        say(nobody_drives(storage, driver))
        return 0 if driver is not None or not lock_is_held(storage) else 1
    request_stop(storage, driver)
    who = f"process {driver.pid} on {driver.host}"
    say(f"asked {who} to end {storage.study}; running runs keep their checkpoints")
    if not wait:
        return 0
    until = time.monotonic() + timeout
    while (now := read_driver(storage)) is not None and now.id == driver.id and now.life(storage) == "alive":
        if time.monotonic() > until:
            silent = time.time() - now.beat
            heard = f"; its last heartbeat is {silent:.0f} s old" if silent > SILENT_SECONDS else ""
            say(
                f"{who} still drives it after {timeout:g} s{heard}. Wait longer, or end it there: kill {driver.pid}"
            )
            return 1
        time.sleep(POLL_SECONDS)
        if storage.url is not None:
            fetch_heartbeat(storage)
    say(f"{storage.study} has ended. To go on with it, launch it again as before")
    return 0


def nobody_drives(storage: Storage, driver: Driver | None) -> str:
    """Returns why there is nothing to stop."""
    if driver is None and lock_is_held(storage):
        return (
            f"{storage.study} is driven by an earlier version, which takes no requests; end it where it runs"
        )
    if driver is None:
        return f"no driver runs {storage.study}; nothing to stop"
    if driver.ended is not None:
        return f"no driver runs {storage.study}: the last one has ended ({driver.how}); nothing to stop"
    return (
        f"no driver runs {storage.study}: that on {driver.host} (process {driver.pid}) died; nothing to stop"
    )


def request_stop(storage: Storage, driver: Driver) -> Path:
    """Writes the request that this driver, and no other, shall end; it obeys within seconds."""
    path = storage.folder / STOP_REQUEST_FILE
    asked = {"driver": driver.id, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
    write_json(path, asked)
    if storage.url is not None:
        send(storage, STOP_REQUEST_FILE)
    return path
