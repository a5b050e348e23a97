"""From a run's events to what MLflow should hold: pure functions, no MLflow and no files.

The events of a run are processed in order of their numbers. A resumed attempt repeats the steps since its
checkpoint; of each (kind, step) the first counts. What a run finally reports (``result.json``) has the
last word.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study.tracking.mlflow_store import MAX_METRICS, Metric
from trainables.events import Event, choosing_values

_CHOICE, _EVAL, _INFERENCE = "choice/", "eval/", "inference/"
_GROUPS = {
    "progress": "train",
    "evaluation": "eval",
    "cost": "cost",
    "best": "best",
    "inference": "inference",
    "generated": "generated",
}
_SOLVER_STEPS = "inference_steps"
_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}


@dataclass(frozen=True)
class ImageFile:
    """An image that a run left; `path` is relative to the run's folder, `time` in milliseconds."""

    key: str
    path: str
    step: int
    time: int
    number: int


@dataclass(frozen=True)
class Batch:
    """What one log_batch call takes, and the images that go before it; it covers events to `last_event`."""

    metrics: tuple[Metric, ...]
    tags: dict[str, str]
    images: tuple[ImageFile, ...]
    last_event: int


def milliseconds(seconds: float) -> int:
    """Converts a time of an event to MLflow's unit."""
    return round(seconds * 1000)


def mlflow_status(state: str) -> str:
    """Returns MLflow's status for a final state of ours."""
    return _STATUS[state]


def batches(events: Sequence[Event], after: int, limit: int = MAX_METRICS) -> list[Batch]:
    """Returns what is new in `events` beyond number `after`, in batches of at most `limit` metrics.

    Args:
        events: All events of the run, so that what earlier batches covered is known.
    """
    seen: set[tuple[object, ...]] = set()
    done: list[Batch] = []
    metrics: list[Metric] = []
    tags: dict[str, str] = {}
    images: list[ImageFile] = []
    last = after
    for event in events:
        repeated = _identity(event) in seen
        seen.add(_identity(event))
        if event.number <= after:
            continue
        found = [] if repeated else points(event)
        if metrics and len(metrics) + len(found) > limit:
            done.append(Batch(tuple(metrics), dict(tags), tuple(images), last))
            metrics, tags, images = [], {}, []
        metrics += found
        tags |= _tags(event)
        if event.kind == "image" and not repeated:
            images.append(
                ImageFile(
                    event.data["key"],
                    event.data["path"],
                    event.step or 0,
                    milliseconds(event.time),
                    event.number,
                )
            )
        last = event.number
    if last > after:
        done.append(Batch(tuple(metrics), dict(tags), tuple(images), last))
    return done


def points(event: Event) -> list[Metric]:
    """Returns the metrics of one event; None and texts are no metrics.

    Values that chose a step are under ``choice/``, so that none of them passes for a result under ``eval/``. Those of
    images in other numbers of solver steps are under ``inference/``, where MLflow's step is that number. Those of
    images for classifiers are under ``generated/``, with the class before the measure.
    """
    group = _GROUPS.get(event.kind)
    if group is None:
        return []
    if event.kind == "generated":
        group = f"{group}/{event.data['name']}"
    chose = choosing_values(event)
    return [
        Metric(
            f"{'choice' if name in chose else group}/{name.removeprefix('best_')}",
            float(value),
            milliseconds(event.time),
            event.data[_SOLVER_STEPS] if event.kind == "inference" else event.step or 0,
        )
        for name, value in event.data.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != _SOLVER_STEPS
    ]


def curve_of(name: str) -> str | None:
    """Returns the curve that a metric of MLflow's is part of, None for one of which none is drawn.

    Values that chose a step are part of the curve of their metric: it ends with the result (`results_last`).
    """
    if name.startswith(_CHOICE):
        return _EVAL + name.removeprefix(_CHOICE)
    return name if name.startswith((_EVAL, _INFERENCE)) or name == "train/loss" else None


def results_last(name: str) -> bool:
    """Sorts names of metrics so that of one step the result comes after what chose it, and so replaces it."""
    return not name.startswith(_CHOICE)


def _identity(event: Event) -> tuple[object, ...]:
    """Two events with one identity say the same; costs grow with every attempt, so each of them counts.

    Of the last step there may be two evaluations: one that chose the step to restore, and the result.
    """
    if event.kind == "evaluation":
        return (event.kind, event.step, bool(event.data.get("final")))
    if event.kind == "progress":
        return (event.kind, event.step)
    if event.kind == "inference":
        return (event.kind, event.step, event.data[_SOLVER_STEPS])
    if event.kind == "image":
        return (event.kind, event.step, event.data["key"])
    return (event.kind, event.number)


def _tags(event: Event) -> dict[str, str]:
    if event.kind == "cost":
        return {name: value for name, value in event.data.items() if isinstance(value, str)}
    if event.kind == "best":
        return {"best_metric": str(event.data["metric"]), "best_restored": json.dumps(event.data["restored"])}
    if event.kind != "started":
        return {}
    tags = {"attempt": str(event.data.get("attempt", 1))}
    if event.data.get("host"):
        tags["host"] = str(event.data["host"])
    if event.data.get("num_workers"):
        tags["num_workers"] = str(event.data["num_workers"])
    if event.data.get("parallel_strategy"):
        tags["parallel_strategy"] = str(event.data["parallel_strategy"])
    if event.data.get("device_name"):
        tags["device_name"] = str(event.data["device_name"])
    if event.data.get("versions"):
        tags["versions"] = json.dumps(event.data["versions"], sort_keys=True)
    return tags


def latest_metrics(events: Iterable[Event]) -> dict[str, Metric]:
    """Returns the point that MLflow shows as each metric's value: of the highest step, then the latest."""
    latest: dict[str, Metric] = {}
    for batch in batches(list(events), 0):
        for metric in batch.metrics:
            before = latest.get(metric.name)
            if before is None or (metric.step, metric.time) >= (before.step, before.time):
                latest[metric.name] = metric
    return latest


def final_metrics(events: Iterable[Event], result: Mapping[str, Any]) -> dict[str, float]:
    """Returns the value of each metric of a run: its latest point, and where ``result.json`` says otherwise, that.

    Args:
        result: Empty while the run has none. A metric that is None in it has no value.
    """
    found = {name: metric.value for name, metric in latest_metrics(events).items()}
    for group, section in (("eval", "evaluation"), ("cost", "cost")):
        for name, value in (result.get(section) or {}).items():
            if value is None:
                found.pop(f"{group}/{name}", None)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                found[f"{group}/{name}"] = float(value)
    return found


def corrections(events: Sequence[Event], result: Mapping[str, Any]) -> list[Metric]:
    """Returns the final values of ``result.json`` that the events do not already end with."""
    latest = latest_metrics(events)
    moment = milliseconds(events[-1].time) + 1 if events else 0
    top = max((event.step or 0 for event in events), default=0)
    found = []
    for group, section in (("eval", "evaluation"), ("cost", "cost")):
        for name, value in (result.get(section) or {}).items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            before = latest.get(f"{group}/{name}")
            if before is None or before.value != value:
                step = before.step if before else top
                found.append(Metric(f"{group}/{name}", float(value), moment, step))
    return found
