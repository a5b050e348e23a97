"""A run that ends by FLOPs or seconds settles its length when it begins; everything that shows progress follows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from study.monitor.run_status import RunStatus
from study.spec.study_spec import StudySpec
from study.storage.run_key import RunKey
from study.tracking.run_writer import describe
from study.tracking.ui_defaults import experiment_tags
from study.worker.attempt import Attempt
from study.worker.order import Order
from tests.helpers.study_files import study_dict
from trainables.__main__ import _line
from trainables.events import Event, EventLog, settled_steps
from trainables.run_config import RunConfig

KEY = RunKey("confirm", "lora", 0, "dog-1", 100)
FLOPS = {"max_train_steps": 10_000_000, "max_train_flops": 1e12}


def settle(folder: Path, steps: int = 40, done: int = 10) -> None:
    """Writes the events of a run that is under way."""
    folder.mkdir(parents=True, exist_ok=True)
    log = EventLog(folder)
    log.append("started", attempt=1, resumed_step=0, steps=None)
    log.append("phase", name="prepare")
    log.append("phase", 0, name="train", steps=steps)
    log.append("progress", done, loss=0.1, learning_rate=1e-4, steps_per_second=2.0)


def config(folder: Path, **training: Any) -> RunConfig:
    content = {
        "method": "lora",
        "subject": {"name": "dog-1"},
        "training": training,
        "output_dir": str(folder),
        "cache_dir": str(folder / "cache"),
    }
    return RunConfig.model_validate(content)


@pytest.mark.parametrize(
    ("training", "before"), [(FLOPS, None), ({"max_train_seconds": 9.0}, None), ({"max_train_steps": 40}, 40)]
)
def test_status(tmp_path: Path, training: dict[str, Any], before: int | None) -> None:
    (tmp_path / "run.json").write_text(config(tmp_path, **training).model_dump_json())
    status = RunStatus(KEY, tmp_path)
    status.refresh()
    assert (status.steps, status.share) == (before, 0.0 if before else None)
    settle(tmp_path)
    status.refresh()
    assert (status.step, status.steps, status.share) == (10, 40, 0.25)


def test_resumed_runs_say_at_once() -> None:
    assert settled_steps(Event(1, 0.0, "started", None, {"resumed_step": 20, "steps": 40})) == 40
    assert settled_steps(Event(1, 0.0, "progress", 3, {"loss": 0.1})) is None


def test_what_a_worker_reports(tmp_path: Path) -> None:
    """Early stopping looks at the share that is done."""
    folder = tmp_path / "run"

    class Quiet:
        """Yields prepared events."""

        def __call__(self, *_: Any) -> Any:
            yield Event(1, 0.0, "phase", 0, {"name": "train", "steps": 40})
            yield Event(2, 0.0, "evaluation", 10, {"quality": 0.5, "drift": 0.2})

    order = Order(
        key=KEY.name,
        phase=KEY.phase,
        group="lora",
        config=config(folder, **FLOPS).model_dump_json(),
        driver_id="s",
        runner="unused:unused",
        resident="",
        cpus=1,
        gpus=0,
        objective="drift",
    )
    attempt = Attempt(order)
    attempt._events = Quiet()()
    report = attempt.advance(5.0)
    attempt.close()
    assert (report["budget"], report["score"]) == (0.25, -0.2), "the objective, and more is better"


def test_the_program_for_one_run(tmp_path: Path) -> None:
    event = Event(4, 0.0, "progress", 10, {"loss": 0.1, "learning_rate": 1e-4, "steps_per_second": 2.0})
    assert "step 10/40 " in (_line(event, config(tmp_path, **FLOPS), 40) or "")


def test_tracking(tmp_path: Path) -> None:
    document = json.loads(config(tmp_path, **FLOPS).model_dump_json())
    assert "1e+12 FLOPs of training" in describe(KEY, document)
    result = {"state": "COMPLETE", "cost": {"train_steps": 40}}
    assert "40 steps" in describe(KEY, document, result)
    for budget, step in (({"max_train_steps": 50}, 50), ({"train_flops": 1e12}, 0), ({}, 200)):
        spec = StudySpec.model_validate(study_dict(budget=budget))
        assert (
            f'"step":{step},' in experiment_tags(spec.model_dump(mode="json"))["mlflow.sharedViewState.study"]
        )
