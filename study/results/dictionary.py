"""The data dictionary: what each column of a report's tables holds, made from what the program declares of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from study.results.columns import (
    COUNTS,
    INTEGERS,
    PARAM_PREFIX,
    SCORE_INTEGERS,
    SCORE_NUMBERS,
    TEXTS,
    TIMES,
)
from study.storage.run_key import FOREIGN, PHASES, STATES
from trainables.evaluation.metrics_table import METRICS

if TYPE_CHECKING:
    from pandas import DataFrame, Series

Type = Literal["text", "integer", "number", "boolean", "time"]

RUNS, CURVES, IMAGES, SCORES = "runs", "curves", "images", "image_scores"  # the tables: names of their files


@dataclass(frozen=True)
class Entry:
    """One column of one table, a row of the dictionary.

    Attributes:
        table: Name of its files, without the ending.
        type: As in Parquet: text, integer (64 bits), number (double), boolean, or time (UTC, milliseconds). In CSV
            booleans are true and false, and times ISO 8601. A missing value is null, and an empty cell.
        unit: Empty for pure numbers and for texts.
        range: What no value lies beyond, or the values that there are; empty where neither is known.
        direction: Which way is better: higher, lower or none; empty for what is no measure.
    """

    table: str
    column: str
    type: Type
    unit: str = ""
    range: str = ""
    direction: str = ""
    meaning: str = ""


HEADER = tuple(field.name for field in fields(Entry))
_UNKNOWN = "A metric that this version of the program does not describe."

#: Column -> unit, range, meaning, of what is no metric; the same wherever the column stands.
_ABOUT: dict[str, tuple[str, str, str]] = {
    "study": ("", "", "Name of the study."),
    "arm": ("", "", "Name of the arm: what is compared."),
    "method": ("", "", "Fine-tuning method (`study ls methods`); base: the untrained model; external: not known."),
    "phase": ("", " | ".join((*PHASES, FOREIGN)),
              "search: a trial of the search; confirm: of the chosen configuration, which alone is compared; foreign: "
              "weights from elsewhere."),
    "trial": ("", ">= 0", "Number of the trial within its arm's searches, and for confirm runs of the one chosen."),
    "subject": ("", "", "Name of the subject or data set that the run trains on: the unit of all statistics."),
    "seed": ("", "", "Seed of the run; runs of one subject and seed are paired over arms."),
    "state": ("", " | ".join(STATES), "How the run ended; RUNNING: not yet. Only COMPLETE ones are compared."),
    "learning_rate": ("", "> 0", "Learning rate at the peak of the schedule."),
    "lr_scheduler": ("", "", "Schedule of the learning rate, by diffusers' name."),
    "max_train_steps": ("steps", "> 0",
                        "Number of optimizer steps that the configuration allows; where the budget is another, a bound "
                        "that is never reached."),
    "mlflow_run_id": ("", "", "Id of the run in MLflow; empty where MLflow does not know it."),
    "best_step": ("steps", ">= 0", "Step of the best of the run's evaluations, where there were several."),
    "best_value": ("", "", "Value of that evaluation, by the metric in best_metric."),
    "best_end_value": ("", "", "Value of the last evaluation, by the metric in best_metric."),
    "best_metric": ("", "", "Metric by which the best evaluation was told."),
    "peak_memory_kind": ("", "", "What peak_memory_bytes is: the device's memory, or the process's resident set."),
    "attempts": ("", ">= 1", "How often the run was begun, resumed attempts among them."),
    "host": ("", "", "Machine of the last attempt."),
    "reason": ("", "", "Why the run did not complete."),
    "started": ("", "", "When the run's first attempt began."),
    "ended": ("", "", "When the run ended."),
    "run_key": ("", "", "Identity of the run: phase/arm/trial-subject-seed; it joins the tables."),
    "config_digest": ("", "", "SHA-256 of the run's configuration: equal for equal configurations."),
    "step": ("steps", ">= 0", "Optimizer step, 0 before training."),
    "metric": ("", "", "Name of the metric in MLflow: eval/ and a metric of the runs table, inference/ for other "
                       "numbers of solver steps, or train/loss."),
    "value": ("", "", "Value of the metric at that step, in the metric's unit."),
    "key": ("", "", "What the picture shows: number and prompt with the word subject in the subject's place, "
                    "references, class or grid."),
    "path": ("", "", "Picture file, relative to this folder."),
    "kind": ("", "instance | class", "instance: an image of the subject's prompts; class: of class prompts."),
    "prompt": ("", ">= 0", "Number of the prompt's template; missing for the class prompt alone."),
    "template": ("", "", "The prompt with {subject} in the subject's place."),
    "image": ("", ">= 0", "Number of the image within its prompt."),
    "noise_seed": ("", "", "Seed of the image's noise, as text, since it may be larger than 64 bits."),
    "failed": ("", "0 | 1", "Whether the image shows another subject or another prompt."),
    "copy": ("", "0 | 1", "Whether the image is a near copy of a training image."),
    "character": ("", "", "Of a data set: whom the caption is about, where images of that character judge it."),
}  # fmt: skip
#: Column of single images' scores -> range, meaning; higher is better in all of them.
_SCORES = {
    "subject_similarity": ("-1..1", "Mean cosine similarity with the subject's held-out references."),
    "prompt_similarity": ("-1..1", "Cosine similarity with the prompt."),
    "subject_scaled": ("", "The image's own subject fidelity: the base model 0, real held-out images 1; not clipped."),
    "prompt_scaled": ("", "The image's own prompt fidelity: images of other prompts 0, the base model 1; not clipped."),
}  # fmt: skip
assert set(_SCORES) == set(SCORE_NUMBERS)


def table_entries(table: str, frame: DataFrame, measures: Iterable[Mapping[str, Any]] = ()) -> list[Entry]:
    """Returns an entry for each column of a table, in the table's order.

    Args:
        table: `RUNS`, `CURVES`, `IMAGES` or `SCORES`.
        measures: What is known of metrics that this program did not name (`study.results.external.measures_of`).
    """
    theirs = {str(measure["name"]): measure for measure in measures if measure.get("title")}
    return [_entry(table, str(name), frame[name], theirs.get(str(name))) for name in frame.columns]


def to_dictionary(entries: Iterable[Entry]) -> str:
    """The dictionary as CSV, one row a column of a table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(astuple(entry) for entry in entries)
    return text.getvalue()


