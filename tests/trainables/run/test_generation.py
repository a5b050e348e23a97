"""What a run draws for classifiers: by which it is decided, that it is drawn once, charged alike, and of what it is
compared with.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from study.remote.inputs import named_folders
from tests.helpers.class_folders import class_folder
from tests.helpers.training_runs import MakeConfig
from trainables.config.class_data import ClassDataConfig
from trainables.config.generation import IMAGES_AT_ONCE, GenerationConfig
from trainables.data import images as image_files
from trainables.data.cache import Cache
from trainables.data.generated_images import pack_pictures, read_entry
from trainables.embedded.graded_lesions import further_pictures
from trainables.errors import UserError
from trainables.evaluation.encoders import load_metric_models
from trainables.evaluation.generated_classes import measure_class
from trainables.evaluation.prepared_classes import PreparedClasses, prepare_classes
from trainables.events import Event, read_events
from trainables.run import generation
from trainables.run.execute import execute
from trainables.run.resident import Resident
from trainables.run_config import RunConfig, config_digest

Generating = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedClasses:
    folder = tmp_path_factory.mktemp("classes")
    class_folder(folder / "photos", {"ill": 12, "well": 12})
    return prepare_classes(ClassDataConfig(path=str(folder / "photos")), folder=folder / "prepared")


@pytest.fixture
def generating(make_config: MakeConfig, prepared: PreparedClasses) -> Generating:
    """Makes a short run that draws images of the class "ill"; keyword arguments are fields of the generation."""

    def make(method: str = "lora", folder: str = "run", seed: int = 0, **fields: Any) -> RunConfig:
        settings = {
            "prompts": {"ill": "a sks cat"},
            "images": {"ill": 3},
            "guidance_scale": 3.0,
            "num_inference_steps": 1,
            "classes": str(prepared.folder),
            **fields,
        }
        config = make_config(method, folder, seed=seed, max_train_steps=2, checkpointing_steps=2)
        return config.model_copy(update={"generation": GenerationConfig.model_validate(settings)})

    return make


def told(config: RunConfig) -> list[Event]:
    return [event for event in read_events(Path(config.output_dir)) if event.kind == "generated"]


def cost_of(config: RunConfig) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((Path(config.output_dir) / "result.json").read_text())
    assert result["state"] == "COMPLETE", result
    cost: dict[str, Any] = result["cost"]
    return cost


def drawn(config: RunConfig, label: str = "ill") -> list[Image.Image]:
    event = next(event for event in told(config) if event.data["label"] == label)
    cache = Cache(config.cache_dir)
    images = [image for name in event.data["entries"] for image in read_entry(cache, name)]
    return images[: event.data["images"]]


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keeps the first prompt of each entry that is drawn (and not of the few images that are counted)."""
    original, calls = generation.generate, []

    def generate(backbone: Any, prompts: Any, **options: Any) -> Any:
        if len(prompts) == IMAGES_AT_ONCE:
            calls.append(prompts[0])
        return original(backbone, prompts, **options)

    monkeypatch.setattr(generation, "generate", generate)
    return calls


# ------------------------------------------------------------------ records and identity


def test_records_and_digests_of_runs_that_draw_nothing_are_what_they_were(make_config: MakeConfig) -> None:
    config = make_config("lora")
    content = config.model_dump(mode="json")
    assert "generation" not in content
    assert config_digest(content | {"generation": None}) == config.digest()
    assert RunConfig.model_validate(content | {"generation": None}) == config


def test_what_is_drawn_is_part_of_the_identity_and_the_folder_of_classes_is_not(
    generating: Generating,
) -> None:
    config = generating()
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
    assert config.digest() == generating(classes="/elsewhere").digest() == generating(classes=None).digest()
    others = [
        generating(images={"ill": 4}), generating(negative_prompt="blurred"), generating(guidance_scale=4.0),
        generating(num_inference_steps=2), generating(prompts={"ill": "a cat"}),
        config.model_copy(update={"generation": None}),
    ]  # fmt: skip
    assert len({one.digest() for one in [config, *others]}) == 1 + len(others)


def test_the_folder_of_classes_is_one_that_a_run_names(generating: Generating) -> None:
    assert "/elsewhere" in named_folders(generating(classes="/elsewhere"))


# ------------------------------------------------------------------ what is drawn


