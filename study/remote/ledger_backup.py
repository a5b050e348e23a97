"""A SQLite ledger at a storage URL: copied there whole, to two objects, and taken from there if it is newer.

Whatever happens to one object, the other has the same ledger: of a run that was given out nothing may be forgotten,
since its trial cannot be asked for a second time.

Copies lie under ``<study>/ledger/<generation>/``. Every driver's life has a generation of its own, higher than all
before it, so that a driver that is cut off and goes on writing cannot mask what its successor writes.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import sqlite3
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from study.remote.object_store import ObjectStore
from study.remote.run_manifest import relative
from study.storage.layout import LEDGER_COPIES, LEDGER_FILE, LEDGER_NOTE_FILE, Storage
from study.util.json_files import write_json
from trainables.errors import UserError

LOCK_SECONDS = 60.0  # that a copy waits for another process that has locked the ledger
_SLOTS = 2
_LEVEL = 3


class LedgerCopy:
    """Copies a ledger to the URL, for one generation.

    Args:
        store: The storage.
        storage: Of the study; its ``ledger.db`` is copied.
        generation: Of this driver.
    """

    def __init__(self, store: ObjectStore, storage: Storage, generation: int) -> None:
        self._store, self._storage, self._generation = store, storage, generation
        self._number = 0
        self._pushed: tuple[int, int] | None = None

    def push(self) -> None:
        """Copies the ledger if it has changed since the last time; raises StoreError if it cannot be written."""
        path = ledger_file(self._storage)
        if not path.exists():
            return
        stat = path.stat()
        state = stat.st_size, stat.st_mtime_ns
        if state == self._pushed:
            return
        note_generation(self._storage, self._generation)
        content = gzip.compress(_snapshot(path), _LEVEL)
        self._number += 1
        copy = _encode(self._generation, self._number, content)
        for slot in range(_SLOTS):
            self._store.put(f"{_prefix(self._storage)}/{self._generation:06d}/{slot}", copy)
        self._pushed = state


def pull_ledger(store: ObjectStore, storage: Storage) -> int:
    """Replaces the working copy's ledger by the URL's if a later driver wrote that, or there is none here.

    Returns:
        The highest generation at the URL; 0 if no ledger is there.
    """
    names = relative(store.list(_prefix(storage)), _prefix(storage))
    generations = sorted({name.partition("/")[0] for name in names}, reverse=True)
    highest = int(generations[0]) if generations else 0
    if ledger_file(storage).exists() and noted_generation(storage) >= highest:
        return highest
    for generation in generations:
        found = [
            copy
            for slot in range(_SLOTS)
            if f"{generation}/{slot}" in names
            and (copy := _whole(store.get(f"{_prefix(storage)}/{generation}/{slot}"))) is not None
        ]
        if found:
            _install(storage, max(found)[1])
            note_generation(storage, highest)
            return highest
    if generations:
        raise UserError(
            f"every copy of the ledger of {storage.study!r} at {storage.url} is damaged; run on the machine whose "
            f"working copy has it, or remove {_prefix(storage)}/ there and start the study under another name"
        )
    return highest


def drop_older(store: ObjectStore, storage: Storage, generation: int) -> None:
    """Removes the copies of earlier drivers but those of the last one before `generation`."""
    names = relative(store.list(_prefix(storage)), _prefix(storage))
    older = sorted({name.partition("/")[0] for name in names if int(name.partition("/")[0]) < generation})
    for name in older[:-1]:
        store.delete_under(f"{_prefix(storage)}/{name}")


def ledger_file(storage: Storage) -> Path:
    """Where the default ledger lies in the working copy."""
    return storage.folder / LEDGER_FILE


def noted_generation(storage: Storage) -> int:
    """The generation of the driver that last wrote or fetched the working copy's ledger."""
    try:
        content = json.loads((storage.folder / LEDGER_NOTE_FILE).read_text(encoding="utf-8"))
        return int(content["generation"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def note_generation(storage: Storage, generation: int) -> None:
    """Notes whose ledger the working copy's is."""
    if noted_generation(storage) != generation:
        write_json(storage.folder / LEDGER_NOTE_FILE, {"generation": generation})


def _prefix(storage: Storage) -> str:
    return f"{storage.study}/{LEDGER_COPIES}"


def _snapshot(path: Path) -> bytes:
    """A consistent copy of a SQLite file that is in use.

    Raises:
        sqlite3.OperationalError: Another process has locked it for longer than `LOCK_SECONDS`.
    """
    handle, name = tempfile.mkstemp(prefix=".ledger-", dir=path.parent)
    os.close(handle)
    try:
        with (
            contextlib.closing(sqlite3.connect(path, timeout=LOCK_SECONDS)) as source,
            contextlib.closing(sqlite3.connect(name)) as copy,
        ):
            source.backup(copy, progress=_give_up_after(LOCK_SECONDS))
        return Path(name).read_bytes()
    finally:
        Path(name).unlink(missing_ok=True)


def _give_up_after(seconds: float) -> Callable[[int, int, int], None]:
    """Ends a backup of a locked database, which would try for ever."""
    until = time.monotonic() + seconds

    def look(status: int, remaining: int, total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() >= until:
            raise sqlite3.OperationalError("database is locked")

    return look


def _encode(generation: int, number: int, packed: bytes) -> bytes:
    """A copy as it lies at the URL: a line that says which it is, with a digest of all, and the packed database."""
    head = {"generation": generation, "number": number, "sha256": _digest(generation, number, packed)}
    return json.dumps(head).encode() + b"\n" + packed


def _whole(content: bytes | None) -> tuple[int, bytes] | None:
    """Number and database of a copy, or None if it is damaged."""
    if content is None:
        return None
    line, _, packed = content.partition(b"\n")
    try:
        head = json.loads(line)
        generation, number = int(head["generation"]), int(head["number"])
        if head["sha256"] != _digest(generation, number, packed):
            return None
        return number, gzip.decompress(packed)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error):
        return None


def _digest(generation: int, number: int, packed: bytes) -> str:
    return hashlib.sha256(f"{generation} {number}\n".encode() + packed).hexdigest()


def _install(storage: Storage, database: bytes) -> None:
    """Puts a database in the place of the ledger in one step; who has the old one open keeps it."""
    path = ledger_file(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".ledger-", dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(database)
        file.flush()
        os.fsync(file.fileno())
    path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
    os.replace(name, path)
