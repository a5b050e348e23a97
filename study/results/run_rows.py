"""One row a run, from its folder alone: works while the study runs, without MLflow and without pandas."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from study.results.columns import BEST, COUNTS, MORE_COLUMNS, PARAM_PREFIX, RUN_COLUMNS, TRAINING
from study.storage.layout import Storage
from study.storage.run_key import FOREIGN, PHASES, RunKey
from study.storage.run_result import result_of
from study.tracking.event_metrics import final_metrics
from study.tracking.params import flat_fields
from study.tracking.run_ids import read_record
from study.util.units import iso_time
from trainables.events import EVENTS_FILE, RUN_FILE, Event, read_events
from trainables.run_config import config_digest

_PHASES = {phase: number for number, phase in enumerate((*PHASES, FOREIGN))}


def rows(storage: Storage) -> list[dict[str, Any]]:
    """Returns the rows of all runs that have begun, with the columns of ``study.results.columns``; what is missing
    is None. Weights from elsewhere that were judged come last, with the phase ``foreign``.

    A run without an end is RUNNING, whether something trains it now or a resume will.
    """
    record = read_record(storage)
    found = []
    for path in (storage.runs).glob(f"*/*/*/{EVENTS_FILE}"):
        try:
            key = RunKey.parse("/".join(path.parent.parts[-3:]))
        except ValueError:
            continue
        if key.trains_classifier:  # in tables of their own (`study.results.downstream`)
            continue
        row = _row(storage.study, key, path.parent)
        if row is not None:
            row["mlflow_run_id"] = record.mlflow_run_id(key) if record else None
            found.append(row)
    return finished_rows(found)


def _row(study: str, key: RunKey, folder: Path) -> dict[str, Any] | None:
    events = read_events(folder)
    if not events or not (folder / RUN_FILE).exists():
        return None
    document = json.loads((folder / RUN_FILE).read_text())
    result = result_of(folder) or {}
    return make_row(
        study=study,
        key=key,
        method=str(document["method"]),
        state=str(result.get("state", "RUNNING")),
        metrics=final_metrics(events, result),
        params={name: _cell(value) for name, value in flat_fields(document).items()},
        facts={
            "best_metric": (result.get("best") or {}).get("metric"),
            "peak_memory_kind": _text(events, result),
            "attempts": result.get("attempts") or _attempts(events),
            "host": _host(events),
            "reason": result.get("reason"),
            "started": iso_time(events[0].time),
            "ended": iso_time(events[-1].time) if result else None,
            "config_digest": result.get("config_digest") or config_digest(document),
        },
    )


def make_row(
    *,
    study: str,
    key: RunKey,
    method: str,
    state: str,
    metrics: Mapping[str, float],
    params: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Puts a row together, from wherever its parts come.

    Args:
        metrics: Under MLflow's names (``eval/quality``).
        params: Under MLflow's names (``training.learning_rate``): numbers, booleans and texts.
        facts: Further columns.
    """
    row: dict[str, Any] = {
        "study": study,
        "arm": key.arm,
        "method": method,
        "phase": key.phase,
        "trial": key.trial,
        "subject": key.subject,
        "seed": key.seed,
        "state": state,
        "run_key": key.name,
        **facts,
    }
    for name, value in metrics.items():
        group, _, bare = name.partition("/")
        if group in ("eval", "cost") and math.isfinite(value):
            row[bare] = value + 0.0  # no -0.0
        elif group == "best" and f"best_{bare}" in BEST and math.isfinite(value):
            row[f"best_{bare}"] = value + 0.0
    for name, value in params.items():
        if name.startswith("training."):
            field = name.removeprefix("training.")
            row[field if field in TRAINING else PARAM_PREFIX + field] = value
    return row


def finished_rows(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Orders rows and columns; keeps the parameters that tell the runs of one method apart."""
    ordered = sorted(
        found,
        key=lambda row: (_PHASES[row["phase"]], row["arm"], row["trial"], row["subject"], row["seed"]),
    )
    columns = all_columns(ordered)
    return [{column: _printable(column, row.get(column)) for column in columns} for row in ordered]


def _printable(column: str, value: Any) -> Any:
    """Counts are whole numbers, though MLflow keeps every metric as a float."""
    whole = column in COUNTS and isinstance(value, float) and value.is_integer()
    return int(value) if whole else value


def all_columns(found: list[dict[str, Any]]) -> list[str]:
    """Returns the columns of a table of runs (see ``study.results.columns.MORE_COLUMNS`` for the order)."""
    named = [*RUN_COLUMNS, *MORE_COLUMNS]
    names = {name for row in found for name in row} - set(named)
    metrics = sorted(name for name in names if not name.startswith(PARAM_PREFIX))
    params = sorted(name for name in names if name.startswith(PARAM_PREFIX) and _varies(found, name))
    return [*named, *metrics, *params]


def _varies(found: list[dict[str, Any]], name: str) -> bool:
    """Whether a parameter differs between two runs, or is a field that not all methods have."""
    return len({json.dumps(row.get(name)) for row in found}) > 1


def _cell(value: Any) -> Any:
    """A field's value as it stands in a table: lists as JSON."""
    return value if isinstance(value, str | int | float) else json.dumps(value)


def parse_param(text: str) -> Any:
    """Returns what a text of MLflow or of a CSV file stands for: a number, a boolean, or (lists as well) a text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float | bool) else text


def _host(events: list[Event]) -> str | None:
    """Where the last attempt ran that said so."""
    hosts = [
        str(event.data["host"]) for event in events if event.kind == "started" and event.data.get("host")
    ]
    return hosts[-1] if hosts else None


def _attempts(events: list[Event]) -> int:
    return max([int(event.data.get("attempt", 1)) for event in events if event.kind == "started"] or [1])


def _text(events: list[Event], result: Mapping[str, Any]) -> str | None:
    kinds = [event.data["peak_memory_kind"] for event in events if event.data.get("peak_memory_kind")]
    kind = (result.get("cost") or {}).get("peak_memory_kind") or (kinds[-1] if kinds else None)
    return str(kind) if kind else None
