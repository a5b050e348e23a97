"""The downstream phase by the whole command: killed among classifiers, resumed; ledger, MLflow, status, report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from study.spec.downstream_plan import DownstreamPlan, total_runs
from study.spec.loading import load_study
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.storage.run_result import read_result
from tests.helpers.class_folders import class_folder
from tests.helpers.downstream_studies import study_file
from tests.helpers.waiting import wait_for
from trainables.events import PREDICTIONS, RECORD


def command(folder: Path, *arguments: str) -> list[str]:
    """The command line, with all state under `folder`."""
    return [sys.executable, "-m", "study.cli", *arguments, "--storage", str(folder / "storage")]


def ended(storage: Storage, phase: str) -> list[Path]:
    """Folders of the runs of a phase that have ended."""
    return [path.parent for path in storage.runs.glob(f"{phase}/*/*/result.json")]


@pytest.mark.slow
def test_a_study_of_classifiers_is_killed_resumed_recorded_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "prepared"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    data = class_folder(tmp_path / "data", {"cat": 8, "owl": 4})
    file = study_file(
        tmp_path, data, ratios=["balance"], generated_only=False, controls=[], train_batch_size=4
    )
    spec = load_study(file)
    storage = Storage(tmp_path / "storage", spec.name)
    launch = command(tmp_path, "launch", str(file), "--reports", str(tmp_path / "reports"))
    driver = subprocess.Popen(
        launch, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    wait_for(lambda: ended(storage, "downstream") or driver.poll() is not None, 300)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    kept = {
        folder: (folder / "result.json").stat().st_mtime_ns
        for phase in ("confirm", "downstream-search", "downstream")
        for folder in ended(storage, phase)
    }
    assert kept

    again = subprocess.run(launch, capture_output=True, text=True, timeout=500)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Traceback" not in again.stderr
    assert all((folder / "result.json").stat().st_mtime_ns == before for folder, before in kept.items())

    plan = DownstreamPlan(spec)
    for (cell, phase), count in plan.planned().items():
        results = [read_result(folder) for folder in (storage.runs / phase / cell).iterdir()]
        assert [result and result.state for result in results] == ["COMPLETE"] * count
    steps = set()
    for folder in ended(storage, "downstream"):
        record = json.loads((folder / RECORD).read_text())
        drawn = record["training"]["real"], record["training"]["generated"]
        steps.add((record["training"]["steps"], sum(sum(part.values()) for part in drawn)))
        assert (folder / PREDICTIONS).exists()
        cell = RunKey.parse("/".join(folder.parts[-3:])).arm
        assert bool(sum(record["training"]["generated"].values())) == cell.startswith("lora"), cell
    assert steps == {(4, 4 * 4)}  # of every cell alike, by what they did

    status = subprocess.run(
        command(tmp_path, "status", spec.name, "--format", "json"), capture_output=True, text=True
    )
    told = json.loads(status.stdout)
    assert sum(row["complete"] for row in told) == total_runs(spec), status.stdout

    from mlflow import MlflowClient

    client = MlflowClient(storage.tracking_uri)
    experiment = client.get_experiment_by_name(spec.name)
    assert experiment is not None
    runs = client.search_runs(
        [experiment.experiment_id], "tags.phase = 'downstream' and tags.kind = 'run'", max_results=100
    )
    assert len(runs) == sum(count for (_, phase), count in plan.planned().items() if phase == "downstream")
    assert all("eval/accuracy" in run.data.metrics for run in runs)
    assert {file.path for file in client.list_artifacts(runs[0].info.run_id)} >= {PREDICTIONS, RECORD}

    view = json.loads(experiment.tags["mlflow.sharedViewState.classifiers"])
    cells = client.search_runs([experiment.experiment_id], view["searchFilter"])
    assert {run.data.tags["arm"] for run in cells} == set(plan.arms)
    for column in (*view["selectedColumns"], view["orderByKey"]):
        group, _, name = column.partition(".")
        assert all(name.strip("`") in getattr(run.data, group) for run in cells), column

    report = (tmp_path / "reports" / spec.name / "report.md").read_text()
    assert "What generated images are worth to a classifier" in report
