"""One driver per study across machines: an object at the storage URL that says who it is, renewed while it lives.

Every claim is an object of its own, ``<study>/driver/<generation>-<id>/claim.json``; the highest holds. So no driver
can overwrite another's claim, and one that was succeeded sees that at its next heartbeat and ends.

Limits: object stores have no locks. Of two that claim at the same moment, both write, wait a second and look:
the one that is not the highest gives up. A driver that cannot reach the store for `EXPIRY_SECONDS` may be
succeeded, and goes on until its next look; what both write meanwhile lies under prefixes of their own (see
`study.remote.run_manifest`, `study.remote.ledger_backup`), so nothing is overwritten.
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

from study.remote.object_store import ObjectStore, StoreError
from study.remote.run_manifest import relative
from study.storage.layout import CLAIM_FILE, LEASES, Storage
from trainables.errors import UserError

HEARTBEAT_SECONDS = 30.0
EXPIRY_SECONDS = 120.0
SETTLE_SECONDS = 1.0
_LOOK_SECONDS = 3.0
_KEPT = 3  # claims of earlier drivers: a listing of them stays short


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
    generation = _wait_for(store, storage, say) + 1
    mine: dict[str, Any] = {
        "driver": uuid.uuid4().hex,
        "generation": generation,
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "beat": 0,
        "released": False,
    }
    claim = f"{generation:06d}-{mine['driver'][:8]}"
    _write(store, storage, claim, mine)
    time.sleep(SETTLE_SECONDS)
    claims = _claims(store, storage)
    if claims[-1:] != [claim]:
        raise UserError(_held(storage, _read(store, storage, claims[-1]) or {}) if claims else _gone(storage))
    for older in claims[:-_KEPT]:
        store.delete_under(f"{storage.study}/{LEASES}/{older}")
    ended = threading.Event()
    thread = threading.Thread(
        target=_renew, args=(store, storage, claim, mine, ended, lost), name="lease", daemon=True
    )
    thread.start()
    try:
        yield generation
    finally:
        ended.set()
        thread.join(5)
        with contextlib.suppress(StoreError):
            _write(store, storage, claim, {**mine, "released": True})


def _wait_for(store: ObjectStore, storage: Storage, say: Callable[[str], None]) -> int:
    """Waits until nobody holds the lease; returns the last generation."""
    claims = _claims(store, storage)
    if not claims:
        return 0
    generation = int(claims[-1].partition("-")[0])
    first = _read(store, storage, claims[-1])
    if first is None or first.get("released") or _dead_here(first):
        return generation
    say(
        f"study {storage.study!r} was being run by {_who(first)}; waiting up to {EXPIRY_SECONDS:.0f} seconds for "
        "a heartbeat"
    )
    until = time.monotonic() + EXPIRY_SECONDS
    while time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
        now = _read(store, storage, claims[-1]) or first
        if now.get("released"):
            break
        if now.get("beat") != first.get("beat") or _claims(store, storage)[-1:] != claims[-1:]:
            raise UserError(_held(storage, now))
    return generation


def _renew(
    store: ObjectStore,
    storage: Storage,
    claim: str,
    mine: dict[str, Any],
    ended: threading.Event,
    lost: Callable[[str], None],
) -> None:
    beat = 0
    while not ended.wait(HEARTBEAT_SECONDS):
        beat += 1
        try:
            newest = max(_claims(store, storage), default=claim)
            if newest > claim:
                lost(f"{_who(_read(store, storage, newest) or {})} has taken over study {storage.study!r}")
                return
            if not ended.is_set():
                _write(store, storage, claim, {**mine, "beat": beat})
        except StoreError:
            continue  # the store is away for others too


def _claims(store: ObjectStore, storage: Storage) -> list[str]:
    """The claims that there are, the holder's last."""
    prefix = f"{storage.study}/{LEASES}"
    names = {name.partition("/")[0] for name in relative(store.list(prefix), prefix)}
    return sorted(name for name in names if name[:6].isdigit())


def _read(store: ObjectStore, storage: Storage, claim: str) -> dict[str, Any] | None:
    content = store.get(f"{storage.study}/{LEASES}/{claim}/{CLAIM_FILE}")
    try:
        found = json.loads(content) if content is not None else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _write(store: ObjectStore, storage: Storage, claim: str, content: dict[str, Any]) -> None:
    store.put(f"{storage.study}/{LEASES}/{claim}/{CLAIM_FILE}", json.dumps(content).encode())


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
        f"`{storage.command('status')}`, or end it first"
    )


def _gone(storage: Storage) -> str:
    return (
        f"the storage {storage.url} does not list what was written to it a second ago; it cannot hold a study"
    )
