"""What a run leaves at a storage URL, and how it is read from there.

Every attempt writes under a prefix of its own, so that a stale worker, whose driver is long dead, can disturb
nothing that a newer attempt writes::

    <study>/runs/<phase>/<arm>/<run>/
        stop.json                 a stop order for whoever works on the run
        0002-1f0c77ab/            an attempt: its number by the ledger, and the beginning of the driver's id
            manifest.json         all events so far, and where the files lie that they speak of; rewritten
            f000001/...           files that came with the first copying
            c000001/...           files of a checkpoint, deleted when two newer ones are there
            result.json           the last object of all: with it the run is over

A manifest is written after the files that it names, each with its size and SHA-256: what it does not name, such as
a checkpoint whose upload tore, is not there. Stores replace an object as a whole, so that events and files always
belong together. The first manifest of an attempt holds everything of the attempt that it goes on from, so that a
reader needs one attempt only: the newest with a result, or else the newest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study.remote.object_store import ObjectInfo, ObjectStore
from study.storage.layout import MANIFEST_FILE, OLD_MANIFEST_FILE, RUNS
from trainables.events import CHECKPOINTS, RESULT_FILE, SAMPLES, WEIGHTS

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
            return path.stat().st_size == self.size and digest_of(path) == self.sha256
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


def decode(attempt: str, content: bytes, *, ended: bool = False) -> RunView | None:
    """Returns what a manifest says; None if it is damaged."""
    try:
        document = json.loads(content)
        events = [str(line) for line in document["events"]]
        files = {
            safe_path(path): FileRef(safe_path(ref[0]), int(ref[1]), str(ref[2]))
            for path, ref in document["files"].items()
        }
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None
    return RunView(attempt, events, files, ended)


def choose_attempt(names: Iterable[str]) -> tuple[str, bool] | None:
    """Returns the attempt to read, and whether it ended the run; None if none has told anything yet.

    Args:
        names: Keys relative to the run.
    """
    return next(((attempt, ended) for attempt, _, ended in _attempts(names)), None)


def _attempts(names: Iterable[str]) -> Iterator[tuple[str, str, bool]]:
    """Yields attempts with their manifests' names, the one to read first: those that ended the run, then the newest."""
    manifests: dict[str, str] = {}
    ended: set[str] = set()
    for name in names:
        attempt, _, rest = name.partition("/")
        if rest == MANIFEST_FILE or (rest == OLD_MANIFEST_FILE and attempt not in manifests):
            manifests[attempt] = name
        elif rest == RESULT_FILE:
            ended.add(attempt)
    for attempt in sorted(manifests, key=lambda one: (one in ended, one), reverse=True):
        yield attempt, manifests[attempt], attempt in ended


def newer_attempt(names: Iterable[str], attempt: str) -> str | None:
    """Returns the newest attempt above `attempt`, if there is one."""
    others = {name.partition("/")[0] for name in names if "/" in name}
    newest = max(others, default="")
    return newest if newest > attempt else None


def read_view(store: ObjectStore, prefix: str, names: Iterable[str]) -> RunView | None:
    """Reads a run as far as it is there; of an attempt whose manifest is damaged, the attempt before it.

    Args:
        prefix: Of the run.
        names: Its keys, relative to `prefix`, as listed.

    Returns:
        None if nothing has been written yet.
    """
    for attempt, name, ended in _attempts(names):
        content = store.get(f"{prefix}/{name}")
        view = None if content is None else decode(attempt, content, ended=ended)
        if view is not None:
            return view
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


def digest_of(path: Path) -> str:
    """Returns the hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safe_path(path: Any) -> str:
    """Returns a relative path that stays below its folder; raises ValueError for any other."""
    text = str(path)
    if not text or text.startswith("/") or "\\" in text or ".." in text.split("/") or "\0" in text:
        raise ValueError(f"{text!r} leaves its folder")
    return text
