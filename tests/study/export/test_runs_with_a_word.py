"""Runs that taught a word beside weights: what cards tell users of each program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.export.files import export_run
from study.storage.layout import Storage
from tests.helpers.short_runs import config_of
from trainables.methods.exporting import Format
from trainables.run.execute import execute
from trainables.run_config import RunConfig

METHODS: dict[str, dict[str, Any]] = {
    "pivotal_tuning": {"r": 2, "learning_rate": 0.1, "placeholder_token": "<my-cat>"},
    "custom_diffusion": {"learning_rate": 0.1, "placeholder_token": "<my-cat>", "with_prior_preservation": False},
}  # fmt: skip


def run_of(method: str) -> str:
    return f"confirm/{method.replace('_', '-')}/0000-cat-1-s1"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    found = Storage(tmp_path_factory.mktemp("words") / "storage", "mine")
    for method, fields in METHODS.items():
        run = run_of(method)
        training = {"max_train_steps": 4, "train_batch_size": 1, "num_vectors": 2, **fields}
        content = config_of(found.runs / run).model_dump(mode="json")
        list(execute(RunConfig.model_validate({**content, "method": method, "training": training})))
        assert json.loads((found.runs / run / "result.json").read_text())["state"] == "COMPLETE"
    (found.folder / "study.json").write_text("{}")
    return found


@pytest.mark.parametrize(
    ("form", "trigger"),
    [
        ("a1111", "a my-cat cat"),
        ("kohya", "a my-cat cat"),
        ("comfyui", "a embedding:mine-pivotal-tuning-0000-cat-1-s1 cat"),
        ("diffusers", "a <my-cat> cat"),
        ("merged", "a <my-cat> cat"),
    ],
)
def test_a_card_says_what_prompts_of_the_program_hold(
    form: Format, trigger: str, storage: Storage, tmp_path: Path
) -> None:
    export_run(storage, run_of("pivotal_tuning"), form, tmp_path / "out")
    _, front, body = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["instance_prompt"] == trigger
    assert f"Prompts say `{trigger}`." in body
