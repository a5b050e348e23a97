"""What a launch was expected to take, said beside what it took."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from study.preflight.downstream import classifier_step_seconds
from study.preflight.plan import make_plan
from study.preflight.probe import known_probe
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from study.util.units import duration


@dataclass(frozen=True)
class Forecast:
    """What a plan says before a launch.

    Attributes:
        runs: That are to do or to go on with.
        seconds: Of the launch; None where this machine was not probed for the study (`study plan`).
    """

    runs: int
    seconds: float | None = None

    def against(self, took: float, done: int) -> str:
        """Returns the line for the end of a launch that took so many seconds and ended so many runs."""
        time = f"took {_exactly(took)}"
        if self.seconds is not None:
            time = f"planned about {duration(self.seconds)} (study plan), {time}"
        return f"{time}; {self.runs} runs planned, {done} done"


def forecast(spec: StudySpec, storage: Storage, *, local: bool = True) -> Forecast | None:
    """Returns what a launch will take, from what is known; measures nothing. None where nothing can be known.

    Args:
        local: The launch is on this machine, which is the one that a probe has measured.
    """
    with suppress(Exception):  # of a convenience nothing may fail
        measured, steps = None, None
        with suppress(Exception):
            measured = known_probe(spec, storage) if local else None
            steps = classifier_step_seconds(spec, storage, measure=False) if local else None
        plan = make_plan(spec, storage, measured, step_seconds=steps)
        left = plan.progress
        return Forecast(left.to_do + left.interrupted, plan.seconds)
    return None


def _exactly(seconds: float) -> str:
    """Returns a span with its seconds, up to some hours, e.g. ``4 min 40 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return duration(seconds) if minutes == 0 or minutes >= 100 else f"{minutes} min {rest} s"
