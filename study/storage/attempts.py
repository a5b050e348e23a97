"""What became of each attempt at a run, put together from what worker and driver left in the run's folder.

The worker lists its attempts (``attempts.jsonl``), the driver what they died of (``deaths.jsonl``: another file,
because on shared storage two machines must not append to one), and the events say how far each came.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.storage.layout import ATTEMPTS_FILE, DEATHS_FILE, LOG_FILE
from study.storage.run_key import END_WORDS
from study.storage.run_result import RunResult, read_result
from study.util.json_files import append_json_line, read_json_lines
from trainables.events import Event, read_events

NOT_COUNTED = (
    "preempted",
    "storage",
)  # deaths that no run is to blame for, which use up none of its attempts
CAUSE_CHARACTERS = 2000


@dataclass(frozen=True)
class AttemptInfo:
    """One attempt at a run.

    Attributes:
        number: 1, 2, ... in the order of the beginnings.
        driver_id: Of the driver that gave it out.
        node: ``host`` or ``host (address/Ray's node id)``.
        began: Seconds since the epoch; `last_sign` is the time of its last event, or when it began.
        first_step: Where it went on; `last_step` is how far it came.
        end: ``complete``, ``pruned``, ``failed``, ``died``, ``preempted``, ``interrupted``, or None while nothing
            says that it has ended.
        reason: Of a failure or death, such as ``nan_loss`` or ``worker_died``; `cause` says it in words.
    """

    number: int
    driver_id: str
    node: str
    pid: int | None
    began: float
    last_sign: float
    first_step: int = 0
    last_step: int = 0
    end: str | None = None
    reason: str | None = None
    cause: str | None = None


def node_label(attempt: Mapping[str, Any]) -> str:
    """Names where an attempt of ``attempts.jsonl`` ran: its host, and Ray's name of the node if it is known."""
    host, node = str(attempt.get("host") or ""), str(attempt.get("node") or "")
    return f"{host} ({node})" if host and node else host or node or "an unknown node"


def note_worker_failure(folder: Path, driver_id: str, *, reason: str, cause: str) -> None:
    """Adds to a run's folder what its latest attempt died of; called by the driver."""
    begun = attempts(folder)
    number = len(begun) if begun and begun[-1].get("driver_id") == driver_id else None
    if any(death.get("attempt") == number for death in worker_failures(folder)):
        number = None  # that one was dead already: this worker died before it could begin
    line = {
        "driver_id": driver_id,
        "attempt": number,
        "time": time.time(),
        "reason": reason,
        "cause": cause.strip()[-CAUSE_CHARACTERS:],
    }
    # Best effort: losing this record is harmless, and the disk may be what failed.
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        append_json_line(folder / DEATHS_FILE, line)


def worker_failures(folder: Path) -> list[dict[str, Any]]:
    """Returns what `note_worker_failure` wrote, oldest first."""
    return [{"attempt": None, **death} for death in map(_with_driver, read_json_lines(folder / DEATHS_FILE))]


def attempt_history(
    folder: Path, *, driver_id: str | None = None, events: Sequence[Event] | None = None
) -> list[AttemptInfo]:
    """Returns the attempts at the run in `folder`, oldest first.

    Args:
        driver_id: Of the driver that is at work now: only its latest attempt can still be under way.
        events: Those of the run if they are at hand.
    """
    begun = attempts(folder)
    events = read_events(folder) if events is None else events
    died = {death["attempt"]: death for death in worker_failures(folder)}
    result = read_result(folder)
    found = []
    for index, attempt in enumerate(begun):
        last = index == len(begun) - 1
        until = float("inf") if last else begun[index + 1].get("after", 0)
        mine = [event for event in events if attempt.get("after", 0) < event.number <= until]
        steps = [event.step for event in mine if event.step is not None]
        resumed = next((event.data.get("resumed_step") or 0 for event in mine if event.kind == "started"), 0)
        death = died.get(index + 1)
        end, reason, cause = _end(death, result if last else None)
        if end is None and not (last and driver_id is not None and attempt.get("driver_id") == driver_id):
            end = "interrupted"
        began = float(attempt.get("time") or 0.0)
        found.append(
            AttemptInfo(
                number=index + 1,
                driver_id=str(attempt.get("driver_id", "")),
                node=node_label(attempt),
                pid=attempt.get("pid"),
                began=began,
                last_sign=max([began, *(event.time for event in mine)]),
                first_step=int(resumed),
                last_step=max([int(resumed), *steps]),
                end=end,
                reason=reason,
                cause=cause,
            )
        )
    return found


def _end(
    death: Mapping[str, Any] | None, result: RunResult | None
) -> tuple[str | None, str | None, str | None]:
    if death is not None:
        word = "preempted" if death.get("reason") == "preempted" else "died"
        return word, death.get("reason"), death.get("cause")
    if result is not None:
        word = END_WORDS[result.state]
        return word, result.reason, result.message
    return None, None, None


def where_failed(folder: Path) -> str:
    """Says where and in which attempt a run ended: ``on host, attempt 2``."""
    begun = attempts(folder)
    if not begun:
        return "before its first attempt began"
    return f"on {node_label(begun[-1])}, attempt {len(begun)}"


def brief_cause(cause: str) -> str:
    """Returns the one line of an exception's text that says most, cut to a line of a terminal or two."""
    lines = [line.strip() for line in cause.splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line.split(":")[0] or line.startswith("The actor")]
    line = (named or lines or [""])[-1]
    _, _, detail = line.partition("Worker exit detail: ")
    line = (detail or line).partition(" Some common causes include")[0]
    return line if len(line) <= 160 else line[:159] + "…"


FATAL = "Fatal Python error"


def note_attempt(folder: Path, driver_id: str, node: str = "") -> None:
    """Adds an attempt to the run's list, with the number of the last event and the size of the log before it."""
    events = read_events(folder)
    line = {
        "driver_id": driver_id,
        "time": time.time(),
        "host": socket.gethostname(),
        "node": node,
        "pid": os.getpid(),
        "after": events[-1].number if events else 0,
        "log": _size(folder / LOG_FILE),
    }
    append_json_line(folder / ATTEMPTS_FILE, line)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def attempts(folder: Path) -> list[dict[str, Any]]:
    """Returns the attempts at a run, oldest first."""
    found = map(_with_driver, read_json_lines(folder / ATTEMPTS_FILE))
    return [{"after": 0, **attempt} for attempt in found if "driver_id" in attempt]


def _with_driver(line: dict[str, Any]) -> dict[str, Any]:
    """A line of earlier versions, which called the driver's id ``session``, as it is written now."""
    return {"driver_id" if name == "session" else name: value for name, value in line.items()}


def crash_report(folder: Path) -> str | None:
    """Returns the end of the run's log if the interpreter died of a fatal signal (such as SIGSEGV)."""
    try:
        text = (folder / LOG_FILE).read_bytes()[-16_384:].decode(errors="replace")
    except OSError:
        return None
    return text[text.rindex(FATAL) :] if FATAL in text else None
