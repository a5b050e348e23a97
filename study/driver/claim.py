"""A driver's claim on a study: one driver at a time, and the study file as it was when it began."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from study.ledger.database_lock import database_lock
from study.remote.working_copy import fetch_record
from study.spec.contents import NOT_RECORDED, known_contents
from study.storage.layout import LOCK_FILE, STUDY_FILE, Storage
from study.storage.safe_paths import check_no_links
from study.storage.study_record import is_recorded, read_study_record, sound_study_record
from study.util.disk import room_problem
from study.util.json_files import copy_of, is_sound, write_json_twice
from trainables.errors import UserError
from trainables.util.file_lock import lock_file

if TYPE_CHECKING:
    from study.spec.study_spec import StudySpec

LOCK_WAIT_SECONDS = 0.5  # `study status` looks at the lock now and then, for a moment only


@contextlib.contextmanager
def claimed(
    spec: StudySpec,
    storage: Storage,
    *,
    lost: Callable[[str], None] = lambda reason: None,
) -> Iterator[StudySpec]:
    """Holds a study's lock; ``study.json`` is written at the first launch and compared at every later one.

    Yields the study as it is to be run: what cannot be read from here is known as it was recorded.

    The lock is that of a file, and of the ledger's database if it is PostgreSQL: two machines may share that alone.

    Args:
        lost: Called with the reason if another driver took the database's lock.

    Raises:
        UserError: If another driver runs this study, its file has changed, or the disk is full or read-only.
    """
    if storage.url is not None:
        fetch_record(storage)
    check_unchanged(spec, storage)
    if no_room := room_problem(storage.folder, "the study", "or choose another --storage"):
        raise UserError(no_room)
    try:
        storage.folder.mkdir(parents=True, exist_ok=True)
        file = (storage.folder / LOCK_FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{storage.folder} cannot be written: {error.strerror}; choose another --storage"
        ) from None
    with file, contextlib.ExitStack() as held:
        try:
            lock_file(file, wait_seconds=LOCK_WAIT_SECONDS)
        except BlockingIOError:
            raise UserError(_held_by(storage)) from None
        url = spec.storage.ledger_url or storage.ledger_url
        held.enter_context(database_lock(url, spec.name, lost=lost, watch=storage.command("status")))
        file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}, file)
        file.flush()
        spec = check_unchanged(spec, storage)
        check_no_links(storage)
        path = storage.folder / STUDY_FILE
        if not is_recorded(storage):
            write_json_twice(path, spec.record())
        elif not (is_sound(path) and is_sound(copy_of(path))):
            write_json_twice(path, read_study_record(storage))
        yield spec


def check_unchanged(spec: StudySpec, storage: Storage) -> StudySpec:
    """Returns the study, with what was recorded of the contents that cannot be read from here.

    Raises:
        UserError: It was begun with other contents under the same name; with the difference, file by file.
    """
    from study.spec.difference import difference, recorded_identity

    try:
        record = sound_study_record(storage)
    except FileNotFoundError:
        return spec
    spec = spec.with_contents(known_contents(record, spec.contents)).resuming(record)
    if record["digest"] == spec.digest() or recorded_identity(record) == spec.identity():
        return spec
    changes = difference(record, spec) or ["defaults of this program's version"]
    if changes == [NOT_RECORDED]:
        raise UserError(
            f"study {spec.name!r} in {storage.folder} cannot be gone on with: {NOT_RECORDED}. Report what it has "
            f"(`{storage.command('report')}`), and give the study another name to begin it anew"
        )
    listed = "\n".join(f"  {change}" for change in changes)
    raise UserError(
        f"study {spec.name!r} has changed since it was begun in {storage.folder}:\n{listed}\n"
        "Runs of the two could not be compared. Undo the change, or give the changed study another name."
    )


def _held_by(storage: Storage) -> str:
    holder = "another process"
    with contextlib.suppress(OSError, ValueError, KeyError):
        content = json.loads((storage.folder / LOCK_FILE).read_text(encoding="utf-8"))
        holder = f"process {content['pid']} on {content['host']}"
    return (
        f"study {storage.study!r} is being run by {holder}; wait for it, watch it with "
        f"`{storage.command('status')}`, or end it with `{storage.command('stop')}`"
    )
