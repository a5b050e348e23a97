"""Made-up results for the report's tests: seeded, any number of arms, subjects and seeds, and every kind of
gap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from study.results.columns import CURVE_COLUMNS, IMAGE_COLUMNS, MORE_COLUMNS, RUN_COLUMNS, SCORE_RUN
from study.results.frames import Results, frame_of, scores_of

STEPS = 150


@dataclass(frozen=True)
class Arm:
    """A made-up arm: what quality it reaches at its best rate, what it keeps of the class, and what it costs."""

    name: str
    method: str
    schedule: str = "constant"
    gain: float = 0.6
    rate: float = 1e-3
    step_seconds: float = 0.1
    parameters: int = 98_304
    kept: float = 0.9


ARMS = (
    Arm("base", "base", gain=0.0, step_seconds=0.0, parameters=0),
    Arm("lora-cosine", "lora", "cosine", 0.64, 1e-3, 0.09),
    Arm("lora-constant", "lora", "constant", 0.60, 7e-4, 0.09),
    Arm("dreambooth-cosine", "dreambooth", "cosine", 0.70, 1e-4, 0.17, 6_700_000),
    Arm("dreambooth-constant", "dreambooth", "constant", 0.61, 5e-5, 0.17, 6_700_000),
    Arm("dreambooth_lora", "dreambooth_lora", "constant", 0.52, 1e-3, 0.14, 98_304),
)


@dataclass(frozen=True)
class Study:
    """How large the made-up study is.

    Attributes:
        modern: With class kept, class images, ceilings, five evaluations a run and scores of single images; without,
            as reports were before there were any of these.
        repeats: Independent searches of each arm, of `trials` each; the confirm subjects are dealt out over them.
    """

    arms: tuple[Arm, ...] = ARMS
    trials: int = 4
    subjects: tuple[str, ...] = ("dog-1", "bird-1")
    seeds: tuple[int, ...] = (100, 101)
    confirm: bool = True
    curves: bool = True
    failing: tuple[str, ...] = ("search/dreambooth-constant/0002-cat-1-s0",)
    pruned: tuple[str, ...] = ("search/lora-cosine/0003-cat-1-s0",)
    folder: Path | None = None
    modern: bool = False
    repeats: int = 1
    meta: dict[str, Any] = field(default_factory=dict)


def make_results(study: Study = Study(), seed: int = 0) -> Results:
    """Draws the results of a study."""
    chance = np.random.default_rng(seed)
    rows, curves, images, scores = [], [], [], []
    levels = {subject: chance.normal(0, 0.05) for subject in study.subjects}
    for arm in study.arms:
        trials = study.trials * study.repeats if arm.method != "base" else 0
        keys = [("search", trial, f"cat-{1 + trial // study.trials}", 0) for trial in range(trials)]
        if study.confirm:
            keys += [
                ("confirm", 1 + study.trials * (k % study.repeats), subject, run_seed)
                for k, subject in enumerate(study.subjects)
                for run_seed in study.seeds
            ]
        for phase, trial, subject, run_seed in keys:
            config = configuration(arm, trial, phase, chance)
            row = run_row(arm, phase, trial, subject, run_seed, config, levels.get(subject, 0.0), chance)
            if study.modern:
                row |= measured(row, arm)
            if row["run_key"] in study.failing:
                row |= {"state": "FAIL", "reason": "nan_loss", "quality": None, "subject_fidelity": None}
            elif row["run_key"] in study.pruned:
                row |= {"state": "PRUNED"}
            rows.append(row)
            if phase == "confirm" and row["state"] == "COMPLETE":
                if study.curves:
                    curves += course(row, arm, study.modern)
                if study.modern:
                    scores += scored(row)
                if study.folder is not None:
                    images += pictures(row, arm, study.folder)
    order = ("search", "confirm")
    rows.sort(key=lambda r: (order.index(r["phase"]), r["arm"], r["trial"], r["subject"], r["seed"]))
    names = [*RUN_COLUMNS, *MORE_COLUMNS]
    names += sorted({name for row in rows for name in row} - set(names))
    frame = frame_of([{name: row.get(name) for name in names} for row in rows])
    meta = {
        "study": "made-up",
        "study_id": "0123456789abcdef",
        "spec": {
            "name": "made-up",
            "model": {"path": "embedded"},
            "arms": {
                arm.name: {"method": arm.method}
                | ({} if arm.method == "base" else {"lr_scheduler": arm.schedule})
                for arm in study.arms
            },
            "search": {
                "sampler": "tpe",
                "trials": study.trials,
                "objective": "quality",
                **({"repeats": study.repeats} if study.repeats > 1 else {}),
            },
        },
        "spec_digest": "f" * 64,
        "tracking_uri": "sqlite:////somewhere/secret/mlflow.db",
        "launches": [
            {
                "time": 1_760_000_000.0,
                "git_commit": "1" * 40,
                "git_dirty": False,
                "versions": {"python": "3.11.7", "torch": "2.13.0"},
                "machine": {"system": "Linux x86_64", "cores": 2, "gpus": []},
            }
        ],
        **study.meta,
    }
    return Results(frame, table(curves, CURVE_COLUMNS), table(images, IMAGE_COLUMNS), meta, scores_of(scores))


def table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> pd.DataFrame:
    """A frame with the columns and types of the project's own reader."""
    return pd.DataFrame(rows, columns=list(columns))


