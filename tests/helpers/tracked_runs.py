"""Made-up runs, and what MLflow must hold of them."""

from __future__ import annotations

import json
from typing import Any

from study.storage.layout import Storage
from study.storage.planned_run import PlannedRun
from study.tracking.event_metrics import batches
from study.tracking.mlflow_store import MlflowStore
from tests.helpers.fake_runs import (
    STEPS,
    FakeRun,
    add_image,
    cost_metrics,
    evaluation_metrics,
    fake_runs,
    finish_run,
    training_metrics,
    write_weights,
)
from tests.helpers.mlflow_stores import history, runs_by_key
from trainables.events import EventLog, read_events
from trainables.run_config import RunConfig

RUNS = {run.key.name: run for run in fake_runs()}

ONE = RUNS["search/lora-cosine/0001-cat-1-s0"]
FAILED, PRUNED = RUNS["search/dreambooth-constant/0002-cat-1-s0"], RUNS["search/lora-constant/0002-cat-1-s0"]

SOME = {
    name: run
    for name, run in RUNS.items()
    if name.startswith(("search/lora-cosine", "search/dreambooth-constant")) or run is PRUNED
} | {name: RUNS[name] for name in ("confirm/base/0000-dog-1-s100", "confirm/lora-cosine/0001-dog-1-s100")}


def planned(storage: Storage, run: FakeRun) -> PlannedRun:
    config = RunConfig.model_validate(json.loads((storage.run_folder(run.key) / "run.json").read_text()))
    return PlannedRun(run.key, storage.run_folder(run.key), config)


def go_on(storage: Storage, run: FakeRun, repeat_from: int = 40) -> None:
    """What a resumed attempt appends: it repeats the steps since its checkpoint, then finishes."""
    import random

    folder, chance = storage.run_folder(run.key), random.Random(1)
    log = EventLog(folder)
    log.append("started", attempt=2, resumed_step=repeat_from, device="cpu")
    for step in range(repeat_from, STEPS + 1, 20):
        log.append("progress", step, **training_metrics(run, step, STEPS, chance))
        if step == STEPS // 2:
            log.append("evaluation", step, **evaluation_metrics(run, 0.5, chance), final=False)
            add_image(log, folder, run, step)
    evaluation = evaluation_metrics(run, 1.0, chance)
    log.append("evaluation", STEPS, **evaluation, final=True)
    add_image(log, folder, run, STEPS)
    costs = cost_metrics(run, STEPS, chance)
    log.append("cost", STEPS, **costs)
    finish_run(folder, log, run, evaluation, costs, write_weights(folder, log))


def expected_points(storage: Storage, run: FakeRun) -> dict[str, list[tuple[int, float]]]:
    points: dict[str, list[tuple[int, float]]] = {}
    for batch in batches(read_events(storage.run_folder(run.key)), 0):
        for metric in batch.metrics:
            points.setdefault(metric.name, []).append((metric.step, metric.value))
    return {name: sorted(values) for name, values in points.items()}


def assert_exact(storage: Storage, store: MlflowStore, run: FakeRun, status: str = "FINISHED") -> Any:
    """MLflow holds the run once, with exactly the points and images of its events."""
    found = runs_by_key(store)[run.key.name]
    expected = expected_points(storage, run)
    assert set(found.data.metrics) == set(expected)
    for name, points in expected.items():
        assert history(store, found.info.run_id, name) == points, name
    images = [item.path for item in store.client.list_artifacts(found.info.run_id, "images")]
    steps = sorted(int(path.split("+")[2]) for path in images if path.endswith(".png"))
    assert steps == sorted({batch.step for part in batches(read_events(storage.run_folder(run.key)), 0)
                            for batch in part.images})  # fmt: skip
    assert found.info.status == status
    return found
