"""What a worker's death means for its run: gone with its node, to be tried again, or the run's own failure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping

from study.storage.attempts import (
    NOT_COUNTED,
    attempts,
    brief_cause,
    crash_report,
    node_label,
    note_worker_failure,
    worker_failures,
)
from study.storage.planned_run import PlannedRun
from study.storage.run_result import write_failure
from trainables.events import read_events

LOOK_SECONDS = 1.0  # between two looks for nodes that will be taken away


class Deaths:
    """Judges the deaths of workers in one launch.

    Args:
        driver_id: Of the launch; deaths in earlier launches count for nothing.
        max_attempts: How often a run whose workers die is begun.
        preempted: Words that say of a worker's death that its node was taken away.
        note: Takes a line about a worker that died.
    """

    def __init__(
        self, driver_id: str, max_attempts: int, preempted: Collection[str], note: Callable[[str], None]
    ) -> None:
        self._driver_id, self._max_attempts = driver_id, max_attempts
        self._preempted, self._note = tuple(preempted), note
        self._seen: Counter[str] = Counter()

    def judge(self, planned: PlannedRun, cause: str, given: float, announced: Mapping[str, float]) -> None:
        """Files a death beside the run, and the run as failed if it must not be tried again.

        Args:
            cause: What Ray says of it.
            given: When (monotonic) the run was handed out.
            announced: When (monotonic) each node was last seen that had been announced to be taken away, by its id.
        """
        if self._was_preempted(planned, cause, given, announced):
            note_worker_failure(planned.folder, self._driver_id, reason="preempted", cause=cause)
            return
        failure = self._failure(planned, cause)
        if failure is not None:
            reason, message = failure
            write_failure(
                planned.folder,
                reason=reason,
                message=message,
                traceback=crash_report(planned.folder) or cause,
                config=planned.config,
                attempts=len(attempts(planned.folder)),
            )

    def _was_preempted(
        self, planned: PlannedRun, cause: str, given: float, announced: Mapping[str, float]
    ) -> bool:
        """Whether a worker died with its node, which had been announced to be taken away.

        Ray says so of few of them. A worker that died before it could begin has not recorded where it was: then a
        node that was going away after the order was given is taken for it.
        """
        if any(words in cause for words in self._preempted):
            return True
        begun = attempts(planned.folder)
        known = {death["attempt"] for death in worker_failures(planned.folder)}
        if not begun or begun[-1]["driver_id"] != self._driver_id or len(begun) in known:
            return any(seen >= given - LOOK_SECONDS for seen in announced.values())
        node = str(begun[-1].get("node") or "").rpartition("/")[2]
        return bool(node) and any(name.startswith(node) for name in announced)

    def _failure(self, planned: PlannedRun, cause: str) -> tuple[str, str] | None:
        """Returns reason and message if the run must not be tried again."""
        mine = [attempt for attempt in attempts(planned.folder) if attempt["driver_id"] == self._driver_id]
        # A worker that cannot even begin (it lacks a package, say) leaves no attempt in the folder.
        self._seen[planned.key.name] += 1
        not_counted = [
            death
            for death in worker_failures(planned.folder)
            if death.get("driver_id") == self._driver_id
            and death["attempt"]
            and death.get("reason") in NOT_COUNTED
        ]
        tried = max(len(mine) - len(not_counted), self._seen[planned.key.name])
        out_of_memory = "OutOfMemory" in cause or "memory monitor" in cause or "OOM" in cause.split("(1)")[0]
        reason = "out_of_memory" if out_of_memory else "worker_died"
        note_worker_failure(planned.folder, self._driver_id, reason=reason, cause=cause)
        where = node_label(mine[-1]) if mine else "a node that it never reported from"
        self._note(
            f"{planned.key.name}: its worker died in attempt {tried} on {where} ({reason}): {brief_cause(cause)}"
        )
        if tried >= self._max_attempts:
            return reason, f"its worker died in each of {tried} attempts, last on {where}"
        known_cause = out_of_memory or crash_report(planned.folder) is not None
        stuck = len(mine) >= 2 and _progress_at(planned, mine[-1]["after"]) == _progress_at(planned, math.inf)
        if known_cause and stuck:
            what = "ran out of memory" if out_of_memory else "crashed"
            return (
                reason if out_of_memory else "crash",
                f"its worker {what} twice at the same place, last on {where}",
            )
        return None


def _progress_at(planned: PlannedRun, until: float) -> tuple[int, str]:
    """How far a run had come by the event of that number: the highest step, and the phase it was in."""
    step, phase = 0, ""
    for event in read_events(planned.folder):
        if event.number > until:
            break
        step = max(step, event.step or 0)
        phase = event.data["name"] if event.kind == "phase" else phase
    return step, phase
