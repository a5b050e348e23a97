"""What a run leaves at a storage URL, and how it is read from there.

Every attempt writes under a prefix of its own, so that a worker that has lost its run, its driver long dead, disturbs
nothing that a newer attempt writes::

    <study>/runs/<phase>/<arm>/<run>/
        stop.json                 a stop order for whoever works on the run
        0002-1f0c77ab/            an attempt: its number by the ledger, and the beginning of the driver's id
            begun.json            first of all, so that an older attempt that is still alive gives way
            manifest.json         all events so far, and where the files lie that they speak of; rewritten
            f000001/...           files that came with the first copying
            c000001/...           files of a checkpoint, deleted when two newer ones are there
            cb000001/...          weights of the best step so far, deleted when another step is better
            all.json              the last manifest, once the attempt is over, which no late writing of another undoes
            result.json           the last object of all: with it the run is over

A manifest is written after the files that it names, each with its size and SHA-256: what it does not name, such as
a checkpoint whose upload tore, is not there. Stores replace an object as a whole, so that events and files always
belong together. The first manifest of an attempt holds everything of the attempt that it goes on from, so that a
reader needs one attempt only: the newest with a result, or else the newest. What an earlier version left, numbered
pieces of a manifest, is read too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study.remote.object_store import ObjectInfo, ObjectStore, StoreError
from study.storage.layout import ANNOUNCEMENT_FILE, LAST_MANIFEST_FILE, MANIFEST_FILE, RUNS, SEGMENTS
from trainables.events import BEST_WEIGHTS, CHECKPOINTS, RESULT_FILE, SAMPLES, WEIGHTS
from trainables.util.files import sha256_of

BEST_STEP = f"{CHECKPOINTS}/{BEST_WEIGHTS}-"  # weights of the best step so far: how their names begin
UNDER_CHECKPOINTS, UNDER_SAMPLES, UNDER_WEIGHTS = f"{CHECKPOINTS}/", f"{SAMPLES}/", f"{WEIGHTS}/"


@dataclass(frozen=True)
class FileRef:
    """Where a file of a run lies: its key relative to the run, its size in bytes, its hex SHA-256."""

    key: str
    size: int
    sha256: str

    def fits(self, path: Path) -> bool:
        """Whether a file on disk is this one."""
        try:
            return path.stat().st_size == self.size and sha256_of(path) == self.sha256
        except OSError:
            return False


@dataclass
class RunView:
    """A run as an attempt's manifest tells it.

    Attributes:
        attempt: Prefix of the attempt.
        events: Lines of ``events.jsonl``.
        files: Path relative to the run's folder -> where it lies.
        ended: Whether the run has a result.
    """

    attempt: str
    events: list[str] = field(default_factory=list)
    files: dict[str, FileRef] = field(default_factory=dict)
    ended: bool = False


def run_prefix(study: str, run: str) -> str:
    """The prefix of a run (by its name) under the storage's URL."""
    return f"{study}/{RUNS}/{run}"


def attempt_name(number: int, driver_id: str) -> str:
    """The prefix of an attempt: attempts sort by their number."""
    return f"{number:04d}-{driver_id[:8]}"


def encode(events: Iterable[str], files: Mapping[str, FileRef]) -> bytes:
    """Returns a manifest's content."""
    refs = {path: [ref.key, ref.size, ref.sha256] for path, ref in sorted(files.items())}
    return json.dumps({"events": list(events), "files": refs}, separators=(",", ":")).encode()


def decode(attempt: str, *pieces: bytes, ended: bool = False) -> RunView | None:
    """Returns what a manifest says, or the pieces of one, of which each adds to those before; None if it is damaged."""
    view = RunView(attempt, ended=ended)
    try:
        for piece in pieces:
            document = json.loads(piece)
            view.events += [str(line) for line in document["events"]]
            for path, ref in document["files"].items():
                if ref is None:  # of a piece: no longer kept
                    view.files.pop(path, None)
                else:
                    view.files[safe_path(path)] = FileRef(safe_path(ref[0]), int(ref[1]), str(ref[2]))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None
    return view


def announce(store: ObjectStore, prefix: str, attempt: str) -> None:
    """Lets older attempts at a run see that this one has begun, before it reads what they left."""
    store.put(f"{prefix}/{attempt}/{ANNOUNCEMENT_FILE}", b"{}")


def choose_attempt(names: Iterable[str]) -> tuple[str, bool] | None:
    """Returns the attempt to read, and whether it ended the run; None if none has told anything yet.

    Args:
        names: Keys relative to the run.
    """
    return next(((attempt, ended) for attempt, _, ended in _attempts(names)), None)


def _attempts(names: Iterable[str]) -> Iterator[tuple[str, list[str], bool]]:
    """Yields attempts that have told something, with the objects that say it, the one to read first: those that ended
    the run, then the newest.
    """
    found: dict[str, set[str]] = {}
    for name in names:
        attempt, _, rest = name.partition("/")
        found.setdefault(attempt, set()).add(rest)
    told: dict[str, list[str]] = {}
    for attempt, there in found.items():
        whole = [name for name in (LAST_MANIFEST_FILE, MANIFEST_FILE) if name in there]
        pieces = sorted(name for name in there if name.startswith(f"{SEGMENTS}/"))
        if whole or pieces:
            told[attempt] = [f"{attempt}/{name}" for name in whole[:1] or pieces]
    for attempt in sorted(told, key=lambda one: (RESULT_FILE in found[one], one), reverse=True):
        yield attempt, told[attempt], RESULT_FILE in found[attempt]


def newer_attempt(names: Iterable[str], attempt: str) -> str | None:
    """Returns the newest attempt above `attempt`, if there is one."""
    others = {name.partition("/")[0] for name in names if "/" in name}
    newest = max(others, default="")
    return newest if newest > attempt else None


def read_view(store: ObjectStore, prefix: str, names: Iterable[str]) -> RunView | None:
    """Reads a run as far as it is there; of an attempt under way whose manifest is damaged, the attempt before it.

    Args:
        prefix: Of the run.
        names: Its keys, relative to `prefix`, as listed.

    Returns:
        None if nothing has been written yet.

    Raises:
        StoreError: The manifest of an attempt that ended the run is damaged: a run that has ended is not done again.
    """
    for attempt, told, ended in _attempts(names):
        pieces = [store.get(f"{prefix}/{name}") for name in told]
        view = decode(attempt, *(piece or b"" for piece in pieces), ended=ended)
        if view is not None:
            return view
        if ended:
            raise StoreError(
                f"storage {store.url}: {prefix}/{told[0]} is damaged, and tells of a run that has ended; put it back, "
                f"or delete {prefix}/ to do the run anew"
            )
    return None


def fetch_file(store: ObjectStore, prefix: str, ref: FileRef, path: Path) -> bool:
    """Fetches a file unless it is there already; returns whether it now is, whole."""
    if ref.fits(path):
        return True
    if not store.get_file(f"{prefix}/{ref.key}", path):
        return False
    if ref.fits(path):
        return True
    path.unlink(missing_ok=True)
    return False


def relative(listing: dict[str, ObjectInfo], prefix: str) -> set[str]:
    """Returns the keys of a listing relative to a prefix."""
    return {key.removeprefix(prefix + "/") for key in listing if key.startswith(prefix + "/")}


def safe_path(path: Any) -> str:
    """Returns a relative path that stays below its folder; raises ValueError for any other."""
    text = str(path)
    if not text or text.startswith("/") or "\\" in text or ".." in text.split("/") or "\0" in text:
        raise ValueError(f"{text!r} leaves its folder")
    return text
