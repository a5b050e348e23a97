"""A finished study of 25 runs made without training: run folders as ``trainables.run.execute.execute`` leaves them.

Numbers follow a small model of the real thing (quality grows with steps and falls off around a best learning
rate, arms and subjects differ, seeds scatter), so that tables, figures and statistics have something to show.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from study.storage.layout import Storage
from study.storage.run_key import RunKey
from trainables.evaluation.metrics_table import metric_names
from trainables.events import EventLog

STUDY = "fake"
STEPS = 120
SEARCH_SUBJECTS = ("cat-1",)
CONFIRM_SUBJECTS = ("dog-1", "bird-1")
CONFIRM_SEEDS = (100, 101)


@dataclass(frozen=True)
class FakeArm:
    """An arm: `gain` is its typical quality, `best_rate` the learning rate at which it is reached."""

    name: str
    method: str
    lr_scheduler: str
    gain: float
    best_rate: float
    step_seconds: float
    parameters: int
    trials: int = 3


ARMS = (
    FakeArm("base", "base", "constant", 0.02, 1e-4, 0.0, 0, trials=0),
    FakeArm("lora-cosine", "lora", "cosine", 0.55, 1e-3, 0.11, 98_304),
    FakeArm("lora-constant", "lora", "constant", 0.50, 5e-4, 0.11, 98_304),
    FakeArm("dreambooth-constant", "dreambooth", "constant", 0.62, 1e-4, 0.18, 6_700_000),
)


@dataclass(frozen=True)
class FakeRun:
    """What is needed to write one run folder."""

    key: RunKey
    arm: FakeArm
    learning_rate: float
    rank: int
    state: str = "COMPLETE"
    reason: str | None = None


def fake_runs(arms: tuple[FakeArm, ...] = ARMS) -> list[FakeRun]:
    """The runs of the study: a search with one FAIL and one PRUNED run, then confirm runs."""
    runs = []
    for arm in arms:
        for trial in range(arm.trials):
            for subject in SEARCH_SUBJECTS:
                key = RunKey("search", arm.name, trial, subject, 0)
                rate = arm.best_rate * (0.3, 1.0, 4.0)[trial % 3]
                runs.append(FakeRun(key, arm, rate, (4, 8, 8)[trial % 3]))
        for subject in CONFIRM_SUBJECTS:
            for seed in CONFIRM_SEEDS:
                key = RunKey("confirm", arm.name, 1 if arm.trials else 0, subject, seed)
                runs.append(FakeRun(key, arm, arm.best_rate, 8))
    ended = {
        "search/dreambooth-constant/0002-cat-1-s0": ("FAIL", "nan_loss"),
        "search/lora-constant/0002-cat-1-s0": ("PRUNED", None),
    }
    return [
        replace(run, state=ended[run.key.name][0], reason=ended[run.key.name][1])
        if run.key.name in ended
        else run
        for run in runs
    ]


def make_study(root: Path, study: str = STUDY, runs: list[FakeRun] | None = None) -> Storage:
    """Writes all run folders of the fake study under `root` and returns its storage."""
    storage = Storage(root.resolve(), study)
    for run in fake_runs() if runs is None else runs:
        write_run(storage, run)
    return storage


def run_document(storage: Storage, run: FakeRun, steps: int = STEPS) -> dict[str, Any]:
    """The run's configuration as in ``run.json``."""
    training: dict[str, Any] = {
        "learning_rate": run.learning_rate,
        "lr_scheduler": run.arm.lr_scheduler,
        "max_train_steps": steps,
        "train_batch_size": 4,
        "optimizer": "adamw",
        "with_prior_preservation": run.arm.method.startswith("dreambooth"),
        "snr_gamma": None,
    }
    if "lora" in run.arm.method:
        training |= {
            "r": run.rank,
            "lora_alpha": run.rank,
            "target_modules": ["to_k", "to_q", "to_v", "to_out.0"],
        }
    return {
        "method": run.arm.method,
        "model": {"path": "embedded", "revision": None, "variant": None},
        "subject": {
            "name": run.key.subject,
            "images": None,
            "references": None,
            "holdout": 2,
            "instance_prompt": None,
            "class_prompt": None,
        },
        "training": training,
        "evaluation": {
            "prompts": None,
            "images_per_prompt": 2,
            "num_inference_steps": 20,
            "guidance_scale": 3.0,
            "at": [0.5],
            "seed": 1234,
            "image_encoder": "embedded",
            "clip": "embedded",
        },
        "seed": run.key.seed,
        "device": "auto",
        "cpu_threads": 1,
        "output_dir": str(storage.run_folder(run.key)),
        "cache_dir": str(storage.cache),
    }


