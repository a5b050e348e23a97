"""The worker's side of a storage URL: what an attempt does in its scratch folder is copied to the URL as it goes.

A thread of its own copies; the attempt waits for it at its end only. What it writes: `study.remote.run_manifest`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from study.remote.object_store import ObjectStore, StoreError
from study.remote.run_manifest import (
    BEST_STEP,
    UNDER_CHECKPOINTS,
    UNDER_SAMPLES,
    UNDER_WEIGHTS,
    FileRef,
    RunView,
    encode,
    fetch_file,
    newer_attempt,
    read_view,
    relative,
)
from study.storage.layout import (
    ATTEMPTS_FILE,
    LAST_MANIFEST_FILE,
    LOG_FILE,
    MANIFEST_FILE,
    STOP_FILE,
    WORKER_LOCK_FILE,
)
from study.storage.run_result import read_result
from trainables.events import (
    CHECKPOINTS,
    EVENTS_FILE,
    KEPT_CHECKPOINTS,
    LOCK_FILE,
    RESULT_FILE,
    STEP,
    WHOLE_CHECKPOINTS,
)
from trainables.util.files import sha256_of

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 15.0
LOG_SECONDS = 30.0
UPLOAD_SHARE = (
    0.25  # of the time may go into checkpoints: the next one waits so that training keeps its network
)
FINAL_PATIENCE_SECONDS = 600.0
_UNPUSHED = (EVENTS_FILE, RESULT_FILE, STOP_FILE, LOCK_FILE, WORKER_LOCK_FILE)


class Superseded(RuntimeError):
    """A newer attempt works on the run: this one must not end it."""


def pull_run(store: ObjectStore, prefix: str, folder: Path) -> RunView | None:
    """Brings what an attempt needs of earlier ones into its empty folder: events, newest whole checkpoint, records.

    Returns:
        What is at the URL; None if there is nothing yet. Of a run that has ended, the result is fetched too.
    """
    names = relative(store.list(prefix), prefix)
    if STOP_FILE in names:
        store.get_file(f"{prefix}/{STOP_FILE}", folder / STOP_FILE)
    view = read_view(store, prefix, names)
    if view is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    always_left = (UNDER_CHECKPOINTS, UNDER_SAMPLES)
    left = always_left if _is_over(view.events) else (*always_left, UNDER_WEIGHTS)
    for path, ref in list(view.files.items()):
        if path.startswith(left):
            continue
        if not fetch_file(store, prefix, ref, folder / path):
            view.files.pop(path)
    if not view.ended:
        _pull_checkpoint(store, prefix, view, folder)
        _pull_best_step(store, prefix, view, folder)
    (folder / EVENTS_FILE).write_text("".join(f"{line}\n" for line in view.events), encoding="utf-8")
    if view.ended:
        store.get_file(f"{prefix}/{view.attempt}/{RESULT_FILE}", folder / RESULT_FILE)
        if read_result(folder) is None:  # gone or damaged: what the events tell is summed up anew
            (folder / RESULT_FILE).unlink(missing_ok=True)
            view.ended = False
    return view


def _is_over(lines: list[str]) -> bool:
    """Whether the events tell the run's end: the attempt died before its result was at the URL, nothing else lacks."""
    with contextlib.suppress(ValueError, IndexError, AttributeError):
        return bool(json.loads(lines[-1]).get("kind") == "finished")
    return False


def _pull_checkpoint(store: ObjectStore, prefix: str, view: RunView, folder: Path) -> None:
    """Fetches the newest checkpoint whose files are all whole; forgets damaged ones."""
    for _, paths in reversed(list(checkpoints(view.files))):
        if all(fetch_file(store, prefix, view.files[path], folder / path) for path in paths):
            return
        for path in paths:
            (folder / path).unlink(missing_ok=True)
            view.files.pop(path)


def _pull_best_step(store: ObjectStore, prefix: str, view: RunView, folder: Path) -> None:
    """Fetches the weights of the best step so far; a run that lacks them begins anew."""
    for path in [path for path in view.files if path.startswith(BEST_STEP)]:
        if not fetch_file(store, prefix, view.files[path], folder / path):
            view.files.pop(path)


def checkpoints(files: dict[str, FileRef]) -> Iterator[tuple[str, list[str]]]:
    """Yields the checkpoints among a run's files, oldest first: each one's folder and paths."""
    folders: dict[str, list[str]] = {}
    for path in sorted(files):
        if path.startswith(UNDER_CHECKPOINTS) and not path.startswith(BEST_STEP):
            folders.setdefault(path.rpartition("/")[0], []).append(path)
    yield from sorted(folders.items())


