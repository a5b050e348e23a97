"""The whole command on the embedded model: killed with SIGKILL, run again, and then all three records agree."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from study.results.run_rows import rows
from study.storage.layout import Storage
from trainables.events import EVENTS_FILE, read_events

STUDY = """
name: whole
subjects: [cat-1, dog-1]
arms:
  base: {method: base}
  lora: {method: lora, search_space: {r: {type: categorical, choices: [2, 4]}}}
training: {checkpointing_steps: 4, train_batch_size: 2}
search: {trials: 2, subjects: [cat-1]}
confirm: {subjects: [dog-1], seeds: [100]}
budget: {max_train_steps: 16}
evaluation:
  {at: [], num_prompts: 2, images_per_prompt: 2, num_inference_steps: 2, num_class_images: 2, anchor_images: 4}
resources: {max_concurrent_runs: 1}
"""
RUNS = 4


def command(folder: Path, *arguments: str) -> list[str]:
    """The command line, with all state under `folder`."""
    return [sys.executable, "-m", "study.cli", *arguments, "--storage", str(folder / "storage")]


def checkpoints(folder: Path) -> int:
    """Checkpoints that runs have announced so far."""
    logs = (folder / "storage" / "whole" / "runs").glob(f"*/*/*/{EVENTS_FILE}")
    return sum(event.kind == "checkpoint" for path in logs for event in read_events(path.parent))


@pytest.mark.slow
@pytest.mark.nightly  # by day a launch of earlier code is resumed, and drivers are killed (tests/study/driver)
def test_a_killed_launch_is_resumed_by_the_same_command(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    launch = command(tmp_path, "launch", str(file), "--reports", str(tmp_path / "reports"))

    driver = subprocess.Popen(launch, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 300
    while checkpoints(tmp_path) < 2:
        assert driver.poll() is None, "the driver ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()

    again = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=500)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Traceback" not in again.stderr
    assert "report.html" in again.stdout
    assert "lora is the only trained arm with results" in " ".join(again.stderr.split())
    assert "study ui whole" in again.stdout

    storage = Storage(tmp_path / "storage", "whole")
    found = rows(storage)
    assert [row["state"] for row in found] == ["COMPLETE"] * RUNS
    assert_mlflow_agrees(storage, {row["mlflow_run_id"] for row in found})
    with (tmp_path / "reports" / "whole" / "data" / "runs.csv").open(newline="") as data:
        reported = list(csv.DictReader(data))
    assert sorted(row["mlflow_run_id"] for row in reported) == sorted(row["mlflow_run_id"] for row in found)

    assert_the_other_commands_read_it(tmp_path, environment)
    third = subprocess.run(
        [*launch, "--no-report"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert third.returncode == 0
    assert {row["attempts"] for row in rows(storage)} == {row["attempts"] for row in found}


def assert_mlflow_agrees(storage: Storage, ids: set[str]) -> None:
    """MLflow holds one ended run for each run, besides the arms' own, and none that is RUNNING."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(storage.tracking_uri)
    experiment = client.get_experiment_by_name(storage.study)
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    assert len(ids) == RUNS
    assert {run.info.run_id for run in runs if run.data.tags.get("kind") == "run"} == ids
    assert {run.info.status for run in runs} == {"FINISHED"}


def assert_the_other_commands_read_it(folder: Path, environment: dict[str, str]) -> None:
    """Status, trials, best and generate work on a finished study."""

    def read(*arguments: str) -> str:
        done = subprocess.run(command(folder, *arguments), env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    status = json.loads(read("status", "whole", "--format", "json"))
    assert sum(row["complete"] for row in status) == sum(row["planned"] for row in status) == RUNS
    assert len(json.loads(read("trials", "whole", "--format", "json"))) == RUNS
    assert json.loads(read("best", "whole", "--format", "json"))[0]["arm"] == "lora"
    images = folder / "images"
    read(
        "generate", "whole", "lora", "-p", "{subject} at night", "-n", "2", "--steps", "3", "-o", str(images)
    )
    assert sorted(path.name for path in images.iterdir()) == ["00-00.png", "00-01.png"]
