"""Results from the run folders: the runs' own records, which MLflow only shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from study.results.columns import CURVE_COLUMNS, IMAGE_COLUMNS
from study.results.downstream import local_downstream
from study.results.frames import Results, frame_of, scores_of, table_of
from study.results.image_scores import read_scores
from study.results.run_rows import rows
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.storage.run_result import result_of
from study.storage.safe_paths import inside
from study.storage.study_record import published_spec, spec_digest
from study.tracking.event_metrics import batches, corrections, curve_of, results_last
from study.tracking.progress import read_state
from study.tracking.run_ids import read_record
from trainables.events import read_events


def local_results(storage: Storage, *, images: bool = True) -> Results:
    """Returns a study's results, without MLflow; needs the storage at hand.

    Args:
        images: Whether sample grids are listed.
    """
    found = rows(storage)
    points: list[dict[str, Any]] = []
    grids: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for row in found:
        folder = storage.run_folder(RunKey.parse(row["run_key"]))
        scores += read_scores(folder, row) if row["state"] != "RUNNING" else []
        events = read_events(folder)
        values: dict[tuple[str, int], float] = {}
        parts = batches(events, 0)
        last = corrections(events, result_of(folder) or {})
        told = [metric for part in parts for metric in part.metrics] + last
        for metric in sorted(told, key=lambda metric: results_last(metric.name)):
            if (curve := curve_of(metric.name)) is not None:
                values[curve, metric.step] = metric.value
        points += [
            {**row, "step": step, "metric": name, "value": value}
            for (name, step), value in sorted(values.items())
        ]
        shown = sorted((image.key, image.step, image.path) for part in parts for image in part.images)
        grids += [
            {"run_key": row["run_key"], "step": step, "key": key, "path": str(folder / path)}
            for key, step, path in shown
            if images and inside(folder, path) is not None
        ]
    downstream = local_downstream(storage, found)
    record, tracking = read_record(storage), read_state(storage)
    meta = {
        "study": storage.study,
        "study_id": record.study_id if record else None,
        "spec": published_spec(storage) or None,
        "spec_digest": spec_digest(storage),
        "launches": [asdict(launch) for launch in record.launches] if record else [],
        "tracking_uri": tracking.uri if tracking else None,
    }
    return Results(
        frame_of(found),
        table_of(points, CURVE_COLUMNS),
        table_of(grids, IMAGE_COLUMNS),
        meta,
        scores_of(scores),
        None if downstream.empty else downstream,
    )