class RunPusher:
    """Copies an attempt's folder to the URL until `finish` or `abandon`.

    Args:
        store: The storage.
        prefix: Of the run.
        attempt: This attempt's own prefix under it.
        folder: Where the attempt works.
        base: What `pull_run` found.
        obeys: Whether stop orders shall be looked for.

    Attributes:
        trouble: What the store last failed with, or None if it works.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        attempt: str,
        folder: Path,
        base: RunView | None = None,
        *,
        obeys: bool = False,
    ) -> None:
        self.trouble: str | None = None
        self._store, self._prefix, self._attempt, self._folder = store, prefix, attempt, folder
        self._files: dict[str, FileRef] = dict(base.files) if base else {}
        self._told: tuple[list[str], dict[str, FileRef]] = list(base.events) if base else [], {}
        self._signatures: dict[str, tuple[int, int, int]] = {}
        self._pushes = 0
        self._log_time = 0.0
        self._next_checkpoint = 0.0
        self._obeys = obeys
        self._final = False
        self._stop = threading.Event()
        self._done = threading.Event()
        self._error: BaseException | None = None
        self._staging = Path(tempfile.mkdtemp(prefix=".push-", dir=folder))
        self._remember_pulled()
        self._thread = threading.Thread(target=self._run, name="run-pusher", daemon=True)
        self._thread.start()

    def finish(self, seconds: float | None = None) -> bool:
        """Asks for the rest to be pushed, the result last, and waits so many seconds; returns whether it is done.

        Raises:
            StoreError: It could not be pushed within `FINAL_PATIENCE_SECONDS`.
            Superseded: A newer attempt works on the run.
        """
        self._final = True
        self._stop.set()
        if not self._done.wait(seconds):
            return False
        self._thread.join()
        self._remove_staging()
        if self._error is not None:
            raise self._error
        return True

    def abandon(self, seconds: float = 20.0) -> None:
        """Ends the copying of an attempt that was interrupted; what is there by then goes along, if it can."""
        if not self._final:
            self._store.patience = min(self._store.patience, seconds / 2)
            self._stop.set()
            self._done.wait(seconds)
        self._store.close()
        self._remove_staging()

    def _run(self) -> None:
        begun = time.monotonic()
        try:
            while not self._stop.wait(min(LONGEST_SECONDS, FIRST_SECONDS + (time.monotonic() - begun) / 20)):
                self._try_push()
            if self._final:
                self._store.patience = FINAL_PATIENCE_SECONDS
                self._push(last=True)
                names = self._push_end()
                # Only now: until the result is there, whoever goes on needs the checkpoints.
                self._store.patience = 0
                self._remove(self._leftovers(names))
            else:
                self._next_checkpoint = 0.0
                self._try_push()
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def _try_push(self) -> None:
        try:
            self._push()
            self.trouble = None
        except (StoreError, OSError) as error:  # the next round tries again
            self.trouble = str(error)

    def _push(self, *, last: bool = False) -> None:
        """Pushes files that are new or have changed, then the manifest that names them with the events so far."""
        best = _best_steps(self._folder)  # before the events, which tell whose weights are needed
        lines = _lines(self._folder)
        if len(lines) < len(self._told[0]):  # the attempt was abandoned, and its folder removed
            raise FileNotFoundError(f"{self._folder / EVENTS_FILE} is no longer whole")
        staged = self._stage(last)
        if staged:
            self._pushes += 1
        began, has_checkpoint = time.monotonic(), False
        found: dict[str, tuple[FileRef, tuple[int, int, int]]] = {}
        for path, (copy, signature) in staged.items():
            is_checkpoint = path.startswith(UNDER_CHECKPOINTS)
            has_checkpoint |= is_checkpoint
            kind = "cb" if path.startswith(BEST_STEP) else "c" if is_checkpoint else "f"
            key = f"{self._attempt}/{kind}{self._pushes:06d}/{path}"
            ref = FileRef(key, copy.stat().st_size, sha256_of(copy))
            self._store.put_file(f"{self._prefix}/{key}", copy)
            found[path] = ref, signature
        if has_checkpoint:
            self._next_checkpoint = time.monotonic() + (time.monotonic() - began) * (1 / UPLOAD_SHARE - 1)
        self._files |= {path: ref for path, (ref, _) in found.items()}
        for path in [
            path for path in self._files if path.startswith(BEST_STEP) and path not in {*best, *staged}
        ]:
            self._files.pop(path)
        outdated = self._prune(last)
        if (lines, self._files) != self._told and not last:  # `_push_end` tells the end
            self._store.put(f"{self._prefix}/{self._attempt}/{MANIFEST_FILE}", encode(lines, self._files))
        self._told = lines, dict(self._files)
        self._signatures |= {path: signature for path, (_, signature) in found.items()}
        if last:
            return
        self._remove(outdated)
        if self._obeys:
            self._store.get_file(f"{self._prefix}/{STOP_FILE}", self._folder / STOP_FILE)

    def _leftovers(self, names: set[str]) -> list[str]:
        """Returns what nobody needs any more when the attempt has told its end: other checkpoints than its manifest
        names; those of earlier attempts too, even if their upload tore so that nothing names them.
        """
        used = {_prefix(ref.key) for ref in self._files.values()}
        return sorted(prefix for prefix in {_prefix(name) for name in names} - used if _is_checkpoint(prefix))

    def _remove(self, outdated: list[str]) -> None:
        """Deletes what is no longer needed, unless a newer attempt works on the run: it may go on from any of them.

        This one has lost the run then, such as a worker that was silent for so long that another node was given it.
        """
        if not outdated:
            return
        with contextlib.suppress(StoreError):  # they are only in the way
            names = relative(self._store.list(self._prefix), self._prefix)
            if newer_attempt(names, self._attempt) is None:
                for folder in outdated:
                    self._store.delete_under(f"{self._prefix}/{folder}")

    def _push_end(self) -> set[str]:
        """Ends the attempt at the URL, and the run if it has a result; returns the run's keys before that."""
        names = relative(self._store.list(self._prefix), self._prefix)
        newer = newer_attempt(names, self._attempt)
        if newer is not None:
            raise Superseded(f"attempt {newer} works on this run, {self._attempt} gives way")
        own = f"{self._prefix}/{self._attempt}"
        self._store.put(f"{own}/{LAST_MANIFEST_FILE}", encode(*self._told))
        if (self._folder / RESULT_FILE).exists():
            self._store.put_file(f"{own}/{RESULT_FILE}", self._folder / RESULT_FILE)
        return names

    def _stage(self, last: bool) -> dict[str, tuple[Path, tuple[int, int, int]]]:
        """Holds every file that must be pushed by a second name, so that the run may replace or remove it meanwhile."""
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir(parents=True)
        now = time.monotonic()
        newest = max(
            (path.name for path in (self._folder / CHECKPOINTS).glob(WHOLE_CHECKPOINTS)), default=None
        )
        staged = {}
        for path in _files_of(self._folder):
            name = str(path.relative_to(self._folder))
            if name == LOG_FILE and not last and now < self._log_time + LOG_SECONDS:
                continue
            waits = now < self._next_checkpoint and not name.startswith(BEST_STEP)
            if name.startswith(UNDER_CHECKPOINTS) and (last or waits):
                continue  # at the end only the run's own decision to keep them counts, see `_prune`
            if name.startswith(f"{UNDER_CHECKPOINTS}{STEP}") and path.parent.name != newest:
                continue
            with contextlib.suppress(OSError):
                signature = _signature(path)
                if self._signatures.get(name) == signature:
                    continue
                copy = self._staging / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                # A log grows while it is copied; everything else is replaced as a whole.
                shutil.copy2(path, copy) if name in (LOG_FILE, ATTEMPTS_FILE) else os.link(path, copy)
                staged[name] = copy, signature
                self._log_time = now if name == LOG_FILE else self._log_time
        return staged

    def _prune(self, last: bool) -> list[str]:
        """Forgets checkpoints that are no longer wanted; returns prefixes that may be deleted after that is told."""
        kept = list(checkpoints(self._files))
        outdated = [paths for _, paths in kept[:-KEPT_CHECKPOINTS]]
        if last and (self._folder / RESULT_FILE).exists() and not (self._folder / CHECKPOINTS).exists():
            outdated = [paths for _, paths in kept]
        for path in (path for paths in outdated for path in paths):
            self._files.pop(path)
        used = {_prefix(ref.key) for ref in self._files.values()}
        before = {_prefix(ref.key) for ref in self._told[1].values()}
        return sorted(prefix for prefix in before - used if _is_checkpoint(prefix))

    def _remember_pulled(self) -> None:
        """What has just been pulled need not be pushed again."""
        for name, ref in self._files.items():
            path = self._folder / name
            if ref.fits(path):
                self._signatures[name] = _signature(path)

    def _remove_staging(self) -> None:
        shutil.rmtree(self._staging, ignore_errors=True)