def configuration(arm: Arm, trial: int, phase: str, chance: np.random.Generator) -> dict[str, Any]:
    """What a trial draws: the confirmed one is the best."""
    if arm.method == "base":
        return {"learning_rate": None, "lr_scheduler": None, "max_train_steps": None}
    miss = 0.0 if phase == "confirm" else chance.uniform(-1, 1)
    config: dict[str, Any] = {
        "learning_rate": arm.rate * 10**miss,
        "lr_scheduler": arm.schedule,
        "max_train_steps": STEPS,
        "param.snr_gamma": None if trial % 2 else 5.0,
        "param.with_prior_preservation": arm.method.startswith("dreambooth"),
    }
    if "lora" in arm.method:
        config |= {"param.r": 8 if phase == "confirm" else (2, 4, 8, 16)[trial % 4]}
    return config


def run_row(
    arm: Arm,
    phase: str,
    trial: int,
    subject: str,
    seed: int,
    config: dict[str, Any],
    level: float,
    chance: np.random.Generator,
) -> dict[str, Any]:
    """One complete run."""
    base = arm.method == "base"
    miss = 0.0 if base else math.log10(config["learning_rate"] / arm.rate)
    scaled = 0.0 if base else max(0.0, arm.gain * math.exp(-1.5 * miss**2) + level + chance.normal(0, 0.03))
    prompt = 1.0 if base else 1 - 0.25 * scaled + chance.normal(0, 0.02)
    seconds = arm.step_seconds * STEPS * float(chance.uniform(0.97, 1.03))
    return {
        "study": "made-up",
        "arm": arm.name,
        "method": arm.method,
        "phase": phase,
        "trial": trial,
        "subject": subject,
        "seed": seed,
        "state": "COMPLETE",
        "run_key": f"{phase}/{arm.name}/{trial:04d}-{subject}-s{seed}",
        "mlflow_run_id": f"{len(arm.name):08d}{trial:08d}{seed:016d}",
        "quality": scaled * prompt,
        "subject_fidelity": 0.2 + 0.65 * scaled,
        "prompt_fidelity": 0.22 + 0.1 * prompt,
        "subject_fidelity_scaled": scaled,
        "prompt_fidelity_scaled": prompt,
        "diversity": 0.3 - 0.1 * scaled,
        "drift": 0.0 if base else 0.05 + 0.1 * scaled + float(chance.normal(0, 0.005)),
        "memorisation": 0.0 if base else 0.03 * scaled + float(chance.normal(0, 0.004)),
        "train_seconds": seconds,
        "device_seconds": seconds,
        "preparation_seconds": float(chance.uniform(1, 2)),
        "evaluation_seconds": float(chance.uniform(5, 7)),
        "lost_seconds": 0.0,
        "train_flops": 0.0 if base else STEPS * 4 * 3e9 * (1.0 if "lora" in arm.method else 1.4),
        "peak_memory_bytes": 9.1e8 if base else 1.1e9 + 16.0 * arm.parameters,
        "peak_memory_kind": "resident_set",
        "trainable_parameters": float(arm.parameters),
        "artifact_bytes": 4.0 * arm.parameters,
        "image_latency_seconds": float(chance.uniform(0.05, 0.06)),
        "attempts": 1,
        "started": "2026-01-02T03:04:05.000+00:00",
        "ended": "2026-01-02T03:05:05.000+00:00",
        "config_digest": "a" * 64,
        **config,
    }


