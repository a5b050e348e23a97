"""Runs that taught a word beside weights: what cards tell users of each program, and images at several strengths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from study.export.files import export_run
from study.generate import draw_images
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


@pytest.mark.parametrize("method", METHODS)
def test_the_weights_beside_a_word_have_a_strength(method: str, storage: Storage, tmp_path: Path) -> None:
    prompts = ["{subject} in the snow"]
    (plain,) = draw_images(storage, run_of(method), prompts, tmp_path / "plain", count=1)
    draw_images(storage, run_of(method), prompts, tmp_path / "out", count=1, strengths=(0.0, 0.5, 1.0))
    none, half, whole = (pixels(tmp_path / "out" / f"00-00-s{s}.png") for s in ("0", "0.5", "1"))
    assert np.abs(whole - pixels(plain)).max() <= 1  # of 255: merged weights round
    assert np.abs(whole - none).max() > 20
    assert min(np.abs(half - none).max(), np.abs(half - whole).max()) > 5


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)
