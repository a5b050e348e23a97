"""Which measures the report shows, in which order; titles, units and directions come from the table of metrics."""

from __future__ import annotations

from dataclasses import dataclass

from study.report.statistics import Direction
from trainables.metrics_table import METRICS


@dataclass(frozen=True)
class Measure:
    """A column of the results with all that tables and axes need to know of it."""

    name: str
    title: str
    unit: str
    direction: Direction
    description: str


_UNITS = {"trainable_parameters": "count"}
_TITLES = {"image_latency_seconds": "Latency per image"}

QUALITY = "quality"
FIDELITIES = ("subject_fidelity", "prompt_fidelity")
SCALED = ("subject_fidelity_scaled", "prompt_fidelity_scaled")  # of the base model 0 and 1; not clipped
MORE_QUALITY = ("diversity", "drift", "prior_preservation", "memorisation", "class_kid")
MAIN_COSTS = (
    "train_seconds",
    "device_seconds",
    "train_flops",
    "peak_memory_bytes",
    "trainable_parameters",
    "artifact_bytes",
    "image_latency_seconds",
)
MORE_COSTS = ("preparation_seconds", "evaluation_seconds", "lost_seconds")
ALL = (QUALITY, *FIDELITIES, *MORE_QUALITY, *MAIN_COSTS, *MORE_COSTS)


def measure(name: str) -> Measure:
    """Returns the measure called `name`; one that the table of metrics does not know is shown under its own name."""
    if name not in METRICS:
        return Measure(name, name.replace("_", " "), "", "max", "")
    metric = METRICS[name]
    return Measure(
        name,
        _TITLES.get(name, metric.title),
        _UNITS.get(name, metric.unit),
        "max" if metric.direction == "higher" else "min",
        metric.description,
    )
