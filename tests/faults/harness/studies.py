"""The study that faults hit: eight short runs of real training on tiny models made from configurations."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from benchmarks.support.tiny_models import make_photos, make_tiny_clip, make_tiny_model, make_tiny_vit
from study.storage.layout import Storage
from study.storage.run_result import read_result

STEPS, EVERY = 24, 4


def make_models(folder: Path) -> Path:
    """Writes model, metric models and photographs, once a session."""
    make_tiny_model(folder / "model", resolution=16, width=16)
    make_tiny_clip(folder / "clip", resolution=16)
    make_tiny_vit(folder / "vit", resolution=16)
    make_photos(folder / "photos", count=5)
    return folder


def study_content(models: Path, name: str, ledger_url: str | None = None) -> dict[str, Any]:
    """A study file: two searched LoRA configurations, DreamBooth and the base model, and confirm runs of all."""
    subject = {
        "name": "cat",
        "images": str(models / "photos"),
        "instance_prompt": "a sks cat",
        "class_prompt": "a cat",
    }
    rates = {"learning_rate": {"type": "float", "low": 1e-4, "high": 1e-3, "log": True}}
    return {
        "name": name,
        "model": str(models / "model"),
        "subjects": [subject],
        "arms": {
            "base": {"method": "base"},
            "lora": {"method": "lora", "r": 2, "search_space": rates},
            "full": {"method": "dreambooth", "use_ema": True, "search_space": "fixed"},
        },
        "training": {"train_batch_size": 2, "checkpointing_steps": EVERY, "num_class_images": 2,
                     "class_num_inference_steps": 1},
        "search": {"trials": 2, "sampler": "random", "objective": "subject_fidelity", "allow_overlap": True},
        "confirm": {"subjects": ["cat"], "seeds": [100, 101]},
        "budget": {"max_train_steps": STEPS},
        "evaluation": {
            "at": [0.5],
            "image_encoder": str(models / "vit"),
            "clip": str(models / "clip"),
            "num_prompts": 2,
            "images_per_prompt": 1,
            "num_inference_steps": 1,
            "anchor_images": 2,
            "num_class_images": 2,
        },
        "resources": {"max_concurrent_runs": 2, "max_attempts": 50},
        "storage": {"ledger_url": ledger_url},
    }  # fmt: skip


def worker_group_content(models: Path, name: str, ledger_url: str | None = None) -> dict[str, Any]:
    """A study file: three runs, one after the other, that two workers train together, which take long to start."""
    usual = study_content(models, name, ledger_url)
    arms = {
        "small": {"method": "lora", "r": 2, "search_space": "fixed"},
        "large": {"method": "lora", "r": 4, "search_space": "fixed"},
        "full": usual["arms"]["full"],
    }
    resources = {"num_workers": 2, "cpus_per_worker": 1, "max_concurrent_runs": 1, "max_attempts": 50}
    confirm = {"subjects": ["cat"], "seeds": [100]}
    return {**usual, "arms": arms, "confirm": confirm, "resources": resources}


def few_content(models: Path, name: str, ledger_url: str | None = None) -> dict[str, Any]:
    """A study file: four runs, for a look at every day whether faults are overcome at all."""
    usual = study_content(models, name, ledger_url)
    arms = {arm: usual["arms"][arm] for arm in ("lora", "full")}
    return {**usual, "arms": arms, "confirm": {"subjects": ["cat"], "seeds": [100]}}


CONTENTS = {"usual": study_content, "worker_group": worker_group_content, "few": few_content}


def run_folders(storage: Storage) -> dict[str, Path]:
    """The folders of all runs that have begun, by name."""
    folders = sorted((storage.folder / "runs").glob("*/*/*"))
    return {"/".join(folder.parts[-3:]): folder for folder in folders if folder.is_dir()}


def fingerprint(folder: Path) -> dict[str, Any]:
    """What a run must come to, however often it was interrupted: state, scores and digest of its weights."""
    result = read_result(folder)
    weights = hashlib.sha256()
    for path in sorted((folder / "weights").rglob("*.safetensors")):
        weights.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    scores = result.evaluation if result else {}
    kept = {name: value for name, value in scores.items() if "seconds" not in name}
    return {"state": result.state if result else None, "weights": weights.hexdigest(), "scores": kept}


def end_marks(storage: Storage) -> dict[str, str]:
    """Digest of the result and of the event file of every run that has ended; none of them may ever change."""
    marks = {}
    for name, folder in run_folders(storage).items():
        if read_result(folder) is not None:
            both = (folder / "result.json").read_bytes() + (folder / "events.jsonl").read_bytes()
            marks[name] = hashlib.sha256(both).hexdigest()
    return marks
