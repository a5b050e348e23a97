"""The downstream phase from MLflow: tags, params and metrics of its runs, and what they left as artifacts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from study.results.downstream import (
    Downstream,
    downstream_row,
    generated_rows,
    is_final,
    made_of,
    read_predictions,
    read_record_of,
)
from study.results.run_rows import parse_param
from study.storage.run_key import RunKey
from study.tracking.run_writer import DRAWN, DRAWN_FILE
from trainables.events import PREDICTIONS, RECORD

#: Gives the folder in which artifacts of a run lie on this machine, those that it has of the names that are given.
Fetch = Callable[[Any, tuple[str, ...]], Path]


def key_of(run: Any) -> RunKey:
    """The key of one of MLflow's runs."""
    return RunKey.parse(run.data.tags["run_key"])


def tracked_downstream(
    found: Iterable[Any], metrics_of: Callable[[Any], Mapping[str, float]], fetch: Fetch
) -> Downstream:
    """Reads it from all runs of a study in MLflow.

    Args:
        metrics_of: Gives a run's metrics, without those that have no value.
    """
    runs, generated = [], []
    predictions: dict[str, list[dict[str, Any]]] = {}
    for run in found:
        key, tags = key_of(run), run.data.tags
        if key.phase == "confirm" and DRAWN in tags and tags.get("state") == "COMPLETE":
            generated += generated_rows(key, _drawn(fetch(run, (DRAWN_FILE,))))
        if not key.trains_classifier:
            continue
        ended = tags.get("state", "RUNNING") != "RUNNING"
        folder = fetch(run, (RECORD, PREDICTIONS)) if ended else None
        fields = {name: parse_param(text) for name, text in run.data.params.items()}
        record = {} if folder is None else read_record_of(folder)
        row = downstream_row(
            key, fields, tags.get("state", "RUNNING"), tags.get("reason"), metrics_of(run), record
        )
        runs.append({**row, "mlflow_run_id": run.info.run_id})
        if folder is not None and is_final(row):
            predictions[key.name] = read_predictions(folder, key.name)
    return made_of(runs, predictions, generated)


def _drawn(folder: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads((folder / DRAWN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [one for one in content if isinstance(one, dict)] if isinstance(content, list) else []
