"""Studies with a downstream phase for tests: a folder of tiny images with classes, few cells, few seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from study.spec.loading import load_study
from study.spec.study_spec import StudySpec
from tests.helpers.class_folders import class_folder

SECTION: dict[str, Any] = {
    "classifiers": ["small_cnn"],
    "learning_rates": [0.001, 0.01],
    "optimizers": ["adam"],
    "trials": 2,
    "seeds": [0, 1],
    "generator_seeds": [100, 101],
    "max_train_steps": 4,
    "validation_steps": 2,
    "train_batch_size": 4,
    "resolution": 32,
    "num_inference_steps": 2,
    "ratios": [1, "balance"],
}


def study_file(folder: Path, data: Path | str | dict[str, Any], **section: Any) -> Path:
    """Writes a study of one LoRA arm; fields of `section` replace those of `SECTION`, None leaves one out."""
    stated = {"dataset": data if isinstance(data, dict) else str(data), **SECTION, **section}
    content = {
        "name": "classes",
        "arms": {"lora": {"method": "lora", "search_space": "fixed"}},
        "budget": {"max_train_steps": 2},
        "training": {"lr_warmup_steps": 0, "train_batch_size": 1},
        "evaluation": {
            "num_prompts": 2,
            "images_per_prompt": 1,
            "num_class_images": 2,
            "num_inference_steps": 2,
            "anchor_images": 2,
        },
        "downstream": {name: value for name, value in stated.items() if value is not None},
    }
    path = folder / "study.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def downstream_study(folder: Path, **section: Any) -> StudySpec:
    """A study of three classes, one of them rare."""
    data = folder / "data"
    if not data.exists():
        class_folder(data, {"cat": 12, "dog": 12, "owl": 6})
    return load_study(study_file(folder, data, **section))
