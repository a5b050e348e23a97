"""How fast a study goes and how long it will go on, with what that is based on; or why nobody can know."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from study.monitor.run_status import UNDER_WAY, RunPhase, RunStatus
from study.storage.run_key import RunKey

WINDOW_SECONDS = 3600.0
LEAST_WINDOW_SECONDS = 60.0
LEAST_SHARE = 0.05  # of a run that tells how long it will take


@dataclass(frozen=True)
class Rate:
    """Runs that ended recently.

    Attributes:
        runs_per_hour: None where there is nothing to tell it from.
        ended: Number of runs within `seconds`, the window that it is based on.
    """

    runs_per_hour: float | None
    ended: int
    seconds: float


@dataclass(frozen=True)
class Eta:
    """The time left.

    Attributes:
        seconds: None if it is unknown.
        basis: What it is estimated from, or why it is unknown.
    """

    seconds: float | None
    basis: str


def recent_rate(ended: Sequence[RunStatus], now: float, since: float | None, *, alive: bool) -> Rate:
    """Counts the runs that ended in the last hour of the launch that began at `since`, or since it began."""
    if not alive or since is None:
        return Rate(None, 0, 0.0)
    seconds = min(WINDOW_SECONDS, max(0.0, now - since))
    count = sum(1 for run in ended if run.last_sign is not None and now - run.last_sign <= seconds)
    known = count > 0 and seconds >= LEAST_WINDOW_SECONDS
    return Rate(3600 * count / seconds if known else None, count, seconds)


def eta(
    states: Mapping[RunKey, RunPhase],
    runs: Mapping[RunKey, RunStatus],
    waiting: Mapping[tuple[str, str], int],
    *,
    alive: bool,
) -> Eta:
    """Estimates the time left: the runs that are left, at the mean time of those that have ended, so many at once
    as there are now.

    Args:
        states: Where each run stands that has begun or was given out.
        waiting: Runs of each (arm, phase) that nobody has begun.
    """
    counts = Counter(states.values())
    left = sum(waiting.values()) + counts["running"] + counts["pending"] + counts["interrupted"]
    if not left:
        return Eta(0.0 if alive else None, "nothing is left" if alive else "nothing is left; no driver runs")
    if not alive:
        return Eta(None, "no driver runs")
    if not counts["running"]:
        return Eta(None, "no run is under way")
    means, basis = _mean_seconds(states, runs)
    if not means:
        return Eta(None, basis)
    typical = statistics.fmean(means.values())
    work = sum(count * means.get(arm, typical) for (arm, _), count in waiting.items())
    longest = 0.0
    for key, state in states.items():
        if state in UNDER_WAY:
            whole = means.get(key.arm, typical)
            run = runs.get(key)
            rest = _rest(run, whole) if run is not None else whole
            work += rest
            longest = max(longest, rest)
    at_once = counts["running"]
    return Eta(max(work / at_once, longest), f"{basis}; {left} left, {at_once} at once")


def _rest(run: RunStatus, whole: float) -> float:
    """Seconds that a run still takes: at its own speed as soon as that can be told, else at the typical one."""
    share = run.share or 0.0
    return run.active_seconds / share * (1 - share) if share >= LEAST_SHARE else whole * (1 - share)


def _mean_seconds(
    states: Mapping[RunKey, RunPhase], runs: Mapping[RunKey, RunStatus]
) -> tuple[dict[str, float], str]:
    """Returns the mean time of a run of each arm as far as it is known, and from what."""
    ended: dict[str, list[float]] = defaultdict(list)
    for key, run in runs.items():
        seconds = run.seconds() if run.result is not None and run.result.state == "COMPLETE" else None
        if seconds is not None:
            ended[key.arm].append(seconds)
    if ended:
        total = sum(len(found) for found in ended.values())
        means = {arm: statistics.fmean(found) for arm, found in ended.items()}
        return means, f"mean of {total} complete run{'s' * (total > 1)}"
    for key, state in states.items():
        share = runs[key].share if state == "running" and key in runs else None
        if share is not None and share >= LEAST_SHARE:
            ended[key.arm].append(runs[key].active_seconds / share)
    if ended:
        return {arm: statistics.fmean(found) for arm, found in ended.items()}, "speed of the running runs"
    return {}, "no run has ended yet"
