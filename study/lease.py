"""One driver per study across machines: an object at the storage URL that says who it is, renewed while it lives.

Limits: object stores have no locks. A driver writes its claim, waits, and reads it back; of two that claim within
that second the later write stays, and the other one finds that it has lost. A driver that cannot reach the store for
`EXPIRY_SECONDS` may lose its lease to another and ends as soon as it sees that. Whatever both write in
between lies under prefixes of their own (see `study.run_objects`, `study.ledger_copy`), so nothing is overwritten.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from study.errors import UserError
from study.object_store import ObjectStore, StoreError
from study.runs import Storage

HEARTBEAT_SECONDS = 30.0
EXPIRY_SECONDS = 120.0
SETTLE_SECONDS = 1.0
_LOOK_SECONDS = 3.0


@contextlib.contextmanager
def leased(
    store: ObjectStore, storage: Storage, *, lost: Callable[[str], None], say: Callable[[str], None]
) -> Iterator[int]:
    """Holds the lease of a study; yields the generation of this driver, higher than that of any before it.

    A lease that is not renewed any more is waited for until it expires; one whose driver ran on this machine and is
    dead is taken over at once.

    Args:
        lost: Called once, with the reason, if another driver takes the lease.
        say: Takes a line about what is waited for.

    Raises:
        UserError: Another driver holds it and lives.
    """
    key = f"{storage.study}/driver.json"
    generation = _wait_for(store, key, storage, say) + 1
    mine: dict[str, Any] = {
        "driver": uuid.uuid4().hex,
        "generation": generation,
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "beat": 0,
        "released": False,
    }
    _write(store, key, mine)
    time.sleep(SETTLE_SECONDS)
    if (holder := _read(store, key)) is None or holder.get("driver") != mine["driver"]:
        raise UserError(_held(storage, holder or {}))
    ended = threading.Event()
    thread = threading.Thread(
        target=_renew, args=(store, key, mine, ended, lost, storage), name="lease", daemon=True
    )
    thread.start()
    try:
        yield generation
    finally:
        ended.set()
        thread.join(5)
        with contextlib.suppress(StoreError):
            if (_read(store, key) or {}).get("driver") == mine["driver"]:
                _write(store, key, {**mine, "released": True})


def _wait_for(store: ObjectStore, key: str, storage: Storage, say: Callable[[str], None]) -> int:
    """Waits until nobody holds the lease; returns the last generation."""
    first = _read(store, key)
    if first is None:
        return 0
    until = time.monotonic() + EXPIRY_SECONDS
    if not first.get("released") and not _dead_here(first):
        say(
            f"study {storage.study!r} was being run by {_who(first)}; waiting up to {EXPIRY_SECONDS:.0f} seconds for "
            "a sign of life"
        )
        while time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
            now = _read(store, key) or first
            if now.get("released"):
                break
            if (now.get("driver"), now.get("beat")) != (first.get("driver"), first.get("beat")):
                raise UserError(_held(storage, now))
    return int(first.get("generation", 0))


def _renew(
    store: ObjectStore,
    key: str,
    mine: dict[str, Any],
    ended: threading.Event,
    lost: Callable[[str], None],
    storage: Storage,
) -> None:
    beat = 0
    while not ended.wait(HEARTBEAT_SECONDS):
        beat += 1
        try:
            holder = _read(store, key)
            if holder is not None and holder.get("driver") != mine["driver"]:
                lost(f"{_who(holder)} has taken over study {storage.study!r}")
                return
            if not ended.is_set():
                _write(store, key, {**mine, "beat": beat})
        except StoreError:
            continue  # the store is away for others too


def _read(store: ObjectStore, key: str) -> dict[str, Any] | None:
    content = store.get(key)
    try:
        found = json.loads(content) if content is not None else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _write(store: ObjectStore, key: str, content: dict[str, Any]) -> None:
    store.put(key, json.dumps(content).encode())


def _dead_here(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine, since its last start, that is gone."""
    if holder.get("machine") != _machine():
        return False
    return not Path(f"/proc/{holder.get('pid')}").exists() if Path("/proc/self").exists() else False


def _machine() -> str:
    """Names this machine (or container) since its last start."""
    boot, namespace = "", ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {boot} {namespace}"


def _who(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid')} on {holder.get('host')}"


def _held(storage: Storage, holder: dict[str, Any]) -> str:
    return (
        f"study {storage.study!r} at {storage.url} is being run by {_who(holder)}; wait for it, watch it with "
        f"`study status {storage.study} --storage {storage.url}`, or end it first"
    )
