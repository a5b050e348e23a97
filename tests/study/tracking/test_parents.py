"""Parent runs in MLflow: each measure of an arm with its interval, by the report's own statistics, as runs end."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from study.report.analysis import analyse
from study.report.measures import bounded
from study.report.prepared import prepare
from study.results.from_folders import local_results
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.tracking import parents
from study.tracking.mirror import Mirror, OutageError
from study.tracking.mlflow_store import MlflowStore
from study.tracking.run_ids import TrackingRecord
from study.tracking.sync import sync
from tests.helpers.fake_runs import ARMS, FakeRun, fake_runs, write_run
from tests.helpers.mlflow_stores import history, prepare_store, runs_by_key
from trainables.evaluation.metrics_table import METRICS

SUBJECTS = ("dog-1", "bird-1", "cat-2")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def confirm_runs(
    arm: str, subjects: tuple[str, ...] = SUBJECTS, seeds: tuple[int, ...] = (100, 101)
) -> list[FakeRun]:
    like = next(run for run in fake_runs() if run.key.arm == arm and run.key.phase == "confirm")
    return [
        replace(like, key=RunKey("confirm", arm, like.key.trial, subject, seed))
        for subject in subjects
        for seed in seeds
    ]


def parent(store: MlflowStore, arm: str = "lora-cosine") -> Any:
    return runs_by_key(store, "parent")[f"confirm/{arm}"]


def test_parents_of_confirm_runs_have_the_estimates_of_the_report(tmp_path: Path) -> None:
    """Of every measure and arm, with a failed run and a missing one; the seeds of the base count as one."""
    storage = Storage(tmp_path, "arms")
    runs = [run for arm in ARMS[:3] for run in confirm_runs(arm.name)][:-1]
    runs[7] = replace(runs[7], state="FAIL", reason="nan_loss")
    for run in (*runs, *(run for run in fake_runs() if run.key.phase == "search")):
        write_run(storage, run)
    store = prepare_store(storage)
    sync(storage)
    analysis = analyse(prepare(local_results(storage)))
    compared = 0
    for arm in ARMS[:3]:
        metrics = parent(store, arm.name).data.metrics
        reported = analysis.arm(arm.name).estimates
        for name in METRICS:
            estimate = bounded(name, reported[name]) if name in reported else None
            if estimate is None or estimate.value is None:
                continue
            assert metrics[f"n/{name}"] == estimate.n, name
            for part, value in (("mean", estimate.value), ("low", estimate.low), ("high", estimate.high)):
                assert value is not None
                assert math.isclose(metrics[f"{part}/{name}"], value, rel_tol=1e-12, abs_tol=1e-15), (
                    part,
                    name,
                )
            compared += 1
    assert compared > 60
    assert parent(store, "base").data.metrics["n/quality"] == 3
    assert parent(store).data.metrics["n/quality"] == 5
    quality = analysis.arm("lora-cosine").estimates["quality"]
    words = f"quality {quality.value:.2f} [{quality.low:.2f}, {quality.high:.2f}], n = 5 on 3 subjects"
    assert words in parent(store).data.tags["mlflow.note.content"]
    search = runs_by_key(store, "parent")["search/lora-cosine"].data.metrics
    assert not [name for name in search if name.split("/")[0] in ("mean", "low", "high", "n")]


def test_below_three_subjects_there_is_a_mean_and_no_interval(tmp_path: Path) -> None:
    storage = Storage(tmp_path, "two")
    for run in confirm_runs("lora-cosine", SUBJECTS[:2]):
        write_run(storage, run)
    store = prepare_store(storage)
    sync(storage)
    metrics = parent(store).data.metrics
    assert metrics["n/quality"] == 4
    assert "mean/quality" in metrics
    assert not [name for name in metrics if name.startswith(("low/", "high/"))]


def test_a_parent_is_written_as_runs_end_and_not_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(parents.time, "monotonic", lambda: now[0])
    storage = Storage(tmp_path, "live")
    store = prepare_store(storage)
    mirror = Mirror(storage, store.uri, TrackingRecord(storage))
    numbers = []
    for run, pause in zip(confirm_runs("lora-cosine")[:4], (0.0, 3.0, 20.0, 1.0), strict=True):
        now[0] += pause
        write_run(storage, run)
        mirror.add(run.key)
        mirror.update()
        numbers.append(parent(store).data.metrics["n/quality"])
    assert numbers == [1, 1, 3, 3]
    assert parent(store).info.status == "RUNNING"
    mirror.finish()
    mirror.release()
    found = parent(store)
    assert (found.data.metrics["n/quality"], found.info.status) == (4, "FINISHED")
    assert history(store, found.info.run_id, "n/quality") == [(1, 1), (3, 3), (4, 4)]

    # A later launch knows the runs of the earlier one, from MLflow.
    last = confirm_runs("lora-cosine")[4]
    write_run(storage, last)
    assert sync(storage).created == 1
    assert parent(store).data.metrics["n/quality"] == 5
    assert "low/quality" in parent(store).data.metrics


def test_a_parent_that_cannot_be_written_now_is_written_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(tmp_path, "later")
    store = prepare_store(storage)
    write_run(storage, confirm_runs("lora-cosine")[0])
    mirror = Mirror(storage, store.uri, TrackingRecord(storage))
    mirror.add_all()

    def refuse(*_: Any) -> None:
        raise RuntimeError("not now")

    with monkeypatch.context() as patch:
        patch.setattr(parents.Parents, "_log", refuse)
        mirror.update()
        patch.setattr(MlflowStore, "ping", refuse)
        with pytest.raises(OutageError, match="not now"):
            mirror.update()
    mirror.finish()
    mirror.release()
    assert mirror.pending() == []
    assert parent(store).data.metrics["n/quality"] == 1
