"""Results from MLflow: those of a study whose run folders are not at hand, or on request."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.results.columns import CURVE_COLUMNS, IMAGE_COLUMNS
from study.results.downstream import Downstream
from study.results.downstream_mlflow import key_of, tracked_downstream
from study.results.frames import Results, frame_of, scores_of, table_of
from study.results.image_scores import read_scores
from study.results.run_rows import finished_rows, make_row, parse_param
from study.storage.layout import DOWNLOADS, STUDY_FILE, Storage, sqlite_path
from study.storage.run_key import RunKey
from study.storage.study_record import published_spec
from study.tracking.event_metrics import curve_of, results_last
from study.tracking.mirror import HYPOTHESIS_TAG
from study.tracking.mlflow_store import (
    MlflowStore,
    brief,
    configure_client,
    resolve_tracking_uri,
    tracking_command,
)
from study.tracking.run_ids import read_record
from study.tracking.run_writer import SCORES
from study.tracking.ui_defaults import IMAGE_SECTION
from study.util.redaction import without_credentials
from study.util.units import iso_time
from trainables.errors import UserError
from trainables.events import IMAGE_SCORES

if TYPE_CHECKING:
    from mlflow.entities import Run
    from pandas import DataFrame

_READERS = 8


def mlflow_results(storage: Storage, tracking_uri: str | None = None, *, images: bool = True) -> Results:
    """Reads a study's results from MLflow.

    Args:
        storage: Names the study; its folder need not exist when `tracking_uri` is given.
        tracking_uri: None: MLFLOW_TRACKING_URI, the study file's, or the storage's own store.
        images: Whether sample grids are fetched (from a server they are downloaded under the study's folder).

    Raises:
        UserError: MLflow does not answer, or knows no such study.
    """
    uri = resolve_tracking_uri(storage, tracking_uri)
    configure_client()
    store = MlflowStore(uri, storage.study, storage.artifact_root)
    try:
        return _from_mlflow(store, storage, images)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"MLflow at {without_credentials(uri)} cannot be read ({brief(error)}); start it, "
            "give another --tracking-uri, or read the CSV of an earlier report (--from-csv)"
        ) from error


def _from_mlflow(store: MlflowStore, storage: Storage, with_images: bool) -> Results:
    shown = without_credentials(store.uri)
    remedy = f"write it there with: {tracking_command('sync', storage, store.uri)}"
    path = sqlite_path(store.uri)
    experiment = store.find_experiment() if path is None or path.exists() else None  # opening would create it
    if experiment is None or experiment.lifecycle_stage != "active":
        raise UserError(f"MLflow at {shown} knows no study {storage.study!r}; {remedy}")
    study_id = _study_id(store, storage)
    found = list(store.runs({"study_id": study_id, "kind": "run"})) if study_id else []
    if not found:
        raise UserError(f"MLflow at {shown} has no runs of study {storage.study!r}; {remedy}")
    everything, found = found, [run for run in found if not key_of(run).trains_classifier]
    finished = finished_rows(_row(run) for run in found)
    frame = frame_of(finished)
    parents = list(store.runs({"study_id": str(study_id), "kind": "parent"}))
    record = read_record(storage)
    meta = {
        "study": storage.study,
        "study_id": study_id,
        "spec": published_spec(storage) or _spec_in_mlflow(store, parents),
        "spec_digest": experiment.tags.get("spec_digest"),
        "launches": [asdict(launch) for launch in record.launches] if record else [],
        "tracking_uri": shown,
        **_hypotheses(experiment.tags),
    }
    order = {key: position for position, key in enumerate(frame["run_key"])}
    return Results(
        frame=frame,
        curves=_curves(store, found, order),
        images=_images(store, storage, found, order) if with_images else table_of([], IMAGE_COLUMNS),
        meta=meta,
        image_scores=_scores(store, storage, found, finished),
        downstream=_downstream(store, storage, everything),
    )


def _downstream(store: MlflowStore, storage: Storage, found: list[Run]) -> Downstream | None:
    def fetch(run: Run, names: tuple[str, ...]) -> Path:
        return _artifacts_folder(store, storage, run, names)

    downstream = tracked_downstream(found, _metrics, fetch)
    return None if downstream.empty else downstream


def _hypotheses(tags: Mapping[str, str]) -> dict[str, Any]:
    """What was stated, the earliest first, as the experiment's tags have it; empty where nothing was."""
    found = [json.loads(text) for name, text in sorted(tags.items()) if name.startswith(HYPOTHESIS_TAG)]
    order = sorted(
        found, key=lambda one: (one.get("trials", math.inf), str(one.get("stated")), one.get("position", 0))
    )
    return {"hypotheses": order} if order else {}


def _study_id(store: MlflowStore, storage: Storage) -> str | None:
    """The storage's own, else that of the latest run: an experiment may hold those of several storages."""
    record = read_record(storage)
    if record is not None:
        return record.study_id
    found = list(store.runs({"kind": "run"}))
    return found[-1].data.tags.get("study_id") if found else None


def _spec_in_mlflow(store: MlflowStore, parents: list[Run]) -> dict[str, Any] | None:
    if not parents:
        return None
    try:
        spec: dict[str, Any] = json.loads(_artifact_text(store, parents[0], STUDY_FILE))
    except Exception:  # not uploaded; the report does without
        return None
    return spec


def _artifact_text(store: MlflowStore, run: Run, name: str) -> str:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return Path(store.client.download_artifacts(run.info.run_id, name, folder)).read_text()


def _row(run: Run) -> dict[str, Any]:
    tags = run.data.tags
    state = tags.get("state", "RUNNING")
    return make_row(
        study=tags["study"],
        key=RunKey.parse(tags["run_key"]),
        method=tags["method"],
        state=state,
        metrics=_metrics(run),
        params={name: parse_param(text) for name, text in run.data.params.items()},
        facts={
            "mlflow_run_id": run.info.run_id,
            "best_metric": tags.get("best_metric"),
            "peak_memory_kind": tags.get("peak_memory_kind"),
            "attempts": int(tags.get("attempt", 1)),
            "host": tags.get("host"),
            "reason": tags.get("reason"),
            "started": iso_time(run.info.start_time / 1000),
            "ended": iso_time(run.info.end_time / 1000) if run.info.end_time and state != "RUNNING" else None,
            "config_digest": tags.get("config_digest"),
        },
    )


def _metrics(run: Run) -> dict[str, float]:
    """A run's metrics, without those that its end took back."""
    missing = set(filter(None, run.data.tags.get("missing", "").split(",")))
    return {
        name: value for name, value in run.data.metrics.items() if name.removeprefix("eval/") not in missing
    }


def _curves(store: MlflowStore, found: list[Run], order: dict[str, int]) -> DataFrame:
    """Metric histories; a resumed run may hold two values of a step, of which the later counts."""
    wanted = [
        (run, curve, sorted(names, key=results_last))
        for run in sorted(found, key=lambda run: order[run.data.tags["run_key"]])
        for curve, names in sorted(_names_of_curves(run).items())
    ]

    def history(item: tuple[Run, str, list[str]]) -> list[dict[str, Any]]:
        run, curve, names = item
        key = RunKey.parse(run.data.tags["run_key"])
        values: dict[int, float] = {}
        for name in names:
            points = store.client.get_metric_history(run.info.run_id, name)
            values |= {p.step: p.value for p in sorted(points, key=lambda p: (p.step, p.timestamp))}
        shared = (key.name, key.arm, run.data.tags["method"], key.phase, key.trial, key.subject, key.seed)
        return [
            dict(zip(CURVE_COLUMNS, (*shared, step, curve, value), strict=True))
            for step, value in sorted(values.items())
        ]

    # A server answers slowly and many at a time; a SQLite file quickly and one at a time.
    with ThreadPoolExecutor(1 if store.uri.startswith("sqlite") else _READERS) as readers:
        histories = list(readers.map(history, wanted))
    return table_of([point for points in histories for point in points], CURVE_COLUMNS)


def _names_of_curves(run: Run) -> dict[str, list[str]]:
    """The metrics of a run that each curve is made of."""
    found: dict[str, list[str]] = {}
    for name in run.data.metrics:
        if (curve := curve_of(name)) is not None:
            found.setdefault(curve, []).append(name)
    return found


def _scores(store: MlflowStore, storage: Storage, found: list[Run], rows_: list[dict[str, Any]]) -> DataFrame:
    """The scores of single images, of the runs that have left them, in the order of the rows."""
    by_key = {run.data.tags["run_key"]: run for run in found if SCORES in run.data.tags}
    wanted = [(by_key[row["run_key"]], row) for row in rows_ if row["run_key"] in by_key]

    def scores(item: tuple[Run, dict[str, Any]]) -> list[dict[str, Any]]:
        run, row = item
        try:
            folder = _artifacts_folder(store, storage, run, (IMAGE_SCORES,))
            return read_scores(folder, row)
        except Exception:  # the artifact was deleted; the report does without
            return []

    with ThreadPoolExecutor(1 if store.uri.startswith("sqlite") else _READERS) as readers:
        return scores_of([image for images in readers.map(scores, wanted) for image in images])


def _artifacts_folder(store: MlflowStore, storage: Storage, run: Run, names: tuple[str, ...]) -> Path:
    """Returns where artifacts of a run lie on this machine: downloaded if need be, and anew after each end of the run.

    One that the run does not have is not there either.
    """
    here = store.artifact_folder(run)
    if here is not None and (here / names[0]).exists():
        return here
    target = storage.folder / DOWNLOADS / run.info.run_id / f"scores-{run.info.end_time or 0}"
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (target / name).exists():
            with contextlib.suppress(Exception):  # it was not left, or deleted; the report does without
                store.client.download_artifacts(run.info.run_id, name, str(target))
    return target


def _images(store: MlflowStore, storage: Storage, found: list[Run], order: dict[str, int]) -> DataFrame:
    table = []
    for run in sorted(found, key=lambda run: order[run.data.tags["run_key"]]):
        if "mlflow.loggedImages" not in run.data.tags:
            continue
        names = [
            Path(artifact.path).name for artifact in store.client.list_artifacts(run.info.run_id, "images")
        ]
        for name in names:
            if not name.endswith(".png"):
                continue
            key, _, rest = name.removeprefix(f"{IMAGE_SECTION}~").partition("+step+")
            key = key.replace("~", "/")
            row = (
                run.data.tags["run_key"],
                int(rest.split("+")[0]),
                key,
                str(_local(store, storage, run, name)),
            )
            table.append(dict(zip(IMAGE_COLUMNS, row, strict=True)))
    table.sort(key=lambda row: (order[row["run_key"]], row["key"], row["step"]))
    return table_of(table, IMAGE_COLUMNS)


def _local(store: MlflowStore, storage: Storage, run: Run, name: str) -> Path:
    """Returns an image's file on this machine, which is downloaded if need be, but only once."""
    here = store.artifact_folder(run)
    if here is not None and (here / "images" / name).exists():
        return here / "images" / name
    target = storage.folder / DOWNLOADS / run.info.run_id
    if not (target / name).exists():
        target.mkdir(parents=True, exist_ok=True)
        store.client.download_artifacts(run.info.run_id, f"images/{name}", str(target))
    found = next(target.rglob(name))
    return found
