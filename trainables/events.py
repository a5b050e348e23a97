"""The record of one run: numbered events, appended to ``events.jsonl`` in the run's folder.

The event file is the truth about a run. Whoever shows or stores its progress (terminal, MLflow, report)
follows this file and can be brought up to date at any time, because every event has a number.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

EVENTS_FILE = "events.jsonl"
RESULT_FILE = "result.json"
RUN_FILE = "run.json"
LOCK_FILE = "lock"  # of the process that works on the run
CHECKPOINTS, SAMPLES, WEIGHTS = "checkpoint", "samples", "weights"  # folders
GENERATED = "generated/"  # how the keys of pictures of such images begin: the class follows
STEP = "step-"  # how the names of checkpoints and of samples begin: the step follows
WHOLE_CHECKPOINTS = f"{STEP}*[0-9]"  # a pattern of names: one that is being written ends otherwise
STATE_FILE, TENSORS_FILE = "state.json", "tensors.safetensors"  # in a checkpoint
KEPT_CHECKPOINTS = 2  # the newest, and one before it in case the newest is damaged
BEST_WEIGHTS = "best"  # of the best step so far, among the checkpoints: how the file's name begins
EVALUATION_FILE = "evaluation.json"  # what the numbers rest on: `Evaluator.provenance`
IMAGE_SCORES = (
    "image_scores.csv"  # of the last evaluation; its columns: trainables/evaluation/image_scores.py
)
#: Of a run that trains a classifier: probabilities of the classes for each held-out image, and what it did.
PREDICTIONS, RECORD = "predictions.csv", "record.json"

Kind = Literal[
    "started",  # data: attempt, resumed_step, steps (of the whole run; None: not settled yet), host, pid, num_workers,
    # parallel_strategy, device, device_name, versions
    "phase",  # data: name (prepare | train | evaluate | generate | save): what the run does now; with train: steps;
    # with generate, after each entry: label and how many images of it there are
    "progress",  # step; data: loss, learning_rate, gradient_norm, steps_per_second
    "evaluation",  # step; data: metrics under bare names (quality, ...); data["final"]: bool. A run that restores its
    # best step has two of its last step: what chose the step is not final, the result is. data["choice"], of those that
    # chose: what of it are no results, see `choosing_values`
    "inference",  # step; the result, drawn in another number of solver steps than it is judged by; data:
    # inference_steps, metrics under bare names
    "best",  # at the end, of runs with evaluations on the way; data: best_step, value, end_value (None: training
    # did not come to its end), metric, evaluations (chosen from), restored: bool (weights of an earlier step than the
    # last were put back). best_step is None where no evaluation of a run that restores had a value: it has the weights
    # of its end
    "image",  # step; data: key, path (relative to the run's folder)
    "generated",  # step; images of one class, drawn for classifiers; data: label, name (of its folders), prompt,
    # entries (in the cache), images (how many), seconds and flops (of drawing them), and what they are measured by
    "checkpoint",  # step; data: path
    "cost",  # with every checkpoint and at the end; data: cost metrics under bare names, so far (train_seconds, ...)
    "artifact",  # data: path (relative), role (weights | scores | provenance), bytes
    "finished",  # data: state (COMPLETE | PRUNED | FAIL), reason, message, traceback
]


@dataclass(frozen=True)
class Event:
    """One line of the event file.

    Attributes:
        number: 1, 2, 3, ... without gaps within a run, over all its attempts.
        time: Seconds since the epoch.
        kind: What happened; see `Kind` for the payload of each.
        step: Optimizer step it belongs to, or None.
        data: JSON-serialisable payload; numbers are finite or None.
    """

    number: int
    time: float
    kind: Kind
    step: int | None = None
    data: dict[str, Any] = field(default_factory=dict)


class TakenOver(OSError):
    """This process lost ownership of the run's folder, to which another has written since, and must not write to it.

    That is what a worker finds that was silent for so long (a paused machine, a node that the network had parted
    from the others) that its locks were let go of and its run was given to another.
    """


class EventLog:
    """Appends events to a run's file; continues the numbering of earlier attempts and drops a torn last line.

    There is one writer at a time. Once another process has changed the file, `append` writes nothing and raises
    TakenOver.

    Attributes:
        last_kind: Kind of the newest event, or None.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / EVENTS_FILE
        folder.mkdir(parents=True, exist_ok=True)
        self._size = self._drop_torn_line()
        events = read_events(folder)
        self._number = events[-1].number if events else 0
        self.last_kind: str | None = None
        self._last_step: dict[str, int] = {}
        for event in events:
            self._remember(event)

    def append(self, kind: Kind, step: int | None = None, **data: Any) -> Event:
        """Writes one event durably and returns it."""
        event = Event(self._number + 1, time.time(), kind, step, data)
        line = json.dumps(asdict(event), allow_nan=False, separators=(",", ":"))
        with self.path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            if before != self._size:
                raise TakenOver(
                    f"another process has written to {self.path}; if it is none of this study's, end it"
                )
            try:
                self._size += _write_all(file, (line + "\n").encode())
                os.fsync(file.fileno())
            except BaseException:
                # The beginning of a line, on a full disk, would spoil the next one.
                with contextlib.suppress(OSError):
                    file.truncate(before)
                self._size = before
                raise
        self._number = event.number
        self._remember(event)
        return event

    def last_step(self, kind: Kind) -> int:
        """Returns the highest step of a recorded event of a kind, over all attempts; -1 without one."""
        return self._last_step.get(kind, -1)

    def _remember(self, event: Event) -> None:
        self.last_kind = event.kind
        if event.step is not None:
            self._last_step[event.kind] = max(event.step, self._last_step.get(event.kind, -1))

    def _drop_torn_line(self) -> int:
        """Returns the size of what is left in bytes."""
        if not self.path.exists():
            return 0
        content = self.path.read_bytes()
        keep = content.rfind(b"\n") + 1
        if keep < len(content):
            with self.path.open("r+b") as file:
                file.truncate(keep)
        return keep


