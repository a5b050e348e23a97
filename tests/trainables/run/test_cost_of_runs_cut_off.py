"""A run that is cut off has cost what it had spent: its worker's death makes nothing free."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from study.storage.run_result import write_failure
from study.tracking.event_metrics import corrections, latest_metrics
from tests.helpers.run_files import wait_for, write_yaml
from tests.helpers.training_runs import MakeConfig
from trainables.events import Event, read_events, sum_up
from trainables.run import execute as run
from trainables.run.execute import execute
from trainables.run.resident import Resident
from trainables.run_config import RunConfig

ROOT = Path(__file__).parents[3]


def costs_of(config: RunConfig) -> list[Event]:
    return [event for event in read_events(Path(config.output_dir)) if event.kind == "cost"]


def died(config: RunConfig) -> dict[str, Any]:
    """Costs of the result that the study writes for a run whose worker is no more."""
    folder = Path(config.output_dir)
    result = write_failure(folder, reason="worker_died", message="its worker died", config=config)
    assert json.loads((folder / "result.json").read_text())["cost"] == result.cost
    return result.cost


def cut_off(config: RunConfig, resident: Resident, kind: str, step: int) -> None:
    """Leaves a run without an end, at an event."""
    events = execute(config, resident)
    next(event for event in events if event.kind == kind and event.step == step)
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt())


def test_cost_is_recorded_with_every_checkpoint(make_config: MakeConfig, resident: Resident) -> None:
    config = make_config("lora", max_train_steps=6)
    events = list(execute(config, resident))
    kinds = [(event.kind, event.step) for event in events if event.kind in ("checkpoint", "cost")]
    assert kinds == [(kind, step) for step in (2, 4, 6) for kind in ("checkpoint", "cost")] + [("cost", 6)]
    costs = costs_of(config)
    seconds = [event.data["train_seconds"] for event in costs]
    assert seconds == sorted(seconds)
    assert [event.data["train_steps"] for event in costs] == [2, 4, 6, 6]
    each = costs[0].data["train_flops"] / 2
    assert [event.data["train_flops"] for event in costs] == [2 * each, 4 * each, 6 * each, 6 * each]
    assert costs[0].data["image_latency_seconds"] is None  # not measured yet


def test_the_last_cost_counts_for_results_and_trackers(make_config: MakeConfig, resident: Resident) -> None:
    config = make_config("lora", max_train_steps=6)
    cut_off(config, resident, "progress", 5)
    list(execute(config, resident))
    folder, last = Path(config.output_dir), costs_of(config)[-1]
    result = json.loads((folder / "result.json").read_text())
    assert result["cost"] == last.data
    summed = sum_up(folder, result["config_digest"])
    assert summed is not None
    assert summed["cost"] == last.data
    events = read_events(folder)
    shown = {name: point.value for name, point in latest_metrics(events).items()}
    for name, value in last.data.items():
        if isinstance(value, int | float):
            assert shown[f"cost/{name}"] == value
    assert corrections(events, result) == []


def test_a_run_that_is_dropped_is_charged_what_it_spent(make_config: MakeConfig, resident: Resident) -> None:
    config = make_config("dreambooth+prior", max_train_steps=6)
    cut_off(config, resident, "progress", 5)
    cost = died(config)
    assert cost["train_steps"] == 4
    assert cost["train_seconds"] > 0
    assert cost["train_flops"] > 0
    assert cost["class_image_flops"] > 0
    assert cost["evaluation_seconds"] > 0
    assert cost["trainable_parameters"] > 0


def test_a_run_that_is_killed_is_charged_what_it_spent(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config("lora", max_train_steps=2000, checkpointing_steps=3)
    command = [sys.executable, "-m", "trainables", str(write_yaml(config, tmp_path / "run.yaml"))]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for(Path(config.output_dir), "cost", 6, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    cost = died(config)
    assert cost["train_steps"] >= 6
    assert cost["train_steps"] % 3 == 0
    assert cost["train_seconds"] > 0


def test_an_attempt_that_fails_before_its_checkpoint_does_not_wipe_out_the_cost(
    make_config: MakeConfig, resident: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had not read what the run had spent, and reported nothing as all."""
    config = make_config("lora", max_train_steps=6)
    cut_off(config, resident, "progress", 5)
    spent = costs_of(config)[-1].data

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("bad luck")

    monkeypatch.setattr(run, "resolve_subject", broken)
    list(execute(config, resident))
    result = json.loads((Path(config.output_dir) / "result.json").read_text())
    assert (result["state"], result["attempts"]) == ("FAIL", 2)
    assert result["cost"] == spent
    assert result["cost"]["train_steps"] == 4