def test_a_run_leaves_its_images_a_picture_of_them_and_what_they_are_measured_by(
    generating: Generating, resident: Resident, prepared: PreparedClasses
) -> None:
    config = generating(prompts={"ill": "a sks cat", "well": "a cat"}, images={"ill": 3, "well": 0})
    events = list(execute(config, resident))
    ill, well = told(config)
    assert (ill.step, well.step) == (2, 2)
    assert well.data["images"] == 0
    assert well.data["entries"] == []
    assert (ill.data["label"], ill.data["prompt"], ill.data["images"]) == ("ill", "a sks cat", 3)
    assert all(name.startswith("generated/") for name in ill.data["entries"])
    count = min(3, prepared.counts["train"]["ill"])
    assert ill.data["vendi_images"] == count
    assert 1 <= ill.data["vendi_alike"] <= count
    assert 1 <= ill.data["vendi_real"] <= count
    assert ill.data["memorisation"] == 0
    assert "grade_agreement" not in ill.data
    picture = next(event.data for event in events if event.data.get("key") == "generated/ill")
    with Image.open(Path(config.output_dir) / picture["path"]) as image:
        assert image.size[0] > 0
    phases = [event.data for event in events if event.kind == "phase"]
    assert phases[-2:] == [{"name": "generate"}, {"name": "generate", "label": "ill", "images": 3}]
    cost = cost_of(config)
    assert (cost["generate_seconds"], cost["generate_flops"]) == (ill.data["seconds"], ill.data["flops"])
    assert cost["generate_flops"] > 0
    assert pixels(drawn(config)).shape == (3, 16, 16, 3)


def test_runs_that_draw_nothing_report_no_cost_of_it(make_config: MakeConfig, resident: Resident) -> None:
    config = make_config("base")
    events = list(execute(config, resident))
    assert not [name for name in cost_of(config) if name.startswith("generate_")]
    assert not {"generated", "generate"} & {event.kind for event in events}