def write_run(storage: Storage, run: FakeRun, steps: int = STEPS, finish: bool = True) -> Path:
    """Writes one run folder; with `finish` False it is left as a killed worker leaves it, late in training."""
    folder = storage.run_folder(run.key)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(run_document(storage, run, steps), indent=1))
    chance = random.Random(run.key.name)
    log = EventLog(folder)
    log.append(
        "started", attempt=1, resumed_step=0, device="cpu", device_name="CPU", versions={"torch": "2.13.0"}
    )
    log.append("phase", name="prepare")
    trains = run.arm.method != "base"
    if trains:
        log.append("phase", name="train")
    last = steps if run.state == "COMPLETE" else steps // 2
    evaluation: dict[str, Any] = {}
    for step in range(20, last + 1, 20) if trains else ():
        log.append("progress", step, **training_metrics(run, step, steps, chance))
        if step == steps // 2 and run.state != "FAIL":
            evaluation = evaluation_metrics(run, step / steps, chance)
            log.append("evaluation", step, **evaluation, final=False)
            add_image(log, folder, run, step)
    if not finish:
        return folder
    if run.state == "COMPLETE":
        evaluation = evaluation_metrics(run, 1.0, chance)
        log.append("evaluation", last if trains else 0, **evaluation, final=True)
        add_image(log, folder, run, last if trains else 0)
    costs = cost_metrics(run, last if trains else 0, chance)
    log.append("cost", last if trains else 0, **costs)
    weights = write_weights(folder, log) if run.state == "COMPLETE" and trains else None
    finish_run(folder, log, run, evaluation, costs, weights)
    return folder


def finish_run(
    folder: Path,
    log: EventLog,
    run: FakeRun,
    evaluation: dict[str, Any],
    costs: dict[str, Any],
    weights: str | None,
) -> None:
    """Writes ``result.json`` and the last event."""
    message = f"loss was NaN at step {STEPS // 2}" if run.state == "FAIL" else None
    trace = "Traceback (most recent call last):\nFloatingPointError: NaN\n" if run.state == "FAIL" else None
    result = {
        "state": run.state,
        "reason": run.reason,
        "message": message,
        "traceback": trace,
        "attempts": 1,
        "evaluation": evaluation,
        "cost": costs,
        "weights": weights,
        "config_digest": "0" * 64,
        "best": None,
    }
    if run.state != "FAIL" and run.arm.method != "base":
        end = 0.5 if run.state == "COMPLETE" else None
        best = {"best_step": STEPS // 2, "value": 0.6, "end_value": end, "metric": "quality"}
        result["best"] = best | {"evaluations": 2, "restored": False}
        log.append("best", max(0, log.last_step("cost")), **result["best"])
    (folder / "result.json").write_text(json.dumps(result, indent=1))
    log.append("finished", state=run.state, reason=run.reason, message=message, traceback=trace)


def training_metrics(run: FakeRun, step: int, steps: int, chance: random.Random) -> dict[str, float]:
    """What a progress event carries."""
    rate = run.learning_rate
    if run.arm.lr_scheduler == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * step / steps))
    loss = 0.15 + 0.3 * math.exp(-3 * step / steps) + chance.gauss(0, 0.01)
    return {
        "loss": loss,
        "learning_rate": rate,
        "gradient_norm": abs(chance.gauss(0.8, 0.1)),
        "steps_per_second": 1 / (run.arm.step_seconds or 1),
    }


