"""A runner without training: real events, checkpoints and results, at a few milliseconds a step.

How it behaves stands in ``fake.json`` of the cache folder, by the beginning of a run's name, the longest one winning::

    {"": {"step_seconds": 0.02}, "search/lora/0001": {"fail_at": 3}}

step_seconds: of a step, looked up before each one, so that a test that has seen enough can hurry; fail_at: raise at
this step; nan_at: end as nan_loss; memory_at: MemoryError; kill_at: SIGKILL of the own process at this step;
kill_times: only in the first so many attempts; segfault_at; quality: fixed instead of computed;
weights: what is left as such; silent_seconds: sleep before the first step.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from study.util.json_files import write_json
from trainables.errors import TrainingFailure
from trainables.events import RESULT_FILE, RUN_FILE, WEIGHTS, Event, EventLog, read_events, sum_up
from trainables.run_config import RunConfig


class FakeResident:
    """Counts how many of it were made in a process."""

    made = 0

    def __init__(self) -> None:
        FakeResident.made += 1
        self.runs = 0


def behaviour(config: RunConfig) -> dict[str, Any]:
    """What ``fake.json`` says of a run."""
    try:
        rules = json.loads((Path(config.cache_dir) / "fake.json").read_text())
    except OSError:
        return {}
    name = "/".join(Path(config.output_dir).parts[-3:])
    chosen: dict[str, Any] = {}
    for start in sorted(rules, key=len):
        if name.startswith(start):
            chosen |= rules[start]
    return chosen


def quality(config: RunConfig, share: float) -> float:
    """Best at a learning rate of 1e-3, growing with the steps."""
    distance = abs(math.log10(config.training.learning_rate) + 3)
    return round(math.exp(-distance) * share, 6)


def execute(config: RunConfig, resident: FakeResident | None = None) -> Iterator[Event]:
    """As `trainables.run.execute.execute`."""
    folder = Path(config.output_dir)
    if (folder / RESULT_FILE).exists():
        return
    rules = behaviour(config)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RUN_FILE, config.model_dump(mode="json"))
    log = EventLog(folder)
    if log.last_kind == "finished":  # as the real one: killed between the last event and the result
        write_json(folder / RESULT_FILE, sum_up(folder, config.digest()))
        return
    attempt = 1 + sum(event.kind == "started" for event in read_events(folder))
    begin = _checkpoint(folder)
    state: dict[str, Any] = {"state": "COMPLETE", "reason": None, "message": None, "traceback": None}
    step, seconds = begin, 0.0
    try:
        yield log.append(
            "started", attempt=attempt, resumed_step=begin, pid=os.getpid(), host="here", device="cpu"
        )
        if resident is not None:
            resident.runs += 1
        yield log.append("phase", name="train")
        time.sleep(rules.get("silent_seconds", 0.0))
        for step in range(begin + 1, config.training.max_train_steps + 1):
            pace = behaviour(config).get("step_seconds", 0.005)
            time.sleep(pace)
            seconds += pace
            _misbehave(rules, step, attempt)
            yield log.append("progress", step, loss=1.0 / step, resident_made=FakeResident.made)
            write_json(folder / "checkpoint" / "state.json", {"step": step})
            yield log.append("checkpoint", step, path="checkpoint")
            share = step / config.training.max_train_steps
            if (
                any(step == round(at * config.training.max_train_steps) for at in config.evaluation.at)
                and share < 1
            ):
                yield log.append("evaluation", step, final=False, **_scores(config, rules, share))
        yield log.append("evaluation", step, final=True, **_scores(config, rules, 1.0))
    except GeneratorExit:
        state |= {"state": "PRUNED", "reason": "stopped_early"}
        log.append("finished", step, **state)
        _result(folder, config, state, rules, step, attempt, seconds)
        raise
    except TrainingFailure as failure:
        state |= {"state": "FAIL", "reason": failure.reason, "message": str(failure)}
    except Exception as error:
        reason = "out_of_memory" if isinstance(error, MemoryError) else "exception"
        state |= {"state": "FAIL", "reason": reason, "message": str(error), "traceback": "Traceback ..."}
    if rules.get("weights"):
        (folder / WEIGHTS).mkdir(exist_ok=True)
        (folder / WEIGHTS / "weights.safetensors").write_text(rules["weights"])
    event = log.append("finished", step, **state)
    _result(folder, config, state, rules, step, attempt, seconds)
    yield event


def _scores(config: RunConfig, rules: dict[str, Any], share: float) -> dict[str, float | None]:
    value = rules.get("quality", quality(config, share))
    return {
        "quality": value,
        "subject_fidelity": value,
        "prompt_fidelity": None if value is None else 1 - value / 2,
    }


def _misbehave(rules: dict[str, Any], step: int, attempt: int) -> None:
    if rules.get("fail_at") == step:
        raise ValueError("a mistake of the method")
    if rules.get("nan_at") == step:
        raise TrainingFailure("nan_loss", f"loss is nan at step {step}")
    if rules.get("memory_at") == step:
        raise MemoryError("no memory left")
    if rules.get("kill_at") == step and attempt <= rules.get("kill_times", 99):
        os.kill(os.getpid(), signal.SIGKILL)
    if rules.get("segfault_at") == step:
        ctypes.string_at(0)


def _checkpoint(folder: Path) -> int:
    try:
        return int(json.loads((folder / "checkpoint" / "state.json").read_text())["step"])
    except OSError:
        return 0


def _result(
    folder: Path,
    config: RunConfig,
    state: dict[str, Any],
    rules: dict[str, Any],
    step: int,
    attempt: int,
    seconds: float,
) -> None:
    share = step / config.training.max_train_steps
    evaluation = _scores(config, rules, share) if state["state"] != "FAIL" else {}
    cost = {"train_seconds": seconds}
    digest = config.digest()
    write_json(
        folder / RESULT_FILE,
        {
            **state,
            "evaluation": evaluation,
            "cost": cost,
            "weights": WEIGHTS if rules.get("weights") else None,
            "attempts": attempt,
            "config_digest": digest,
        },
    )
