"""``study logs``: what a run printed, attempt by attempt, with where each attempt ran and how it ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from study.monitor.status import RUNS_COLUMNS, StatusReader
from study.spec.launched import readable_storage, stored_spec
from study.storage.attempts import AttemptInfo, attempt_history, attempts, brief_cause
from study.storage.driver_record import read_driver
from study.storage.layout import LOG_FILE, Storage
from study.storage.run_names import find_run, known_runs
from study.storage.run_result import best_words, read_result
from study.util.printing import say
from study.util.units import iso_time
from trainables.errors import UserError

FOLLOW_SECONDS = 0.5
CHUNK = 2**20


def log_text(folder: Path, *, attempt: int | None = None, tail: int | None = None) -> str:
    """Returns a run's log, or the part of one attempt (1, 2, ...), or the last lines of that.

    Raises:
        UserError: There was no such attempt, or which part is its cannot be told.
    """
    begin, end = _span(folder, attempt) if attempt is not None else (0, None)
    try:
        content = (folder / LOG_FILE).read_bytes()[begin:end]
    except OSError:
        return ""
    lines = content.decode(errors="replace").splitlines(keepends=True)
    if tail is not None:
        lines = lines[-tail:] if tail else []
    return "".join(lines)


def _span(folder: Path, attempt: int) -> tuple[int, int | None]:
    """The bytes of the log that one attempt wrote."""
    begun = attempts(folder)
    if not 1 <= attempt <= len(begun):
        have = f"1 to {len(begun)}" if len(begun) > 1 else "only attempt 1" if begun else "none yet"
        raise UserError(f"there is no attempt {attempt} of this run; there is {have}")
    begin = begun[attempt - 1].get("log")
    end = begun[attempt].get("log") if attempt < len(begun) else None
    if begin is None or (attempt < len(begun) and end is None):
        raise UserError(
            "this run was written by an earlier version, which did not note where an attempt begins; "
            "leave --attempt out to see the whole log"
        )
    return int(begin), None if end is None else int(end)


def follow_log(
    folder: Path, *, over: Callable[[], bool], tail: int | None = None, pause: float = FOLLOW_SECONDS
) -> Iterator[str]:
    """Yields the log as it grows, until the run has ended or nobody works on it any more.

    Args:
        over: Says whether nobody will write to it.
        tail: Begin with the last so many lines; None begins at the top.
    """
    text = log_text(folder, tail=tail)
    path = folder / LOG_FILE
    offset = path.stat().st_size if path.exists() else 0
    if text:
        yield text
    while True:
        ended = read_result(folder) is not None or over()  # asked first: then the last words are read as well
        try:
            if path.stat().st_size < offset:
                offset = 0  # it was begun anew
            with path.open("rb") as file:
                file.seek(offset)
                while content := file.read(CHUNK):
                    offset += len(content)
                    yield content.decode(errors="replace")
        except OSError:
            pass
        if ended:
            return
        time.sleep(pause)


def attempt_lines(found: Sequence[AttemptInfo]) -> list[str]:
    """Says of each attempt where it ran, when, how far it came and how it ended."""
    lines = []
    for one in found:
        end = one.end or "under way"
        reason = f" ({one.reason})" if one.reason and one.reason != one.end else ""
        steps = f"steps {one.first_step} to {one.last_step}"
        seconds = max(0.0, one.last_sign - one.began)
        lines.append(
            f"attempt {one.number}: {one.node}, process {one.pid}, {iso_time(one.began)[:19]}Z, "
            f"{seconds:.0f} s, {steps}: {end}{reason}"
        )
        if one.cause and one.end in ("died", "preempted"):
            lines.append(f"    {brief_cause(one.cause)}")
    return lines


def failure_text(folder: Path) -> str | None:
    """Returns reason, message and traceback of a run that failed, None for any other."""
    result = read_result(folder)
    if result is None or result.state != "FAIL":
        return None
    parts = [f"FAIL: {result.reason or 'unknown'}" + (f": {result.message}" if result.message else "")]
    if result.traceback:
        parts.append(result.traceback.rstrip())
    return "\n".join(parts)


FETCH_SECONDS = 10.0


def list_runs(storage: Storage) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Returns a row per run that has begun, failed ones first, and the columns."""
    return StatusReader(storage, stored_spec(storage)).runs(), RUNS_COLUMNS


def show_log(
    location: str, storage: Storage, wanted: str, *, attempt: int | None, tail: int | None, follow: bool
) -> None:
    """Prints the log of a run; raises UserError if the run or the attempt is not there."""
    key = find_run(wanted, known_runs(storage))
    folder = storage.run_folder(key)
    driver_id = _living_driver(storage)
    say(f"{key.name} in {folder}", *attempt_lines(attempt_history(folder, driver_id=driver_id)))
    result = read_result(folder)
    if result is not None and (words := best_words(result.best, result.cost)) is not None:
        say(words)
    if follow and driver_id is not None:
        fetched = time.monotonic()

        def over() -> bool:
            nonlocal fetched
            if storage.url is not None and time.monotonic() - fetched > FETCH_SECONDS:
                readable_storage(location, storage.study)
                fetched = time.monotonic()
            return _living_driver(storage) is None

        try:
            for text in follow_log(folder, over=over, tail=tail):
                sys.stdout.write(text)
                sys.stdout.flush()
        except KeyboardInterrupt:
            return
    else:
        text = log_text(folder, attempt=attempt, tail=tail)
        sys.stdout.write(text if not text or text.endswith("\n") else text + "\n")
        sys.stdout.flush()
        if not text:
            say("(it printed nothing)")
    failure = failure_text(folder)
    if failure is not None and attempt in (None, len(attempt_history(folder))):
        sys.stdout.write(failure + "\n")


def _living_driver(storage: Storage) -> str | None:
    driver = read_driver(storage)
    return driver.driver_id if driver is not None and driver.life(storage) == "alive" else None