def evaluation_metrics(run: FakeRun, fraction: float, chance: random.Random) -> dict[str, float | None]:
    """What an evaluation event carries: all metrics; class_kid is missing (None) in short evaluations."""
    miss = math.log10(run.learning_rate / run.arm.best_rate)
    grown = run.arm.gain * (1 - math.exp(-4 * fraction)) * math.exp(-(miss**2))
    subject = min(1.0, max(0.0, grown + 0.15 + chance.gauss(0, 0.03)))
    prompt = min(1.0, max(0.0, 1 - 0.3 * grown + chance.gauss(0, 0.02)))
    kid = abs(chance.gauss(0.02, 0.005)) if fraction == 1.0 else None
    known: dict[str, float | None] = {
        "quality": subject * prompt,
        "subject_fidelity": 0.17 + 0.73 * subject,
        "prompt_fidelity": 0.20 + 0.12 * prompt,
        "diversity": 0.3 - 0.1 * grown + chance.gauss(0, 0.01),
        "drift": 0.05 + 0.2 * grown + chance.gauss(0, 0.01),
        "prior_preservation": 0.17 + 0.3 * grown + chance.gauss(0, 0.02),
        "memorisation": 0.05 * grown + chance.gauss(0, 0.01),
        "class_kid": kid,
        "class_kid_low": None if kid is None else kid - 0.004,
        "class_kid_high": None if kid is None else kid + 0.004,
        "clip_i": 0.6 + 0.3 * subject,
        "subject_fidelity_scaled": subject,
        "prompt_fidelity_scaled": prompt,
        "quality_subject_prompt": subject * prompt,
        "class_kept": 1 - 0.2 * grown,
        "failed_images": 1 - subject,
        "class_cmmd": kid,
        "class_cmmd_low": None if kid is None else kid - 0.004,
        "class_cmmd_high": None if kid is None else kid + 0.004,
        "ceiling_quality": 0.95,
        "ceiling_subject": 0.97,
        "ceiling_prompt": 1.05,
        "subject_anchor_error": 0.02,
        "prompt_anchor_error": 0.03,
        "class_anchor_error": 0.02,
    }
    return known | {name: 0.5 for name in metric_names("eval") if name not in known}


def cost_metrics(run: FakeRun, steps: int, chance: random.Random) -> dict[str, Any]:
    """What a cost event carries."""
    seconds = steps * run.arm.step_seconds * abs(chance.gauss(1, 0.03))
    return {
        "train_seconds": seconds,
        "device_seconds": seconds * 0.98,
        "preparation_seconds": abs(chance.gauss(1.5, 0.1)),
        "evaluation_seconds": abs(chance.gauss(6.0, 0.3)),
        "lost_seconds": 0.0,
        "train_flops": steps * 4 * 2.1e9,
        "peak_memory_bytes": int(1.1e9 + 30 * run.arm.parameters),
        "peak_memory_kind": "resident_set",
        "trainable_parameters": run.arm.parameters,
        "artifact_bytes": 4 * run.arm.parameters,
        "image_latency_seconds": abs(chance.gauss(0.4, 0.01)),
    }


def write_weights(folder: Path, log: EventLog) -> str:
    """A small file in the place of the weights."""
    (folder / "weights").mkdir(exist_ok=True)
    content = bytes(range(256)) * 16
    (folder / "weights" / "pytorch_lora_weights.safetensors").write_bytes(content)
    log.append("artifact", path="weights", role="weights", bytes=len(content))
    return "weights"


def add_image(log: EventLog, folder: Path, run: FakeRun, step: int, key: str = "grid") -> None:
    """Draws a grid of 3 x 2 cells whose colours follow arm, subject and step, and logs it."""
    chance = random.Random(f"{run.key.subject}{run.arm.name}")
    image = Image.new("RGB", (96, 64))
    draw = ImageDraw.Draw(image)
    for cell in range(6):
        left, top = 32 * (cell % 3), 32 * (cell // 3)
        draw.rectangle((left, top, left + 31, top + 31), fill=tuple(chance.randrange(256) for _ in range(3)))
        radius = 4 + 10 * step // STEPS
        draw.ellipse(
            (left + 16 - radius, top + 16 - radius, left + 16 + radius, top + 16 + radius), fill="white"
        )
    (folder / "samples").mkdir(exist_ok=True)
    path = f"samples/{key}-{step:06d}.png"
    image.save(folder / path)
    log.append("image", step, key=key, path=path)
