"""This machine's copy of a storage URL: what readers read and a driver works on.

Records, events, results and images are here; checkpoints and weights stay at the URL until they are asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from study.remote.ledger_backup import pull_ledger
from study.remote.object_store import ObjectStore, StoreError
from study.remote.run_manifest import (
    UNDER_CHECKPOINTS,
    UNDER_WEIGHTS,
    FileRef,
    RunView,
    choose_attempt,
    decode,
    fetch_file,
    read_view,
    relative,
    run_prefix,
)
from study.storage.layout import (
    COPY_LOCK_FILE,
    DEATHS_FILE,
    DRIVER_FILE,
    MANIFEST_FILE,
    RUN_NOTE_FILE,
    RUNS,
    STUDY_FILE,
    TRACKING_FILE,
    WEIGHTS_NOTE_FILE,
    Storage,
)
from study.storage.run_key import RunKey, is_sound_name
from study.storage.run_result import read_result
from study.storage.study_record import read_study_record, recorded_spec
from study.util.json_files import write_json
from trainables.errors import UserError
from trainables.events import EVENTS_FILE, RESULT_FILE
from trainables.util.file_lock import lock_file
from trainables.util.files import replacing

AT_ONCE = 8
READERS_PATIENCE = 10.0
_LOCK_SECONDS = 60.0


@dataclass(frozen=True)
class _Note:
    """How far a run's folder is brought up to date: attempt, and whether it has ended."""

    attempt: str
    ended: bool


