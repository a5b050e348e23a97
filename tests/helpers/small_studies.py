"""Studies for the tests of search and execution: few steps, run by the fake runner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from study.spec.study_spec import StudySpec
from study.storage.layout import MLFLOW_DB, Storage
from study.storage.planned_run import PlannedRun
from study.storage.run_key import RunKey
from study.storage.run_result import RunResult, read_result
from tests.helpers.mlflow_stores import copied_template
from trainables.events import read_events

RUNNER = "tests.helpers.fake_runner:execute"
RESIDENT = "tests.helpers.fake_runner:FakeResident"

SPACE = {
    "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "r": {"type": "categorical", "choices": [2, 4, 8]},
}


def small_study(name: str = "small", *, arms: dict[str, Any] | None = None, **sections: Any) -> StudySpec:
    """Two arms to search and the base model; each section may be replaced field by field."""
    chosen = arms or {
        "base": {"method": "base"},
        "cosine": {"method": "lora", "lr_scheduler": "cosine", "search_space": SPACE},
        "constant": {"method": "lora", "lr_scheduler": "constant", "search_space": SPACE},
    }
    content: dict[str, Any] = {
        "name": name,
        "subjects": ["cat-1", "dog-1"],
        "arms": chosen,
        "search": {"trials": 3, "subjects": ["cat-1"], "seeds": [0], "sampler": "tpe"},
        "confirm": {"subjects": ["dog-1"], "seeds": [100, 101]},
        "budget": {"max_train_steps": 8},
        "evaluation": {"at": [0.5]},
    }
    for section, fields in sections.items():
        merged = isinstance(fields, dict)
        content[section] = {**content.get(section, {}), **fields} if merged else fields
    return StudySpec.model_validate(content)


def storage_of(folder: Path, spec: StudySpec, rules: dict[str, Any] | None = None) -> Storage:
    """The study's storage under `folder`: the fake runner's rules, and an empty MLflow store, as making one is slow."""
    storage = Storage(folder, spec.name)
    if not (storage.root / MLFLOW_DB).exists():
        copied_template(storage.root)
    storage.cache.mkdir(parents=True, exist_ok=True)
    (storage.cache / "fake.json").write_text(json.dumps({"": {"step_seconds": 0.005}, **(rules or {})}))
    return storage


def run_folders(storage: Storage) -> dict[RunKey, Path]:
    """All run folders of a study."""
    folders = sorted((storage.folder / "runs").glob("*/*/*"))
    return {RunKey.parse("/".join(folder.parts[-3:])): folder for folder in folders if folder.is_dir()}


def results(storage: Storage) -> dict[RunKey, RunResult | None]:
    """The result of every run folder."""
    return {key: read_result(folder) for key, folder in run_folders(storage).items()}


def attempts_of(folder: Path) -> list[int]:
    """The step from which each attempt went on."""
    return [event.data["resumed_step"] for event in read_events(folder) if event.kind == "started"]


class Names:
    """A listener that remembers what it was told."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def watch(self, run: PlannedRun) -> None:
        self.names.append(run.key.name)

    def close(self) -> None:
        pass
