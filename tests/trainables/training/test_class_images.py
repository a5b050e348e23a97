"""Class images are charged in full to each run that uses them, whichever run has made them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.helpers.training_runs import RESOLUTION, MakeConfig
from trainables.config.fields import TrainingConfig
from trainables.data.cache import Cache
from trainables.models.backbone import Backbone
from trainables.models.sampling import generate
from trainables.run.execute import execute
from trainables.run.resident import Resident
from trainables.training import class_images
from trainables.training.class_images import make_class_images
from trainables.training.meter import Meter
from trainables.util.flops import count_flops

FIELDS: dict[str, Any] = {"num_class_images": 16, "class_num_inference_steps": 3}


def cost_of(folder: str) -> dict[str, Any]:
    cost: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text())["cost"]
    return cost


def test_the_run_that_finds_them_pays_what_the_one_that_made_them_pays(
    make_config: MakeConfig, resident: Resident, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, delay = class_images.generate, 0.2

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(delay)
        return original(*arguments, **options)

    monkeypatch.setattr(class_images, "generate", slow)
    cache = str(tmp_path / "cache")
    costs = {}
    for name, method, prior in (
        ("first", "dreambooth", True),
        ("second", "lora", True),
        ("none", "lora", False),
    ):
        config = make_config(method, name, with_prior_preservation=prior, **FIELDS)
        list(execute(config.model_copy(update={"cache_dir": cache}), resident))
        costs[name] = cost_of(config.output_dir)
    first, second, none = costs["first"], costs["second"], costs["none"]
    assert first["class_image_seconds"] == second["class_image_seconds"] >= delay
    assert first["class_image_flops"] == second["class_image_flops"] > 0
    assert (none["class_image_seconds"], none["class_image_flops"]) == (0, 0)
    # Made in the first run's preparation, which took at least three delays more (one to draw, two to count).
    assert first["preparation_seconds"] < 2 * delay + second["preparation_seconds"]


@pytest.mark.parametrize("guidance", [0.0, 3.0])
def test_their_flops_are_those_of_making_them(backbone: Backbone, tmp_path: Path, guidance: float) -> None:
    """Counted on one image and one step, and scaled."""
    training = TrainingConfig(class_guidance_scale=guidance, **FIELDS)
    made = make_class_images(backbone, Cache(tmp_path), "a cat", training, RESOLUTION)
    whole = count_flops(
        lambda: generate(
            backbone,
            ["a cat"] * 16,
            seeds=range(16),
            num_inference_steps=3,
            guidance_scale=guidance,
            resolution=RESOLUTION,
        )
    )
    assert made.flops == whole
    half = make_class_images(
        backbone, Cache(tmp_path), "a cat", training.model_copy(update={"num_class_images": 8}), RESOLUTION
    )
    assert half.flops == whole // 2
    assert half.seconds == pytest.approx(made.seconds / 2)


def test_each_class_has_noise_of_its_own(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One lucky draw for all classes would be taken for an effect of prior preservation."""
    original, seeds = class_images.generate, {}

    def noted(backbone: Backbone, prompts: list[str], **options: Any) -> Any:
        seeds.setdefault(prompts[0], set()).update(options["seeds"])
        return original(backbone, prompts, **options)

    monkeypatch.setattr(class_images, "generate", noted)
    for prompt in ("a cat", "a dog"):
        make_class_images(backbone, Cache(tmp_path), prompt, TrainingConfig(**FIELDS), RESOLUTION)
    assert [len(found) for found in seeds.values()] == [16, 16]
    assert not seeds["a cat"] & seeds["a dog"]


def test_seconds_of_another_device_are_not_charged(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a faster GPU took is no cost of a run on a slower one: each kind of device makes its own."""
    made = []
    monkeypatch.setattr(
        class_images, "generate", lambda *_, **__: made.append(1) or [Image.new("RGB", (16, 16))] * 16
    )
    monkeypatch.setattr(class_images, "count_drawing", lambda *_: 1)
    for name in ("NVIDIA T4", "NVIDIA H100", "NVIDIA T4"):
        monkeypatch.setattr(class_images, "device_name", lambda _, name=name: name)
        make_class_images(backbone, Cache(tmp_path), "a cat", TrainingConfig(**FIELDS), RESOLUTION)
    assert len(made) == 2


def test_a_phase_inside_another_counts_once() -> None:
    meter = Meter(torch.device("cpu"), 1)
    with meter.measure("prepare"):
        time.sleep(0.05)
        with meter.measure("class_images"):
            time.sleep(0.2)
    with meter.measure("prepare"):
        time.sleep(0.05)
    assert 0.2 <= meter.seconds["class_images"] < 0.3
    assert 0.1 <= meter.seconds["prepare"] < 0.2