class RunCopies:
    """Brings run folders of the working copy up to date; may be used from several threads, in one process."""

    def __init__(self, store: ObjectStore, storage: Storage) -> None:
        self.store, self.storage = store, storage
        self._locks: dict[str, threading.Lock] = {}
        self._told: dict[str, tuple[str, bytes]] = {}
        self._fetched: dict[str, str] = {}  # run -> the attempt that it was brought up to date with
        self._have: dict[str, dict[str, FileRef]] = {}
        self._guard = threading.Lock()

    def fetch(self, run: str, names: set[str] | None = None) -> bool:
        """Brings one run up to date, whatever attempt it is in; returns whether it has ended.

        Args:
            run: Its name.
            names: Its keys, if they have been listed already.
        """
        prefix = run_prefix(self.storage.study, run)
        with self._lock(run):
            if names is None:
                names = relative(self.store.list(prefix), prefix)
            chosen = choose_attempt(names)
            note = _noted(self.storage.runs / run)
            if chosen is None:
                return False
            folder = self.storage.runs / run
            if DEATHS_FILE in names and not (folder / DEATHS_FILE).exists():
                self.store.get_file(f"{prefix}/{DEATHS_FILE}", folder / DEATHS_FILE)
            if note is not None and note.ended and (note.attempt, True) == chosen:
                return True
            self._fetched[run] = chosen[0]
            view = read_view(self.store, prefix, names)
            return view is not None and self._apply(run, view)

    def fetch_new(self, run: str, attempt: str) -> bool:
        """Fetches what an attempt that is under way has told since the last call; returns whether it was anything.

        After `fetch` has found it at its end there is nothing more to follow.
        """
        with self._lock(run):
            if attempt <= self._fetched.get(run, ""):
                return False
            content = self.store.get(f"{run_prefix(self.storage.study, run)}/{attempt}/{MANIFEST_FILE}")
            if content is None or self._told.get(run) == (attempt, content):
                return False
            view = decode(attempt, content)
            if view is None:
                return False
            self._apply(run, view)
            self._told[run] = attempt, content
            return True

    def view(self, run: str) -> RunView | None:
        """Reads a run anew, with the places of all its files."""
        prefix = run_prefix(self.storage.study, run)
        return read_view(self.store, prefix, relative(self.store.list(prefix), prefix))

    def _apply(self, run: str, view: RunView) -> bool:
        """Writes to the run's folder what the view says: files first, then events, the result last."""
        prefix, folder = run_prefix(self.storage.study, run), self.storage.runs / run
        folder.mkdir(parents=True, exist_ok=True)
        have = self._have.setdefault(run, {})
        for path, ref in view.files.items():
            if path.startswith((UNDER_CHECKPOINTS, UNDER_WEIGHTS)) or have.get(path) == ref:
                continue
            if fetch_file(self.store, prefix, ref, folder / path):
                have[path] = ref
        if view.ended and (
            weights := [item for item in view.files.items() if item[0].startswith(UNDER_WEIGHTS)]
        ):
            files = [
                {
                    "file": path.removeprefix(UNDER_WEIGHTS),
                    "bytes": ref.size,
                    "sha256": ref.sha256,
                    "key": f"{prefix}/{ref.key}",
                }
                for path, ref in weights
            ]
            write_json(folder / WEIGHTS_NOTE_FILE, {"url": self.store.url, "files": files})
        _write_events(folder, view.events)
        ended = view.ended and self._fetch_result(f"{prefix}/{view.attempt}", folder)
        write_json(folder / RUN_NOTE_FILE, {"attempt": view.attempt, "ended": ended})
        if ended:
            self._told.pop(run, None)
            self._have.pop(run, None)
        return ended

    def _fetch_result(self, attempt: str, folder: Path) -> bool:
        """Whether there is a sound result; a damaged one is left out, and made anew by the next attempt."""
        self.store.get_file(f"{attempt}/{RESULT_FILE}", folder / RESULT_FILE)
        if read_result(folder) is not None:
            return True
        (folder / RESULT_FILE).unlink(missing_ok=True)
        return False

    def _lock(self, run: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(run, threading.Lock())


def fetch_all(copies: RunCopies, *, ledger: bool) -> list[str]:
    """Brings a whole study up to date; returns the names of the runs that there are at the URL.

    Args:
        ledger: Whether the ledger is a file of the working copy.

    Raises:
        StoreError: The store cannot be read.
    """
    store, storage = copies.store, copies.storage
    fetch_study(store, storage)
    store.get_file(f"{storage.study}/{TRACKING_FILE}", storage.folder / TRACKING_FILE)
    if ledger:
        pull_ledger(store, storage)
    listing = relative(store.list(f"{storage.study}/{RUNS}"), f"{storage.study}/{RUNS}")
    by_run: dict[str, set[str]] = {}
    for name in listing:
        parts = name.split("/", 3)
        with contextlib.suppress(ValueError):
            if len(parts) == 4:
                by_run.setdefault(RunKey.parse("/".join(parts[:3])).name, set()).add(parts[3])
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda run: copies.fetch(run, by_run[run]), sorted(by_run)))
    return sorted(by_run)


def fetch_study(store: ObjectStore, storage: Storage) -> None:
    """Fetches ``study.json`` if the working copy lacks it; raises UserError if the URL's is damaged."""
    path = storage.folder / STUDY_FILE
    if not path.exists() and (content := store.get(f"{storage.study}/{STUDY_FILE}")) is not None:
        try:
            write_json(path, json.loads(content))
        except ValueError:
            raise UserError(
                f"{storage.study}/{STUDY_FILE} at {storage.url} is damaged; put it there again from a machine that has "
                "it in its working copy, or start the study under another name"
            ) from None


def fetch_record(storage: Storage) -> None:
    """Fetches ``study.json`` from the storage's URL; raises UserError if that cannot be read."""
    assert storage.url is not None
    with _reading(storage.url) as store:
        fetch_study(store, storage)


def fetch_heartbeat(storage: Storage) -> None:
    """Fetches the driver's last heartbeat, unless its driver runs on this machine's copy."""
    assert storage.url is not None
    with _reading(storage.url) as store, copy_locked(storage, driver=False) as held:
        if held:
            store.get_file(f"{storage.study}/{DRIVER_FILE}", storage.folder / DRIVER_FILE)


