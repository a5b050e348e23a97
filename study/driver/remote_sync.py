"""What a driver does for a storage URL while a study runs: holds the lease, sends the ledger and what runs write."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from study.dispatch.run_hooks import RunHooks, StorageUnavailable
from study.remote.lease import leased
from study.remote.ledger_backup import LedgerCopy, drop_older, noted_generation
from study.remote.object_store import ObjectStore, StoreError
from study.remote.run_manifest import FileRef, attempt_name, encode, run_prefix
from study.remote.working_copy import AT_ONCE, RunCopies, copy_locked, fetch_all, fetch_study
from study.spec.downstream_plan import downstream_plan
from study.storage.layout import (
    DEATHS_FILE,
    DRIVER_FILE,
    LAST_MANIFEST_FILE,
    STOP_REQUEST_FILE,
    STUDY_FILE,
    Storage,
)
from study.storage.planned_run import PlannedRun
from study.storage.run_key import PHASES
from study.storage.run_result import read_result
from trainables.errors import UserError
from trainables.events import EVENTS_FILE, RESULT_FILE, RUN_FILE
from trainables.util.files import sha256_of
from trainables.util.text import some

if TYPE_CHECKING:
    from study.ledger.ledger import Ledger
    from study.spec.study_spec import StudySpec

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 15.0
LEDGER_SECONDS = 30.0
TELL_SECONDS = 10.0
PATIENCE_SECONDS = 60.0
# What may pass: a store, a disk or a ledger that cannot be reached now. The thread tries again, and never ends of it.
_PASSING = (StoreError, OSError, sqlite3.Error)


@contextlib.contextmanager
def storage_hooks(
    spec: StudySpec,
    storage: Storage,
    *,
    open_ledger: Callable[[], Ledger],
    end: Callable[[str], None],
    say: Callable[[str], None],
) -> Iterator[RunHooks]:
    """Brings the working copy of a URL up to date and keeps it so; does nothing for a folder.

    Args:
        open_ledger: Called when the ledger is there.
        end: Asks for the end of the launch, with the reason.
        say: Takes a line for the user.

    Raises:
        UserError: The URL cannot be used, another driver runs the study, or its runs are not those of the ledger.
    """
    if storage.url is None:
        yield RunHooks()
        return
    own_ledger = spec.storage.ledger_url is None
    store = ObjectStore(storage.url, patience=PATIENCE_SECONDS)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(copy_locked(storage, driver=True))
            generation = stack.enter_context(leased(store, storage, lost=end, say=say))
            fetch_study(store, storage)
            copies = RunCopies(store, storage)
            begun = fetch_all(copies, ledger=own_ledger)
            _check_known(spec, storage, begun, open_ledger())
            if store.get(f"{storage.study}/{STUDY_FILE}") is None:
                store.put_file(f"{storage.study}/{STUDY_FILE}", storage.folder / STUDY_FILE)
            ledger = None
            if own_ledger:
                generation = max(generation, noted_generation(storage) + 1)
                ledger = LedgerCopy(store, storage, generation)
                ledger.push()
                drop_older(store, storage, generation)
        except StoreError as error:
            raise UserError(f"{error}; check its address, your credentials and the network") from None
        driver = _Driver(store, storage, copies, ledger, end)
        try:
            yield RunHooks(driver.before_start, driver.after_attempt, driver.publish)
        finally:
            driver.close()


class _Driver:
    """The thread that sends what runs write, and the driver's calls."""

    def __init__(
        self,
        store: ObjectStore,
        storage: Storage,
        copies: RunCopies,
        ledger: LedgerCopy | None,
        end: Callable[[str], None],
    ) -> None:
        self._store, self._storage, self._copies, self._ledger, self._end = (
            store,
            storage,
            copies,
            ledger,
            end,
        )
        self._ledger_lock = threading.Lock()
        self._live: dict[str, tuple[str, float, float]] = {}
        self._live_lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="storage-sync", daemon=True)
        self._thread.start()

    def before_start(self, run: PlannedRun, driver_id: str) -> None:
        """Copies the ledger, which knows of the run now; then the run may begin."""
        try:
            self._push_ledger()
        except StoreError as error:
            self._end(f"{error}; mend that")
            raise StorageUnavailable(str(error)) from None
        now = time.monotonic()
        with self._live_lock:
            self._live[run.key.name] = attempt_name(run.attempt, driver_id), now, now + FIRST_SECONDS

    def after_attempt(self, run: PlannedRun, driver_id: str) -> bool:
        """Fetches all that a run left; if the store is away, the run counts as interrupted."""
        with self._live_lock:
            self._live.pop(run.key.name, None)
        try:
            self._copies.fetch(run.key.name)
        except StoreError:
            return False
        return True

    def publish(self, run: PlannedRun, driver_id: str) -> None:
        """Writes what the driver knows of a dead worker: the death, and, if it ended the run, the end.

        The end is an attempt of its own, right after the dead worker's.
        """
        attempt = f"{attempt_name(run.attempt, driver_id)}-end"
        prefix = run_prefix(self._storage.study, run.key.name)
        if (run.folder / DEATHS_FILE).exists():
            with contextlib.suppress(StoreError):
                self._store.put_file(f"{prefix}/{DEATHS_FILE}", run.folder / DEATHS_FILE)
        if read_result(run.folder) is None:
            return
        lines = (run.folder / EVENTS_FILE).read_text(encoding="utf-8").splitlines()
        try:
            view = self._copies.view(run.key.name)
            files: dict[str, FileRef] = dict(view.files) if view else {}
            if RUN_FILE not in files:  # the run died before it began
                key, path = f"{attempt}/{RUN_FILE}", run.folder / RUN_FILE
                self._store.put_file(f"{prefix}/{key}", path)
                files[RUN_FILE] = FileRef(key, path.stat().st_size, sha256_of(path))
            self._store.put(f"{prefix}/{attempt}/{LAST_MANIFEST_FILE}", encode(lines, files))
            self._store.put_file(f"{prefix}/{attempt}/{RESULT_FILE}", run.folder / RESULT_FILE)
        except StoreError as error:
            self._end(f"{error}; mend that")

    def close(self) -> None:
        """Ends the thread and copies the ledger a last time."""
        self._closing.set()
        self._thread.join(PATIENCE_SECONDS)
        with contextlib.suppress(*_PASSING):
            self._push_ledger()
        with contextlib.suppress(*_PASSING):
            self._store.put_file(f"{self._storage.study}/{DRIVER_FILE}", self._storage.folder / DRIVER_FILE)

    def _push_ledger(self) -> None:
        if self._ledger is not None:
            with self._ledger_lock:
                self._ledger.push()

    def _work(self) -> None:
        pushed = time.monotonic()
        told = pushed - TELL_SECONDS  # at once: the URL may still show a driver that died
        with ThreadPoolExecutor(AT_ONCE) as pool:
            while not self._closing.wait(0.25):
                now = time.monotonic()
                with self._live_lock:
                    due = [(name, live) for name, live in self._live.items() if live[2] <= now]
                list(pool.map(lambda item: self._send_live(*item), due))
                if now - told > TELL_SECONDS:
                    told = now
                    self._tell()
                if now - pushed > LEDGER_SECONDS:
                    pushed = now
                    with contextlib.suppress(*_PASSING):
                        self._push_ledger()

    def _tell(self) -> None:
        """Copies the driver's heartbeat to the URL, and a request to stop from there."""
        folder, study = self._storage.folder, self._storage.study
        with contextlib.suppress(StoreError, OSError):
            self._store.put_file(f"{study}/{DRIVER_FILE}", folder / DRIVER_FILE)
            self._store.get_file(f"{study}/{STOP_REQUEST_FILE}", folder / STOP_REQUEST_FILE)

    def _send_live(self, name: str, live: tuple[str, float, float]) -> None:
        attempt, begun, _ = live
        with contextlib.suppress(*_PASSING):
            self._copies.fetch_new(name, attempt)
        now = time.monotonic()
        pause = min(LONGEST_SECONDS, FIRST_SECONDS + (now - begun) / 20)
        with self._live_lock:
            if self._live.get(name) == live:
                self._live[name] = attempt, begun, now + pause


def _check_known(spec: StudySpec, storage: Storage, begun: list[str], ledger: Ledger) -> None:
    """Raises UserError if there are runs at the URL of which the ledger knows nothing."""
    known = {
        name
        for arm in spec.arms
        for phase in PHASES
        for record in ledger.trials(arm, phase)
        for name in record.runs
    }
    if (plan := downstream_plan(spec)) is not None:
        known |= {
            name
            for cell in plan.arms
            for phase in PHASES
            for record in ledger.downstream.trials(cell, phase)
            for name in record.runs
        }
    unknown = [name for name in begun if name not in known]
    if unknown:
        shown = some(unknown, 3)
        raise UserError(
            f"{storage.url} holds runs of study {spec.name!r} that its ledger does not know: {shown}. They were made "
            "with another ledger: give that one (storage.ledger_url), choose another --storage or name, or remove "
            f"{storage.study}/ there"
        )