def _files_of(folder: Path) -> Iterator[Path]:
    """Yields a run's files in a stable order, without those that are being written, and locks."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not name.endswith(".partial")
        )
        for name in sorted(names):
            path = Path(root) / name
            hidden = name.startswith(".") or name.endswith((".partial", ".lock"))
            if not hidden and not (Path(root) == folder and name in _UNPUSHED):
                yield path


def _best_steps(folder: Path) -> set[str]:
    """The files with weights of a best step that are there now."""
    return {
        f"{UNDER_CHECKPOINTS}{path.name}"
        for path in (folder / CHECKPOINTS).glob("*")
        if f"{UNDER_CHECKPOINTS}{path.name}".startswith(BEST_STEP) and not path.name.endswith(".partial")
    }


def _lines(folder: Path) -> list[str]:
    """The whole lines of a run's event file; none before its first event."""
    try:
        content = (folder / EVENTS_FILE).read_bytes()
    except FileNotFoundError:
        return []
    return [line.decode("utf-8", errors="replace") for line in content.split(b"\n")[:-1]]


def _signature(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _prefix(key: str) -> str:
    """Attempt and push of a file: ``0001-ab12cd34/c000003``."""
    return "/".join(key.split("/")[:2])


def _is_checkpoint(prefix: str) -> bool:
    return prefix.partition("/")[2].startswith("c")
