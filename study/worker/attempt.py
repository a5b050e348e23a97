"""One attempt at a run, inside a worker process: pulls the run's events and turns them into short reports.

Knows nothing of Ray, so that it can be tested, and used by any executor. All that attempts share is the run's
folder: a lock that keeps a second process out, a list of the attempts, the worker's output, a stop order, and
the run's own events, checkpoint and result.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from study.storage.attempts import attempts, note_attempt
from study.storage.layout import LOG_FILE, STOP_FILE, WORKER_LOCK_FILE
from study.storage.run_result import RunResult, read_result, write_failure
from study.worker.order import REPORT_SECONDS, Order, load_object
from study.worker.workspace import WorkspaceError, workspace_of
from trainables.errors import InputsChanged
from trainables.evaluation.metrics_table import METRICS
from trainables.events import Event, settled_steps
from trainables.storage_errors import storage_failure
from trainables.util.file_lock import lock_file

SCORE = "score"  # of a report: the value that early stopping judges by, more is better
LOCK_WAIT_SECONDS = 60.0


class Attempt:
    """Runs one order to its end, or until it is interrupted; a failure is a report, never an exception.

    Args:
        resident: Passed to the runner; None if it wants none.
        capture: Send the process's output to the run's ``log.txt`` while it runs.
        node: Where this process runs, as the executor calls it; only written down.
        worker_group: Passed to the runner, in the process that leads several workers (`worker_group.WorkerGroup`).
    """

    def __init__(
        self,
        order: Order,
        resident: Any = None,
        *,
        capture: bool = False,
        node: str = "",
        worker_group: Any = None,
    ) -> None:
        self.order = order
        self._workspace = workspace_of(order)
        self.config = self._workspace.config
        self.folder = Path(self.config.output_dir)
        self._resident = resident
        self._capture = capture
        self._node = node
        self._worker_group = worker_group
        self._open = contextlib.ExitStack()
        self._events: Iterator[Event] | None = None
        self._budget = 0.0
        self._steps = self.config.training.stated_steps
        self._stopping = False
        self._result: RunResult | None = None

    def advance(self, seconds: float = REPORT_SECONDS) -> dict[str, Any]:
        """Goes on for about so many seconds, or up to the next evaluation, and reports.

        Returns:
            ``budget`` (done share of the training steps); ``quality`` if it was just evaluated before the
            end; and ``done``, then with ``state`` and ``reason``.

        Raises:
            WorkspaceError: This node cannot work on the run, or its storage did not take what the run left.
        """
        until = time.monotonic() + seconds
        try:
            report = self._advance(until)
            if report["done"] and not self._workspace.finish(max(0.1, until - time.monotonic())):
                report = {"budget": 1.0, "done": False}  # what it left is still being copied
        except WorkspaceError:
            self.close()
            raise
        except OSError as error:  # not even the run's failure could be written down
            self.close()
            raise WorkspaceError(f"{storage_failure(error) or error} (on {self._here()})") from error
        if report["done"]:
            self.close()
        return report

    def _advance(self, until: float) -> dict[str, Any]:
        if self._result is not None:
            return _final(self._result)
        try:
            if self._events is None:
                self._events = self._begin()
            return self._pull(until)
        except WorkspaceError:
            raise
        except InputsChanged as error:
            raise WorkspaceError(f"{'; '.join(error.problems)} (on {self._here()})") from error
        except Exception as error:
            if failure := storage_failure(error, self.folder):
                raise WorkspaceError(f"{failure} (on {self._here()})") from error
            # The runner catches what runs die of; this is a failure before it began, or a mistake of its own.
            return self._failed("exception", f"{type(error).__name__}: {error}", traceback.format_exc())

    def interrupt(self) -> None:
        """Ends the attempt so that the run can go on later: nothing final is written."""
        events, self._events = self._events, None
        throw = getattr(events, "throw", None)
        if throw is not None:
            with contextlib.suppress(BaseException):
                throw(KeyboardInterrupt())
        self.close()

    def close(self) -> None:
        """Lets go of files and lock."""
        self._events = None
        try:
            self._workspace.close()
        finally:
            self._open.close()

    def _begin(self) -> Iterator[Event]:
        self._workspace.open()
        self.config = self._workspace.config  # with the places that it has found
        self.folder.mkdir(parents=True, exist_ok=True)
        self._open.enter_context(_locked(self.folder / WORKER_LOCK_FILE))
        if self._capture:
            self._open.enter_context(_output_to(self.folder / LOG_FILE))
        if read_result(self.folder) is not None:
            return iter(())
        note_attempt(self.folder, self.order.driver_id, self._node)
        self._workspace.begin()
        runner = load_object(self.order.runner)
        arguments = [self._resident] if self._resident is not None else []
        together = {"worker_group": self._worker_group} if self._worker_group is not None else {}
        return iter(runner(self.config, *arguments, **together))

    def _pull(self, until: float) -> dict[str, Any]:
        assert self._events is not None
        for event in self._events:
            if event.kind == "finished":
                break
            self._steps = settled_steps(event) or self._steps
            if event.step is not None and self._steps is not None:
                self._budget = max(self._budget, min(1.0, event.step / self._steps))
            if self._stop_ordered():
                self._events.close()  # type: ignore[attr-defined]
                break
            if event.kind == "evaluation" and self._budget < 1 and (score := self._score(event)) is not None:
                return {"budget": self._budget, SCORE: score, "done": False}
            if time.monotonic() >= until:
                return {"budget": self._budget, "done": False}
        result = read_result(self.folder)
        if result is None:
            return self._failed("no_result", "the run ended without a result", None)
        self._result = result
        return _final(result)

    def _score(self, event: Event) -> float | None:
        """What early stopping judges an evaluation by, so that more is better; None if nothing does, or can."""
        value = event.data.get(self.order.objective) if self.order.objective else None
        if value is None:
            return None
        return float(value) if METRICS[self.order.objective].direction == "higher" else -float(value)

    def _here(self) -> str:
        return self._node or socket.gethostname()

    def _stop_ordered(self) -> bool:
        self._stopping = self._stopping or (self.folder / STOP_FILE).exists()
        return self._stopping

    def _failed(self, reason: str, message: str, trace: str | None) -> dict[str, Any]:
        result = read_result(self.folder) or write_failure(
            self.folder, reason=reason, message=message, traceback=trace, config=self.config,
            attempts=len(attempts(self.folder)) or 1,
        )  # fmt: skip
        self._result = result
        return _final(result)


def _final(result: RunResult) -> dict[str, Any]:
    return {"budget": 1.0, "done": True, "state": result.state, "reason": result.reason}


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the run's lock; a worker that lost its driver may need a moment to notice and die."""
    with path.open("w") as file:
        try:
            lock_file(file, wait_seconds=LOCK_WAIT_SECONDS)
        except BlockingIOError:
            raise WorkspaceError(
                f"another process still works in {path.parent} after {LOCK_WAIT_SECONDS:g} s; if it is none of "
                "this study's, end it"
            ) from None
        yield


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Sends standard output and error, those of C libraries too, and the dump of a fatal signal to a file."""
    with path.open("ab", buffering=0) as file:
        saved = [os.dup(1), os.dup(2)]
        streams: list[IO[str]] = [sys.stdout, sys.stderr]
        was_enabled = faulthandler.is_enabled()
        _flush(streams)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        faulthandler.enable(file.fileno(), all_threads=False)
        try:
            yield
        finally:
            faulthandler.disable()
            _flush(streams)
            for number, copy in enumerate(saved, start=1):
                os.dup2(copy, number)
                os.close(copy)
            if was_enabled:
                faulthandler.enable(2)


def _flush(streams: list[IO[str]]) -> None:
    for stream in streams:
        with contextlib.suppress(Exception):
            stream.flush()
