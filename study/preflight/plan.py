"""What a launch would do: trials, runs and steps of each arm, what is already done, and what it will take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from study.preflight.detectable import detectable_line
from study.preflight.downstream import ClassifierWork, classifier_work
from study.preflight.estimates import model_bytes, run_bytes
from study.preflight.hypotheses import hypothesis_lines
from study.preflight.machine import concurrency
from study.preflight.probe import Measured
from study.preflight.workload import expected_share, images_of, most_steps, once_image_steps
from study.spec.contents import known_contents
from study.spec.difference import difference
from study.spec.downstream_data import generation_of
from study.spec.loading import read_contents
from study.spec.sections import price_of_a_second
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from study.storage.run_key import Phase, RunKey
from study.storage.study_record import read_study_record
from study.util.disk import free_bytes
from study.util.units import duration, size
from trainables.data.data_sets import split_line
from trainables.events import EVENTS_FILE, RESULT_FILE
from trainables.methods.registry import BASE

_START_UP_SECONDS = 15.0  # Ray, ledger and MLflow store; loading libraries and model is measured
_WORKER_GROUP_SECONDS = 10.0  # starting the processes of a run with several workers, which are not kept warm
_BETWEEN_RUNS_SECONDS = 0.5  # handing a warm actor its next run, writing results


@dataclass(frozen=True)
class Progress:
    """How many runs of an arm (or a study) are over, begun, and not begun."""

    finished: int = 0
    interrupted: int = 0
    to_do: int = 0

    def __add__(self, other: Progress) -> Progress:
        return Progress(
            self.finished + other.finished, self.interrupted + other.interrupted, self.to_do + other.to_do
        )


@dataclass(frozen=True)
class ArmPlan:
    """One arm's part of a plan.

    Attributes:
        steps: Optimizer steps of all its runs, at most (early stopping and failures make it fewer); None where the
            budget is another, and what a step costs is not known.
        searched: What is searched, in words.
        seconds: Estimated device-seconds (one run after another) of what is left to do; None without a probe.
        memory: Estimated peak bytes of one run, all its workers together, or None.
        disk: Estimated bytes that its runs will add to the storage.
    """

    arm: str
    method: str
    trials: int
    search_runs: int
    confirm_runs: int
    steps: int | None
    searched: dict[str, str]
    progress: Progress
    searches: int = 1
    seconds: float | None = None
    memory: int | None = None
    disk: int = 0

    @property
    def runs(self) -> int:
        """Runs of both phases."""
        return self.search_runs + self.confirm_runs


@dataclass(frozen=True)
class Plan:
    """What a launch would do.

    Attributes:
        concurrent: How many runs there will be at once.
        workers: Processes that train each run together.
        changed: How the study differs from the one of that name in the storage; a launch would refuse.
        start_up_seconds: Until the first run begins.
        once_seconds: What is computed once for all runs: base model's images, class images.
        price_of_a_second: Dollars of a second of a run; None where the study names no price.
        detectable: What differences the study can find, in words; None where nothing is compared.
        hypotheses: What the study file states, and what decides it, in words.
        data_sets: How each data set is split, in words.
        classifiers: What the downstream phase has to do; None without one.
    """

    study: str
    storage: Path
    arms: tuple[ArmPlan, ...]
    concurrent: int
    free_disk: int
    workers: int = 1
    changed: tuple[str, ...] = ()
    once_seconds: float = 0.0
    start_up_seconds: float = 0.0
    price_of_a_second: float | None = None
    detectable: str | None = None
    hypotheses: tuple[str, ...] = ()
    data_sets: tuple[str, ...] = ()
    classifiers: ClassifierWork | None = None

    @property
    def runs(self) -> int:
        """Runs of all arms in both phases, and of classifiers."""
        own = self.classifiers
        return sum(arm.runs for arm in self.arms) + (own.search_runs + own.final_runs if own else 0)

    @property
    def progress(self) -> Progress:
        """Progress of the whole study."""
        of_arms = sum((arm.progress for arm in self.arms), Progress())
        own = self.classifiers
        return of_arms + Progress(own.finished, own.interrupted, own.to_do) if own else of_arms

    @property
    def seconds(self) -> float | None:
        """Estimated wall seconds of a launch, or None without a probe; 0 if nothing is left to do."""
        parts = self._parts
        if any(part is None for part in parts):
            return None
        left = self.progress
        if not left.to_do and not left.interrupted:
            return 0.0
        work = sum(part for part in parts if part is not None) + self.once_seconds
        # The last runs leave workers idle: on average half a run's time.
        longest = max(
            (part / max(1, arm.runs) for arm, part in zip(self.arms, parts, strict=False) if part),
            default=0.0,
        )
        return self.start_up_seconds + work / self.concurrent + (longest / 2 if self.concurrent > 1 else 0)

    @property
    def _parts(self) -> list[float | None]:
        """Estimated seconds of each arm, and of the classifiers."""
        return [
            *(arm.seconds for arm in self.arms),
            *([self.classifiers.seconds] if self.classifiers else []),
        ]

    @property
    def dollars(self) -> float | None:
        """Estimated price of what is left to do: of the devices that runs hold, not of idle ones; None without a probe
        or prices.
        """
        parts = self._parts
        if self.price_of_a_second is None or any(part is None for part in parts):
            return None
        work = sum(part for part in parts if part is not None)
        return (work + (self.once_seconds if work else 0)) * self.price_of_a_second

    @property
    def memory(self) -> int | None:
        """Estimated bytes of all runs at once, or None."""
        peaks = sorted((arm.memory for arm in self.arms if arm.memory), reverse=True)
        return peaks[0] * self.concurrent if peaks else None

    @property
    def disk(self) -> int:
        """Estimated bytes that the launch adds to the storage."""
        return sum(arm.disk for arm in self.arms)

    def columns(self) -> list[str]:
        """Names of the columns of `rows`, in order."""
        return list(self.rows()[0])

    def shown(self) -> list[str]:
        """The fewer columns of a table in a terminal; the summary says the rest."""
        estimates = ["minutes"] if self.seconds is not None else []
        return ["arm", "trials", "search_runs", "confirm_runs", "steps", "finished", "to_do", *estimates]

    def rows(self) -> list[dict[str, Any]]:
        """One row an arm, for a table."""
        return [
            {
                "arm": arm.arm,
                "method": arm.method,
                "searched": ", ".join(arm.searched) or "-",
                "trials": arm.trials,
                "search_runs": arm.search_runs,
                "confirm_runs": arm.confirm_runs,
                "steps": arm.steps,
                "finished": arm.progress.finished,
                "interrupted": arm.progress.interrupted,
                "to_do": arm.progress.to_do,
                "minutes": None if arm.seconds is None else round(arm.seconds / 60, 1),
                "memory_mb": None if arm.memory is None else round(arm.memory / 1e6),
                "disk_mb": round(arm.disk / 1e6, 1),
            }
            for arm in self.arms
        ]

    def summary(self) -> list[str]:
        """Lines to print below the table."""
        trials, left = sum(arm.trials for arm in self.arms), self.progress
        known = [arm.steps for arm in self.arms if arm.steps is not None]
        steps = f"{sum(known):,}" if len(known) == len(self.arms) else "an unknown number of"
        lines = [f"{len(self.arms)} arms, {trials} trials, {self.runs} runs, {steps} training steps"]
        searches: dict[str, list[str]] = {}
        for arm in self.arms:
            if arm.searched:
                ranges = "; ".join(f"{name} {words}" for name, words in arm.searched.items())
                searches.setdefault(f"{ranges}{_in_searches(arm)}", []).append(arm.arm)
        for ranges, names in searches.items():
            lines.append(f"{', '.join(names)} search{'es' if len(names) == 1 else ''} {ranges}")
        if self.detectable is not None:
            lines.append(self.detectable)
        lines += self.hypotheses
        lines += self.data_sets
        lines += self.classifiers.words if self.classifiers is not None else ()
        if left.finished or left.interrupted:
            lines.append(
                f"resumes {self.study}: {left.finished} runs are finished, {left.interrupted} interrupted ones "
                f"continue, {left.to_do} are to do"
            )
        if self.changed:
            lines.append("launch would refuse: a study of this name but another content is in the storage:")
            lines += [f"  {line}" for line in self.changed]
        together = f"{self.concurrent} run{'s' if self.concurrent > 1 else ''} at once"
        together += f" by {self.workers} workers each" if self.workers > 1 else ""
        if self.seconds is None:
            lines.append(f"{together}; no estimate of time without a probe")
        else:
            lines.append(
                f"about {duration(self.seconds)} with {together} (estimated from a probe of this machine)"
            )
        if self.dollars is not None:
            lines.append(f"about ${self.dollars:.2f} at the study's prices (resources.price_per_hour)")
        if self.memory is not None:
            lines.append(f"about {size(self.memory)} of memory")
        lines.append(f"about {size(self.disk)} of disk; {size(self.free_disk)} are free in {self.storage}")
        return lines


def make_plan(
    spec: StudySpec,
    storage: Storage,
    measured: Mapping[str, Measured] | None = None,
    *,
    at_once: int | None = None,
    step_seconds: Mapping[str, float] | None = None,
) -> Plan:
    """Returns what a launch of the study would do; writes nothing.

    Args:
        spec: The study.
        storage: Where it would lie; what is there already is counted.
        measured: Cost by arm (see ``study/preflight/probe.py``); without it there is no estimate of time and memory.
        step_seconds: Of each classifier of the downstream phase; likewise.
        at_once: Runs that a cluster holds at once, counted node by node; None: what this machine holds.
    """
    arms = tuple(_arm_plan(spec, name, storage, measured) for name in spec.arms)
    return Plan(
        study=spec.name,
        storage=storage.root,
        arms=arms,
        concurrent=at_once or concurrency(spec.resources),
        workers=spec.resources.num_workers,
        free_disk=free_bytes(storage.root),
        changed=tuple(_changed(spec, storage)),
        once_seconds=_once_seconds(spec, measured or {}),
        price_of_a_second=price_of_a_second(spec.resources),
        start_up_seconds=_START_UP_SECONDS
        + max((cost.start_up_seconds for cost in (measured or {}).values()), default=0.0),
        detectable=detectable_line(spec),
        hypotheses=tuple(hypothesis_lines(spec)),
        data_sets=tuple(split_line(subject) for subject in spec.subjects if subject.is_data_set),
        classifiers=classifier_work(spec, storage, step_seconds),
    )


def _arm_plan(
    spec: StudySpec, name: str, storage: Storage, measured: Mapping[str, Measured] | None
) -> ArmPlan:
    arm, trials, space = spec.arms[name], spec.trials_of(name), spec.space(name)
    search, confirm = spec.search_runs_of(name), len(spec.confirm_keys(name, 0))
    parts: dict[Phase, Progress] = {
        "search": _progress(spec, name, storage, "search", search),
        "confirm": _progress(spec, name, storage, "confirm", confirm),
    }
    progress = sum(parts.values(), Progress())
    cost = (measured or {}).get(name)
    steps = most_steps(spec, name, cost)
    plan = ArmPlan(
        arm=name,
        method=arm.method,
        trials=spec.search.repeats * trials,
        searches=spec.search.repeats if trials else 0,
        search_runs=search,
        confirm_runs=confirm,
        steps=None if steps is None else steps * (search + confirm),
        searched={key: dim.describe() for key, dim in space.parameters.items()},
        progress=progress,
        disk=progress.to_do * run_bytes(spec, name, model_bytes(spec), cost),
    )
    if cost is None or steps is None:
        return plan
    workers = 1 if arm.method == BASE else spec.resources.num_workers
    expected, seconds = steps * expected_share(spec, name), 0.0
    for phase, left in parts.items():
        each = _BETWEEN_RUNS_SECONDS
        images = images_of(spec, phase)
        extra, extra_steps = _drawn_for_classifiers(spec, phase)
        drawn = images.final + extra + (0 if arm.method == BASE else images.between)
        image_steps = drawn * images.steps + cost.latency_figures * images.timed_steps + images.other_steps
        image_steps += extra * (extra_steps - images.steps)
        image_steps += images.loss_steps * (1 if arm.method == BASE else images.evaluations)
        each += cost.seconds_of_run(expected, drawn + images.at_other_steps, image_steps, workers)
        if workers > 1:
            each += _WORKER_GROUP_SECONDS + cost.start_up_seconds
        # An interrupted run has on average half of its work behind it.
        seconds += each * (left.to_do + left.interrupted / 2)
    memory = cost.peak_memory_bytes and cost.peak_memory_bytes * workers
    return replace(plan, seconds=seconds, memory=memory)


def _drawn_for_classifiers(spec: StudySpec, phase: Phase) -> tuple[float, int]:
    """Images that a run draws for classifiers, in the mean over subjects, and the solver steps of each."""
    if spec.downstream is None or phase != "confirm":
        return 0.0, 0
    subjects = spec.confirm.subjects or ()
    drawn = [generation_of(spec.downstream, name, untrained=False) for name in subjects]
    images = sum(sum(one.images.values()) for one in drawn) / max(1, len(drawn))
    return images, spec.downstream.num_inference_steps


def _in_searches(arm: ArmPlan) -> str:
    if not arm.searches:
        return ""
    each = arm.trials // arm.searches
    count = f"{arm.searches} searches" if arm.searches > 1 else "1 search"
    return f", in {count} of {each} trial{'s' * (each > 1)}"


def _progress(spec: StudySpec, arm: str, storage: Storage, phase: Phase, planned: int) -> Progress:
    finished = interrupted = 0
    subjects, seeds = set(spec.confirm.subjects or ()), set(spec.confirm.seeds)
    folder = storage.arm_folder(phase, arm)
    for run in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            key = RunKey.parse(f"{phase}/{arm}/{run.name}")
        except ValueError:
            continue
        if phase == "confirm" and not (key.subject in subjects and key.seed in seeds):
            continue
        finished += (run / RESULT_FILE).exists()
        interrupted += (run / EVENTS_FILE).exists() and not (run / RESULT_FILE).exists()
    return Progress(finished, interrupted, max(0, planned - finished - interrupted))


def _changed(spec: StudySpec, storage: Storage) -> list[str]:
    try:
        record = read_study_record(storage)
        return difference(record, spec.with_contents(known_contents(record, read_contents(spec))))
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _once_seconds(spec: StudySpec, measured: Mapping[str, Measured]) -> float:
    if not measured:
        return 0.0
    any_cost = next(iter(measured.values()))
    return any_cost.seconds_of_base_images(*once_image_steps(spec))