def _entry(table: str, name: str, values: Series[Any], theirs: Mapping[str, Any] | None) -> Entry:
    kind = _type(table, name, values)
    if table == SCORES and name in _SCORES:
        limits, meaning = _SCORES[name]
        return Entry(table, name, kind, "", limits, "higher", meaning)
    if theirs is not None:
        direction = {"max": "higher", "min": "lower"}.get(str(theirs.get("direction")), "none")
        meaning = str(theirs.get("description") or theirs["title"])
        return Entry(table, name, kind, str(theirs.get("unit", "")), "", direction, meaning)
    if name in _ABOUT:
        unit, limits, meaning = _ABOUT[name]
        return Entry(table, name, kind, unit, limits, "", meaning)
    if name.startswith(PARAM_PREFIX):
        field = name.removeprefix(PARAM_PREFIX)
        return Entry(table, name, kind, meaning=f"Field {field} of the run's configuration: docs/methods.md.")
    metric = METRICS.get(name)
    if metric is None:
        return Entry(table, name, kind, meaning=_UNKNOWN)
    limits = ">= 0" if metric.kind == "cost" else ""
    if metric.limits is not None:
        limits = "{:g}..{:g}".format(*metric.limits)
    return Entry(
        table, name, kind, metric.unit, limits, metric.direction, metric.explained or metric.description
    )


def _type(table: str, name: str, values: Series[Any]) -> Type:
    """How a column is typed, by `study.results.columns`; of fields of a configuration by its values."""
    if name.startswith(PARAM_PREFIX) and table == RUNS:
        kinds: dict[str, Type] = {"boolean": "boolean", "float64": "number"}
        return kinds.get(str(values.dtype), "text")
    if table == RUNS:
        if name in TEXTS:
            return "text"
        if name in TIMES:
            return "time"
        return "integer" if name in INTEGERS | COUNTS else "number"
    if name in ("trial", "seed", "step", *(SCORE_INTEGERS if table == SCORES else ())):
        return "integer"
    return "number" if name in ("value", *SCORE_NUMBERS) else "text"