def test_an_image_depends_on_seed_class_and_number_alone(
    generating: Generating, resident: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base model, so that nothing else of a run differs; in batches of another size images differ by rounding."""
    monkeypatch.setattr(generation, "IMAGES_AT_ONCE", 2)
    few = generating("base", "few", images={"ill": 3})
    list(execute(few, resident))
    monkeypatch.setattr(generation, "IMAGES_AT_ONCE", 4)
    both = {"ill": "a sks cat", "well": "a sks cat"}
    more = generating("base", "more", prompts=both, images={"ill": 5, "well": 5})
    other = generating("base", "other", seed=1)
    for config in (more, other):
        list(execute(config, resident))
    assert abs(pixels(drawn(more))[:3] - pixels(drawn(few))).max() <= 1
    assert abs(pixels(drawn(more, "well")) - pixels(drawn(more))).max() > 5
    assert abs(pixels(drawn(other)) - pixels(drawn(few))).max() > 5
    assert len({image.tobytes() for image in drawn(more)}) == 5
    assert told(few)[0].data["prompt"] == "a cat"  # it was not taught the rare token


def test_a_negative_prompt_changes_images_and_is_in_their_identity(
    generating: Generating, resident: Resident
) -> None:
    configs = [
        generating("base", f"run-{number}", negative_prompt=text)
        for number, text in enumerate((None, "a dog in the snow", "a red teapot"))
    ]
    for config in configs:
        list(execute(config, resident))
    assert len({told(config)[0].data["entries"][0] for config in configs}) == 3
    assert len({pixels(drawn(config)).tobytes() for config in configs}) == 3


# ------------------------------------------------------------------ once, and charged alike


def test_what_is_there_is_not_drawn_again_and_is_charged_alike(
    generating: Generating, resident: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counting(monkeypatch)
    first, second = generating(folder="first", seed=7), generating(folder="second", seed=7)
    fewer = generating(folder="fewer", seed=7, images={"ill": 1})
    for config in (first, second, fewer):
        list(execute(config, resident))
    assert len(calls) == 1
    assert told(first)[0].data == told(second)[0].data
    for name in ("generate_seconds", "generate_flops"):
        assert cost_of(first)[name] == cost_of(second)[name] > 0
        assert cost_of(fewer)[name] == pytest.approx(cost_of(first)[name] / 3, rel=1e-6)
    assert told(fewer)[0].data["entries"] == told(first)[0].data["entries"]


def test_another_training_draws_other_images(generating: Generating, resident: Resident) -> None:
    first = generating(folder="first")
    other = first.model_copy(
        update={
            "training": first.training.model_copy(update={"learning_rate": 0.01}),
            "output_dir": str(Path(first.output_dir).with_name("other")),
        }
    )
    for config in (first, other):
        list(execute(config, resident))
    assert told(first)[0].data["entries"] != told(other)[0].data["entries"]
    assert (pixels(drawn(first)) != pixels(drawn(other))).any()


def test_a_run_can_be_interrupted_between_the_entries_of_a_class(
    generating: Generating, resident: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counting(monkeypatch)
    config = generating("base", seed=5, images={"ill": 2 * IMAGES_AT_ONCE})
    events = execute(config, resident)
    for event in events:
        if event.data.get("images") == IMAGES_AT_ONCE:
            break
    assert len(calls) == 1
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt())
    list(execute(config, resident))
    assert len(calls) == 2
    assert len(set(told(config)[0].data["entries"])) == 2
    assert len(drawn(config)) == told(config)[0].data["images"] == 2 * IMAGES_AT_ONCE


@pytest.mark.parametrize("method", ["base", "lora", "dreambooth"])
def test_a_run_that_is_interrupted_while_it_draws_ends_with_the_same_entries(
    method: str, generating: Generating, resident: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"prompts": {"ill": "a sks cat", "well": "a cat"}, "images": {"ill": 2, "well": 2}}
    cut, whole = generating(method, "cut", seed=3, **fields), generating(method, "whole", seed=3, **fields)
    calls = counting(monkeypatch)
    events = execute(cut, resident)
    for event in events:
        if event.kind == "generated":
            break
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt())
    list(execute(cut, resident))
    assert len(calls) == 2  # each class once
    shutil.copytree(cut.cache_dir, Path(cut.output_dir).with_name("kept"))
    shutil.rmtree(Path(cut.cache_dir) / "generated")
    list(execute(whole, resident))
    assert len(calls) == 4
    ours, theirs = [event.data for event in told(cut)], [event.data for event in told(whole)]
    assert [one["entries"] for one in ours] == [one["entries"] for one in theirs]
    assert [one["label"] for one in ours] == ["ill", "well"]
    timed = ("seconds",)
    assert [{k: v for k, v in one.items() if k not in timed} for one in ours] == [
        {k: v for k, v in one.items() if k not in timed} for one in theirs
    ]
    assert cost_of(cut)["generate_flops"] == cost_of(whole)["generate_flops"]
    again = cut.model_copy(update={"cache_dir": str(Path(cut.output_dir).with_name("kept"))})
    assert (pixels(drawn(again)) == pixels(drawn(whole))).all()


# ------------------------------------------------------------------ real images


def test_copies_of_training_images_are_counted(prepared: PreparedClasses) -> None:
    encoder = load_metric_models().image_encoder
    real = [image_files.read_image(path) for path in sorted(prepared.images_of("train", "ill").glob("*.png"))]
    found = measure_class(
        "ill", [real[0], Image.new("RGB", (64, 64), "green"), real[1], real[1]], real, encoder
    )
    assert found["memorisation"] == 0.75
    assert found["vendi_images"] == 4
    assert found["vendi_alike"] < found["vendi_real"]


def test_grades_are_read_off_pictures_of_graded_lesions() -> None:
    encoder = load_metric_models().image_encoder
    shown = [
        one.draw()
        for score, count in ((1, 1), (4, 3))
        for one in further_pictures("graded-lesions", score, count)
    ]
    shown.append(Image.new("RGB", (64, 64), "white"))
    larger = [image.resize((128, 128), Image.Resampling.NEAREST) for image in shown]
    for images in (shown, larger):
        found = measure_class("score-4", images, (), encoder, "graded-lesions")
        assert found["grade_seen"] == [1, 0, 0, 3, 1]
        assert found["grade_agreement"] == 0.6
    assert "grade_seen" not in measure_class("score-4", shown, (), encoder, "digits")


# ------------------------------------------------------------------ what cannot be


def test_all_that_is_wrong_is_told_before_training(generating: Generating, resident: Resident) -> None:
    config = generating(
        "textual_inversion",
        prompts={"sick": "a dog"},
        images={"sick": 1},
        guidance_scale=1.0,
        negative_prompt="x",
    )
    events = list(execute(config, resident))
    message = events[-1].data["message"]
    assert events[-1].data["state"] == "FAIL"
    for part in (
        "negative_prompt has no effect at guidance_scale 1",
        "no class 'sick'",
        "'a dog' does not hold",
    ):
        assert part in message
    assert "progress" not in {event.kind for event in events}


def test_prompts_that_the_model_does_not_read_to_the_end_are_refused(
    generating: Generating, resident: Resident
) -> None:
    long = "a sks cat " + "and a very red teapot " * 20
    events = list(
        execute(generating("base", prompts={"ill": long}, negative_prompt="blurred " * 90), resident)
    )
    message = events[-1].data["message"]
    assert events[-1].data["state"] == "FAIL"
    assert message.count("is lost; shorten it") == 2


def test_classes_have_prompts_and_numbers() -> None:
    with pytest.raises(ValidationError, match="name the same classes in both"):
        GenerationConfig(prompts={"ill": "a cat"}, images={"well": 1})


def test_entries_that_are_gone_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="generated images"):
        read_entry(Cache(tmp_path), "generated/none.safetensors")
    assert list(pack_pictures([Image.new("L", (2, 2))])) == ["png_0"]