def send(storage: Storage, name: str) -> None:
    """Copies a file of the study's folder to the URL; raises UserError if that cannot be written."""
    assert storage.url is not None
    with _reading(storage.url) as store:
        store.put_file(f"{storage.study}/{name}", storage.folder / name)


def fetch_studies(root: Path, url: str) -> None:
    """Fetches the ``study.json`` of every study at a URL; raises UserError if it cannot be read."""
    with _reading(url) as store:
        for study in filter(is_sound_name, store.folders()):
            fetch_study(store, Storage(root, study, url))


def refresh(storage: Storage) -> None:
    """Brings this machine's copy of a study up to date, unless its driver runs here and does so all the time.

    Raises:
        UserError: The URL cannot be read.
    """
    assert storage.url is not None
    with _reading(storage.url) as store:
        # A name that is not there leaves no folder behind.
        if not storage.folder.exists() and store.get(f"{storage.study}/{STUDY_FILE}") is None:
            return
        with copy_locked(storage, driver=False) as held:
            if held:
                fetch_study(store, storage)
                store.get_file(f"{storage.study}/{DRIVER_FILE}", storage.folder / DRIVER_FILE)
                fetch_all(RunCopies(store, storage), ledger=_has_own_ledger(storage))


def fetch_weights(storage: Storage, run: str) -> None:
    """Brings the weights of a run from the URL into the working copy, unless they are there."""
    assert storage.url is not None
    folder = storage.runs / run
    with _reading(storage.url) as store:
        view = RunCopies(store, storage).view(run)
        for path, ref in (view.files if view else {}).items():
            if path.startswith(UNDER_WEIGHTS) and not fetch_file(
                store, run_prefix(storage.study, run), ref, folder / path
            ):
                raise UserError(f"{path} of run {run} is damaged or gone at {storage.url}")


@contextlib.contextmanager
def copy_locked(storage: Storage, *, driver: bool) -> Iterator[bool]:
    """Holds the working copy; yields False to a reader if the driver, which keeps it up to date, has it."""
    storage.folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + _LOCK_SECONDS
    with (storage.folder / COPY_LOCK_FILE).open("a+", encoding="utf-8") as file:
        while True:
            try:
                lock_file(file)
                break
            except BlockingIOError:
                file.seek(0)
                if not driver and (file.read() == "driver" or time.monotonic() > until):
                    yield False
                    return
                if time.monotonic() > until:
                    raise UserError(
                        f"another command has been reading {storage.url} for {_LOCK_SECONDS:.0f} seconds; wait for it"
                    ) from None
            time.sleep(0.1)
        file.truncate(0)
        file.write("driver" if driver else "")
        file.flush()
        yield True


@contextlib.contextmanager
def _reading(url: str) -> Iterator[ObjectStore]:
    try:
        yield ObjectStore(url, patience=READERS_PATIENCE)
    except StoreError as error:
        raise UserError(f"{error}; check its address, your credentials and the network") from None


def _noted(folder: Path) -> _Note | None:
    try:
        content = json.loads((folder / RUN_NOTE_FILE).read_text(encoding="utf-8"))
        note = _Note(str(content["attempt"]), bool(content["ended"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return note if not note.ended or (folder / RESULT_FILE).exists() else None


def _has_own_ledger(storage: Storage) -> bool:
    try:
        record = read_study_record(storage)
    except (OSError, ValueError):
        return True
    return not (recorded_spec(record).get("storage") or {}).get("ledger_url")


def _write_events(folder: Path, lines: list[str]) -> None:
    """Makes the event file hold these lines: appended where it is the beginning of them, else in one step."""
    path = folder / EVENTS_FILE
    content = "".join(f"{line}\n" for line in lines).encode()
    try:
        present = path.read_bytes()
    except OSError:
        present = b""
    if content.startswith(present):
        with path.open("ab") as file:
            file.write(content[len(present) :])
            file.flush()
            os.fsync(file.fileno())
        return
    with replacing(path, durable=False) as partial:
        partial.write_bytes(content)
