"""What a run leaves at a storage URL, and how it is read from there.

Every attempt writes under a prefix of its own, so that a stale worker, whose driver is long dead, can disturb
nothing that a newer attempt writes::

    <study>/runs/<phase>/<arm>/<run>/
        stop.json                 a stop order for whoever works on the run
        0002-1f0c77ab/            an attempt: its number by the ledger, and the driver's session
            s/000001.json         segments: events, and where the files lie that they speak of
            f000001/...           files that came with a segment
            c000001/...           files of a checkpoint, deleted when two newer ones are there
            all.json              all segments in one, written when the attempt is over
            result.json           the last object of all: with it the run is over

A segment is written after the files that it names, each with its size and SHA-256: what it does not name, such as
a checkpoint whose upload tore, is not there. The first segment of an attempt holds everything of the attempt
that it goes on from, so that a reader needs one attempt only: the newest with a result, or else the newest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study.remote.object_store import ObjectInfo, ObjectStore
from study.storage.layout import ALL_SEGMENTS_FILE, RUNS, SEGMENTS
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
    """A run as an attempt's segments tell it.

    Attributes:
        attempt: Prefix of the attempt.
        segments: How many of them have been read.
        events: Lines of ``events.jsonl``.
        files: Path relative to the run's folder -> where it lies.
        ended: Whether the run has a result.
    """

    attempt: str
    segments: int = 0
    events: list[str] = field(default_factory=list)
    files: dict[str, FileRef] = field(default_factory=dict)
    ended: bool = False

    def take(self, content: bytes) -> None:
        """Adds a segment; raises ValueError if it is damaged."""
        try:
            document = json.loads(content)
            events = [str(line) for line in document["events"]]
            files = {
                safe_path(path): None if ref is None else FileRef(safe_path(ref[0]), int(ref[1]), str(ref[2]))
                for path, ref in document["files"].items()
            }
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"not a segment: {error}") from None
        self.events += events
        for path, ref in files.items():
            if ref is None:
                self.files.pop(path, None)
            else:
                self.files[path] = ref
        self.segments += 1


def run_prefix(study: str, run: str) -> str:
    """The prefix of a run (by its name) under the storage's URL."""
    return f"{study}/{RUNS}/{run}"


def attempt_name(number: int, session: str) -> str:
    """The prefix of an attempt: attempts sort by their number."""
    return f"{number:04d}-{session[:8]}"


def segment_name(number: int) -> str:
    """The name of the n-th segment (from 1) under its attempt."""
    return f"{SEGMENTS}/{number:06d}.json"


def encode(events: Iterable[str], files: dict[str, FileRef | None]) -> bytes:
    """Returns a segment's content."""
    refs = {
        path: None if ref is None else [ref.key, ref.size, ref.sha256] for path, ref in sorted(files.items())
    }
    return json.dumps({"events": list(events), "files": refs}, separators=(",", ":")).encode()


def choose_attempt(names: Iterable[str]) -> tuple[str, bool] | None:
    """Returns the attempt to read, and whether it ended the run.

    Args:
        names: Keys relative to the run.
    """
    begun: set[str] = set()
    ended: set[str] = set()
    for name in names:
        attempt, _, rest = name.partition("/")
        if rest in (ALL_SEGMENTS_FILE, segment_name(1)):
            begun.add(attempt)
        elif rest == RESULT_FILE:
            ended.add(attempt)
    if ended & begun:
        return max(ended & begun), True
    return (max(begun), False) if begun else None


def newer_attempt(names: Iterable[str], attempt: str) -> str | None:
    """Returns the newest attempt above `attempt`, if there is one."""
    others = {name.partition("/")[0] for name in names if "/" in name}
    newest = max(others, default="")
    return newest if newest > attempt else None


def read_view(
    store: ObjectStore, prefix: str, names: Iterable[str], known: RunView | None = None
) -> RunView | None:
    """Reads a run as far as it is there, or goes on from what is `known` of the same attempt.

    Args:
        prefix: Of the run.
        names: Its keys, relative to `prefix`, as listed.

    Returns:
        None if nothing has been written yet.
    """
    names = set(names)
    chosen = choose_attempt(names)
    if chosen is None:
        return None
    attempt, ended = chosen
    if f"{attempt}/{ALL_SEGMENTS_FILE}" in names:
        content = store.get(f"{prefix}/{attempt}/{ALL_SEGMENTS_FILE}")
        view = RunView(attempt, ended=ended)
        if content is not None:
            with contextlib.suppress(ValueError):  # damaged: the segments may still be there
                view.take(content)
                view.segments = -1
                return view
    view = known if known is not None and known.attempt == attempt else RunView(attempt)
    view.ended = ended
    while read_next(store, prefix, view, names):
        pass
    return view if view.segments else None


def read_next(store: ObjectStore, prefix: str, view: RunView, names: set[str] | None = None) -> bool:
    """Reads one more segment into the view; returns whether there was one (and it was whole).

    Args:
        names: What was listed, so that nothing that is not there is asked for; None asks.
    """
    name = f"{view.attempt}/{segment_name(view.segments + 1)}"
    if view.segments < 0 or (names is not None and name not in names):
        return False
    content = store.get(f"{prefix}/{name}")
    if content is None:
        return False
    try:
        view.take(content)
    except ValueError:
        return False
    return True


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