def read_events(folder: Path, after: int = 0) -> list[Event]:
    """Returns a run's events with a number above `after`.

    Left out are a torn last line (a killed writer), and lines that are damaged.
    """
    path = folder / EVENTS_FILE
    if not path.exists():
        return []
    events = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        event = parse_event(line)
        if event is not None and event.number > after:
            events.append(event)
    return events


def parse_event(line: bytes) -> Event | None:
    """Returns the event of a whole line; None if the line is damaged."""
    try:
        event = Event(**json.loads(line))
    except (ValueError, TypeError):
        return None
    return event if isinstance(event.number, int) and isinstance(event.data, dict) else None


def settled_steps(event: Event) -> int | None:
    """Returns how many optimizer steps the whole run will have, if an event says so."""
    steps = event.data.get("steps") if event.kind in ("started", "phase") else None
    return int(steps) if steps else None


ALL_METRICS = "*"  # as `data["choice"]`: images chose a step, so that no metric of theirs is a result


def choosing_values(event: Event) -> tuple[str, ...]:
    """Returns the metrics of an evaluation that chose which step to restore: on prompts, noise and held-out images that
    do not judge the result, so that they are no results.

    Where images chose these are all its metrics, else the one by which it chose. Empty for other events.
    """
    choice = event.data.get("choice")
    if event.kind != "evaluation" or choice is None:
        return ()
    return tuple(_values(event.data)) if choice == ALL_METRICS else (str(choice),)


def _values(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in ("final", "choice")}


def is_over(folder: Path) -> bool:
    """Whether a run has a result, and one that can be read."""
    try:
        content = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        return content["state"] in ("COMPLETE", "PRUNED", "FAIL")
    except (OSError, ValueError, TypeError, KeyError):
        return False


def sum_up(folder: Path, config_digest: str) -> dict[str, Any] | None:
    """Returns the content of ``result.json``: what the last event of each kind says; None if the run has no end.

    Values that chose a step are no results: a run that ended before the weights of its best step were judged has None
    in their place, and ``best`` says what chose.
    """
    last: dict[str, dict[str, Any]] = {}
    evaluation: dict[str, Any] = {}
    by_steps: dict[int, dict[str, Any]] = {}  # of solver steps
    attempts = 0
    kind = None
    for event in read_events(folder):
        kind = event.kind
        last[event.kind] = event.data
        attempts += event.kind == "started"
        if event.kind == "inference":
            by_steps[event.data["inference_steps"]] = event.data
        if event.kind == "evaluation":
            chose = choosing_values(event)
            values = _values(event.data) | dict.fromkeys(chose)
            evaluation = evaluation | values if chose else values  # the end's may know the loss alone
    if kind != "finished":
        return None
    return {
        **last["finished"],
        "evaluation": evaluation,
        "cost": last.get("cost", {}),
        "best": last.get("best"),
        **({"inference": [by_steps[steps] for steps in sorted(by_steps)]} if by_steps else {}),
        "weights": WEIGHTS if (folder / WEIGHTS).is_dir() else None,
        "attempts": attempts,
        "config_digest": config_digest,
    }


def _write_all(file: IO[bytes], content: bytes) -> int:
    """Returns the number of bytes. A raw file may take less than all at once, on a disk that is nearly full."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) or 0 :]
    return len(content)