def measured(row: dict[str, Any], arm: Arm) -> dict[str, Any]:
    """What newer runs report beside: drawn from the run's key alone, so that the other values stay as they were."""
    chance = np.random.default_rng([3, *row["run_key"].encode()])
    base, place = arm.method == "base", sum(row["subject"].encode())
    both = min(1.0, max(0.0, row["subject_fidelity_scaled"])) * min(
        1.0, max(0.0, row["prompt_fidelity_scaled"])
    )
    kept = 1.0 if base else arm.kept + float(chance.normal(0, 0.02))
    kept += CLASS_SPREAD * float(np.mean(class_noise(row)))
    prior = arm.method.startswith("dreambooth")
    return {
        "quality": both * min(1.0, max(0.0, kept)),
        "quality_subject_prompt": both,
        "class_kept": kept,
        "prior_preservation": class_similarity(kept),
        "failed_images": 1.0 if base else max(0.0, 0.4 - 0.5 * both),
        "class_image_seconds": (4.0 + place % 7) if prior else 0.0,
        "class_image_flops": (3e11 + 1e9 * (place % 7)) if prior else 0.0,
        "image_latency_fused_seconds": 0.8 * row["image_latency_seconds"],
        "train_steps": 0.0 if base else float(STEPS),
        "ceiling_subject": 0.97 + 0.01 * (place % 3),
        "ceiling_prompt": 1.1,
        "ceiling_quality": 0.95 + 0.01 * (place % 3),
        "subject_anchor_error": 0.02,
        "prompt_anchor_error": 0.03,
        "class_anchor_error": 0.02,
    }


CLASS_IMAGES = (6, 2)  # prompts, images of each
CLASS_SPREAD = 0.02  # standard deviation of C between class images


def class_similarity(kept: Any) -> Any:
    """Similarity of class images to the subject: real images of it .8, the base model's .2."""
    return 0.8 - 0.6 * kept


def class_noise(row: dict[str, Any]) -> Any:
    """What each class image adds to its run's C in standard deviations: shape `CLASS_IMAGES`."""
    seed = [5, *"/".join(str(row[name]) for name in ("arm", "phase", "trial", "subject", "seed")).encode()]
    return np.random.default_rng(seed).normal(size=CLASS_IMAGES)


SPREADS = {"subject": 0.15, "seed": 0.05, "prompt": 0.1, "prompt by run": 0.08, "image": 0.2}


