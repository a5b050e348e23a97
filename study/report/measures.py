"""Which measures the report shows, in which order; titles, units and directions come from the table of metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Literal

from study.statistics.paired import Direction, Estimate
from trainables.evaluation.metrics_table import (
    METRICS,
    QUALITY,
    SHARE,
    data_set_metrics,
    listed_after,
    metric_names,
)

ARROWS = {"max": "↑", "min": "↓"}  # by direction


@dataclass(frozen=True)
class Measure:
    """A column of the results with all that tables and axes need to know of it.

    Attributes:
        is_cost: Whether axes of it may be logarithmic.
        is_external: Whether others named it, so that its title stays as it is written.
    """

    name: str
    title: str
    unit: str
    direction: Direction
    description: str
    is_cost: bool = False
    is_external: bool = False

    @property
    def sign(self) -> float:
        """1 where higher is better, -1 where lower is, NaN where neither is: nothing can be ranked by it then."""
        return {"max": 1.0, "min": -1.0}.get(self.direction, math.nan)

    @property
    def words(self) -> str:
        """The title within a sentence."""
        return self.title if self.is_external else self.title.lower()

    @property
    def on_axis(self) -> str:
        """The title with the arrow that tables have: up where higher is better, down where lower is."""
        return f"{self.title}\u00a0{ARROWS.get(self.direction, '')}".rstrip("\u00a0")

    @property
    def better(self) -> str:
        """In words, for a table."""
        return {"max": "higher", "min": "lower"}.get(self.direction, "neither")


_DIRECTIONS: dict[str, Direction] = {"higher": "max", "lower": "min", "none": "none"}


def _others(
    kind: Literal["eval", "cost"], *shown: tuple[str, ...], first: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """The listed metrics of a kind that no group in `shown` has."""
    known = set(chain.from_iterable(shown))
    return tuple(name for name in listed_after(kind, first) if name not in known)


SUBJECT_PROMPT = "quality_subject_prompt"
FIDELITIES = ("subject_fidelity", "prompt_fidelity")
SCALED = ("subject_fidelity_scaled", "prompt_fidelity_scaled")  # of the base model 0 and 1; not clipped
CLASS_KEPT = "class_kept"
FAILED = "failed_images"
MAIN_QUALITY = (QUALITY, SUBJECT_PROMPT, *SCALED, CLASS_KEPT, FAILED)
CEILINGS = ("ceiling_quality", "ceiling_subject", "ceiling_prompt")
ANCHOR_ERRORS = ("subject_anchor_error", "prompt_anchor_error", "class_anchor_error")
# Whatever else the table of metrics has.
MORE_QUALITY = _others("eval", MAIN_QUALITY, CEILINGS, ANCHOR_ERRORS)

# Of data sets alone, in a table of their own.
DATA_SET = data_set_metrics()

# Sums that the report makes of a run's costs (study/report/costs.py); empty where a part of them is unknown.
TOTAL_SECONDS, TOTAL_FLOPS = "total_seconds", "total_flops"
TUNED_SECONDS, TUNED_FLOPS = "tuned_seconds", "tuned_flops"
DOLLARS = "dollars"
_DERIVED = {
    item.name: item
    for item in (
        Measure(TOTAL_SECONDS, "Training with class images", "s", "min",
                "Training time and the making of the class images that the run trains on, charged in full."),
        Measure(TOTAL_FLOPS, "FLOPs with class images", "FLOP", "min",
                "Floating-point operations of training and of making the class images, charged in full."),
        Measure(DOLLARS, "Price", "$", "min",
                "Device time of training, class images and the evaluations that chose the step to restore, at "
                "the study file's `resources.price_per_hour`; without the evaluation of the result, which `study plan` "
                "counts too."),
        Measure(TUNED_SECONDS, "Training of search and run", "s", "min",
                "Training time of one search of the arm, class images made once, and of one run with its class images. "
                "The evaluation of the search's runs is not in it."),
        Measure(TUNED_FLOPS, "FLOPs of training, search and run", "FLOP", "min",
                "Floating-point operations of training in one search of the arm and in one run, with class images."),
    )
}  # fmt: skip

MAIN_COSTS = (
    "train_seconds",
    "device_seconds",
    "train_flops",
    "peak_memory_bytes",
    "trainable_parameters",
    "artifact_bytes",
    "image_latency_seconds",
)
CLASS_IMAGE_COSTS = (
    "class_image_seconds",
    "class_image_flops",
    TOTAL_SECONDS,
    TOTAL_FLOPS,
    "energy_joules",
    DOLLARS,
    "image_latency_fused_seconds",
)
MORE_COSTS = _others("cost", MAIN_COSTS, CLASS_IMAGE_COSTS, first=("train_steps",))
COSTS = frozenset({*MAIN_COSTS, *CLASS_IMAGE_COSTS, *MORE_COSTS, TUNED_SECONDS, TUNED_FLOPS})
# Shown with two decimals.
SCORES = frozenset(name for name in metric_names("eval") if METRICS[name].as_score)
# Between 0 and 1 by their definition, which Student's interval does not know; costs are at least 0.
BOUNDED = frozenset(name for name, metric in METRICS.items() if metric.limits == SHARE)
FALSE_ALARMS = {
    name: metric.false_alarms for name, metric in METRICS.items() if metric.false_alarms is not None
}
ALL = (*MAIN_QUALITY, *MORE_QUALITY, *MAIN_COSTS, *CLASS_IMAGE_COSTS, *MORE_COSTS)


def bounded(name: str, estimate: Estimate) -> Estimate:
    """The estimate with its interval cut at what is possible: costs at 0, quality and shares of images at 0 and 1."""
    limits = METRICS[name].possible if name in METRICS else (0.0, math.inf) if name in COSTS else None
    return estimate if limits is None else estimate.cut(*limits)


# Measures of results that this program did not make, while a report of such results is composed or drawn.
_EXTERNAL: ContextVar[Mapping[str, Measure]] = ContextVar("external measures", default=MappingProxyType({}))


@contextmanager
def external_measures(found: Iterable[Measure]) -> Iterator[None]:
    """Makes measures known to `measure` that are no metrics of this program."""
    token = _EXTERNAL.set({item.name: item for item in found})
    try:
        yield
    finally:
        _EXTERNAL.reset(token)


def measure(name: str) -> Measure:
    """Returns the measure called `name`; one that no table knows has its own name as title, and no direction."""
    if (external := _EXTERNAL.get().get(name)) is not None:
        return external
    if name in _DERIVED:
        return _DERIVED[name]
    if name not in METRICS:
        return Measure(name, name.replace("_", " "), "", "none", "")
    metric = METRICS[name]
    unit, about = metric.unit or metric.shown_unit, metric.explained or metric.description
    return Measure(name, metric.title, unit, _DIRECTIONS[metric.direction], about, metric.kind == "cost")
