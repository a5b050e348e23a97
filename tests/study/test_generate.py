"""`study generate` draws as a run was judged, whatever the model's folder names as sampler and resolution."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.support.tiny_models import make_photos
from study.generate import _after_trigger, draw_images
from study.storage.layout import Storage
from tests.helpers.tiny_families import RESOLUTION, add_contrast, make_tiny
from trainables.config.fields import ModelConfig
from trainables.errors import UserError
from trainables.models.loading import load_backbone
from trainables.models.sampling import generate
from trainables.run.execute import execute
from trainables.run_config import RunConfig

SIDE, STEPS, LEVELS = 2 * RESOLUTION, 3, 1.5
RUN = "confirm/base/0000-cat-s1"


@pytest.fixture(scope="module", params=["sd2", "sdxl"])
def judged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Storage]:
    """A model whose own sampler and resolution are others than those of a run on it, and that run."""
    place = tmp_path_factory.mktemp("generate")
    folder = add_contrast(make_tiny(request.param, place / request.param))
    storage = Storage(place / "storage", "drawn")
    config = {
        "method": "base",
        "model": {"path": str(folder)},
        "subject": {
            "name": "cat",
            "images": str(make_photos(place / "photos", count=3)),
            "instance_prompt": "a sks cat",
            "class_prompt": "a cat",
            "holdout": 1,
        },
        "training": {"resolution": SIDE},
        "evaluation": {
            "prompts": ["{subject}"],
            "images_per_prompt": 1,
            "num_inference_steps": STEPS,
            "guidance_scale": 2.0,
            "anchor_images": 2,
            "num_class_images": 2,
        },
        "device": "cpu",
        "output_dir": str(storage.folder / "runs" / RUN),
        "cache_dir": str(place / "cache"),
    }
    list(execute(RunConfig.model_validate(config)))
    result = json.loads((storage.folder / "runs" / RUN / "result.json").read_text())
    assert result["state"] == "COMPLETE", result
    return folder, storage


def drawn(judged: tuple[Path, Storage], out: Path, **options: Any) -> np.ndarray[Any, Any]:
    paths = draw_images(judged[1], RUN, ["{subject} in the snow"], out, count=2, seed=5, **options)
    return np.stack([np.asarray(Image.open(path)) for path in paths]).astype(float)


def test_images_are_drawn_as_those_that_were_judged(judged: tuple[Path, Storage], tmp_path: Path) -> None:
    backbone = load_backbone(ModelConfig(path=str(judged[0])))
    expected = generate(
        backbone,
        ["a sks cat in the snow"] * 2,
        seeds=[5, 6],
        num_inference_steps=STEPS,
        guidance_scale=2.0,
        resolution=SIDE,
    )
    images = drawn(judged, tmp_path / "out")
    assert images.shape == (2, SIDE, SIDE, 3)
    assert images.std() > 30
    assert np.abs(images - np.stack([np.asarray(image) for image in expected])).max() <= LEVELS


def test_steps_and_guidance_may_be_others(judged: tuple[Path, Storage], tmp_path: Path) -> None:
    images = drawn(judged, tmp_path / "out")
    again = drawn(judged, tmp_path / "again", steps=STEPS, guidance=2.0)
    assert np.array_equal(images, again)
    for number, options in enumerate(({"steps": STEPS + 3}, {"guidance": 6.0})):
        assert np.abs(images - drawn(judged, tmp_path / str(number), **options)).max() > 4 * LEVELS


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a {subjct} on a beach", "unknown placeholder {subjct}; did you mean {subject}? {subject}, the run's"),
        ("{ subject } on a beach", "unknown placeholder { subject }; did you mean {subject}? "),
        ("{Subject}", "unknown placeholder {Subject}; did you mean {subject}? "),
        ("{subject} in {place}", "unknown placeholder {place}; {subject}, the run's instance prompt, is the only one"),
    ],
)  # fmt: skip
def test_a_placeholder_that_nothing_is_put_for_is_told_before_anything_is_looked_up(
    prompt: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as told:
        draw_images(Storage(tmp_path / "none", "none"), "none", ["{subject}", prompt], tmp_path / "out")
    (problem,) = told.value.problems
    assert said in problem
    assert repr(prompt) in problem
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("prompt", ["{subject}", "a {} b", "{red|green} ball", "{1} {a b}", "{{x: 1}}"])
def test_other_braces_are_the_prompts_own(prompt: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run") as told:  # there is none: the prompt was let through
        draw_images(Storage(tmp_path / "none", "none"), "none", [prompt], tmp_path / "out")
    assert "placeholder" not in str(told.value)


def test_of_a_data_set_the_trigger_stands_before_a_caption() -> None:
    prompts = [
        "{subject}momo the cat",
        "{subject}, momo the cat",
        "{subject} momo, ",
        "a cat, {subject}",
        "{subject}",
        "a cat, ",
    ]
    assert _after_trigger(prompts, "ink style, ") == [
        "ink style, momo the cat",
        "ink style, momo the cat",
        "ink style, momo, ",
        "a cat, ink style",
        "ink style",
        "a cat, ",
    ]
    assert _after_trigger(prompts[:2], "") == ["momo the cat", "momo the cat"]