def scored(row: dict[str, Any], prompts: int = 6, images: int = 2) -> list[dict[str, Any]]:
    """Scores of single images with the standard deviations of `SPREADS`, and of class images with `CLASS_SPREAD`."""

    def draw(*names: object) -> float:
        return float(np.random.default_rng(list("/".join(map(str, names)).encode())).normal())

    run, found = {name: row[name] for name in SCORE_RUN}, []
    for prompt in range(prompts):
        for image in range(images):
            levels = {
                "subject": (row["subject"],),
                "seed": (row["subject"], row["seed"]),
                "prompt": (prompt,),
                "prompt by run": (prompt, row["subject"], row["seed"]),
                "image": (prompt, image, row["subject"], row["seed"]),
            }
            noise = sum(SPREADS[level] * draw(level, row["arm"], *names) for level, names in levels.items())
            subject = row["subject_fidelity_scaled"] + noise
            found.append(
                {
                    **run, "kind": "instance", "prompt": prompt, "template": PROMPTS[prompt % len(PROMPTS)],
                    "image": image, "noise_seed": str(2**64 + image), "subject_similarity": 0.2 + 0.65 * subject,
                    "prompt_similarity": 0.3, "subject_scaled": subject,
                    "prompt_scaled": row["prompt_fidelity_scaled"], "failed": int(subject < 0.2), "copy": 0,
                }
            )  # fmt: skip
    noise = class_noise(row)
    for prompt, image in np.ndindex(*CLASS_IMAGES):
        kept = row["class_kept"] + CLASS_SPREAD * (noise[prompt, image] - noise.mean())
        found.append(
            {
                **run, "kind": "class", "prompt": prompt - 1 if prompt else None, "template": "a class", "image": image,
                "noise_seed": "7", "subject_similarity": class_similarity(kept),
            }
        )  # fmt: skip
    return found


def course(row: dict[str, Any], arm: Arm, modern: bool = False) -> list[dict[str, Any]]:
    """Evaluations at a third, two thirds and the end, of newer runs at five places; the base model has one."""
    shared = {name: row[name] for name in ("run_key", "arm", "method", "phase", "trial", "subject", "seed")}
    points = []
    names = ["quality", "subject_fidelity", "prompt_fidelity"]
    if modern:
        names += ["quality_subject_prompt", "subject_fidelity_scaled", "prompt_fidelity_scaled", "class_kept"]
    steps = (15, 38, 75, 112, STEPS) if modern else (50, 100, STEPS)
    for step in (0,) if arm.method == "base" else steps:
        share = 1.0 if arm.method == "base" else (1 - math.exp(-3 * step / STEPS)) / (1 - math.exp(-3))
        for name in names:
            grows = name.startswith("quality")
            value = row[name] * share if grows else row[name] - 0.1 * (1 - share)
            points.append({**shared, "step": step, "metric": f"eval/{name}", "value": value})
    return points


PROMPTS = (
    "a subject",
    "a subject on a beach",
    "a subject in the snow at night",
    "a subject with a top hat",
    "a subject with a red scarf in a forest",
    "a subject on a green meadow",
)


def pictures(row: dict[str, Any], arm: Arm, folder: Path) -> list[dict[str, Any]]:
    """Strips of two discs a prompt, class images, references and an overview, as a run leaves them."""
    found = []
    folder.mkdir(parents=True, exist_ok=True)
    keys = [f"{k:02d} {prompt}" for k, prompt in enumerate(PROMPTS)] + ["class", "references", "grid"]
    for number, key in enumerate(keys):
        same = key in ("references",)
        chance = np.random.default_rng([number, row["seed"] * (not same), len(row["subject"])])
        strip = disc_strip(chance, 0.0 if same else arm.gain, 4 if same else 2)
        path = folder / f"{row['run_key'].replace('/', '_')}-{number}.png"
        strip.save(path)
        found.append({"run_key": row["run_key"], "step": STEPS, "key": key, "path": str(path)})
    return found


def disc_strip(chance: np.random.Generator, gain: float, count: int) -> Image.Image:
    """Discs of 64 pixels on coloured ground, two pixels apart."""
    image = Image.new("RGB", (count * 66 - 2, 64), "white")
    draw = ImageDraw.Draw(image)
    for k in range(count):
        draw.rectangle((66 * k, 0, 66 * k + 63, 63), fill=tuple(int(c) for c in chance.integers(60, 256, 3)))
        radius = 10 + int(20 * gain)
        box = (66 * k + 32 - radius, 32 - radius, 66 * k + 32 + radius, 32 + radius)
        draw.ellipse(box, fill=tuple(int(c) for c in chance.integers(0, 200, 3)))
    return image
