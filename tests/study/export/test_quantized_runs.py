"""Runs over quantised weights: drawn with the codes, exported for the model's own weights, and said to be such."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from study.export.files import export_run
from study.generate import draw_images
from study.storage.layout import Storage
from tests.helpers.short_runs import config_of
from trainables.config.fields import ModelConfig
from trainables.embedded import GENERATOR
from trainables.events import read_events
from trainables.run.execute import execute
from trainables.run_config import RunConfig

pytest.importorskip("bitsandbytes")

RUN = "confirm/lora-x/0000-cat-1-s1"
PROMPTS = ["{subject} in the snow"]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    found = Storage(tmp_path_factory.mktemp("quantised") / "storage", "mine")
    config = config_of(found.runs / RUN, learning_rate=0.3)
    model = ModelConfig(quantization="4bit")
    list(execute(RunConfig.model_validate({**config.model_dump(mode="json"), "model": model.model_dump()})))
    assert json.loads((found.runs / RUN / "result.json").read_text())["state"] == "COMPLETE"
    (found.folder / "study.json").write_text("{}")
    return found


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_images_are_drawn_with_the_codes(storage: Storage, tmp_path: Path) -> None:
    (plain,) = draw_images(storage, RUN, PROMPTS, tmp_path / "plain", count=1)
    draw_images(storage, RUN, PROMPTS, tmp_path / "turned", count=1, strengths=(0.0, 1.0))
    whole, none = (pixels(tmp_path / "turned" / f"00-00-s{s}.png") for s in ("1", "0"))
    assert np.abs(whole - pixels(plain)).max() <= 1  # of 255: merged weights round
    assert np.abs(whole - none).max() > 20


def test_merged_weights_are_the_models_own_and_the_change(storage: Storage, tmp_path: Path) -> None:
    export_run(storage, RUN, "merged", tmp_path / "merged")
    file = "unet/diffusion_pytorch_model.safetensors"
    base, merged = load_file(Path(GENERATOR) / file), load_file(tmp_path / "merged" / file)
    assert base.keys() == merged.keys()
    changed = {name for name, value in base.items() if not value.float().equal(merged[name])}
    assert changed
    assert all(name.endswith(".weight") for name in changed)
    kept = [name for name in base if ".norm" in name or ".conv" in name or "time_emb" in name]
    assert kept
    assert not changed & set(kept)
    down = load_file(storage.runs / RUN / "weights" / "pytorch_lora_weights.safetensors")
    name = next(key for key in down if key.endswith("to_q.lora_A.weight")).removesuffix(".lora_A.weight")
    change = down[f"{name}.lora_B.weight"] @ down[f"{name}.lora_A.weight"]
    key = f"{name.removeprefix('unet.')}.weight"
    np.testing.assert_allclose(merged[key].float(), base[key].float() + change, atol=1e-5)


def test_the_card_and_the_record_say_it(storage: Storage, tmp_path: Path) -> None:
    export_run(storage, RUN, "peft", tmp_path / "peft")
    assert '| base_model_quantization | "4bit" |' in (tmp_path / "peft" / "README.md").read_text()
    started = next(event for event in read_events(storage.runs / RUN) if event.kind == "started")
    assert "bitsandbytes" in started.data["versions"]
    assert json.loads((storage.runs / RUN / "run.json").read_text())["model"]["quantization"] == "4bit"
