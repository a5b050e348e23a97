"""The presets that answer published comparisons: fair, apart from each other, and what they predict is so."""

from __future__ import annotations

import re
from itertools import combinations

import pytest
import torch
from diffusers import UNet2DConditionModel

from study.preflight.notes import study_notes
from study.spec.loading import load_study, preset_names, preset_path
from study.spec.study_spec import StudySpec
from trainables.config.fields import ModelConfig
from trainables.embedded.sprite_cast import cast_pictures
from trainables.methods.registry import BASE, get_method, method_config_class
from trainables.models.loading import load_backbone

SMALL = ("adapters", "lora-rank", "how-many-images", "character-methods", "scheduler-steps")
ON_SUBJECTS = SMALL[:4]
#: Small preset -> the same comparison on Stable Diffusion.
FULL = {**{name: f"{name}-full" for name in SMALL}, "lora-vs-dreambooth": "stable-diffusion"}


def class_of(subject: str) -> str:
    return subject.split("-")[0]


@pytest.mark.parametrize("name", SMALL)
def test_nothing_is_noted_but_how_small_a_difference_is_found(name: str) -> None:
    notes = study_notes(load_study(name))
    assert [note for note in notes if "smaller ones take more confirm subjects" not in note] == []
    assert len(notes) == (name in ("scheduler-steps", "character-methods", "how-many-images"))


@pytest.mark.parametrize("name", ON_SUBJECTS)
def test_each_subject_of_the_verdict_has_a_search_on_another_class(name: str) -> None:
    preset = load_study(name)
    search, confirm = preset.search.subjects or (), preset.confirm.subjects or ()
    assert preset.search.repeats == len(search) == len(confirm) == 8
    assert not {*search} & {*confirm}
    assert all(class_of(one) != class_of(other) for one, other in zip(search, confirm, strict=True))


def test_no_two_presets_share_a_subject() -> None:
    """Defaults are tuned by what earlier studies showed; a subject that decides has been seen by none of them."""
    subjects = {
        name: {subject.name for subject in load_study(name).subjects}
        for name in (*SMALL, "lora-vs-dreambooth", "methods", "captioned")
    }
    for one, other in combinations(subjects, 2):
        assert not subjects[one] & subjects[other], (one, other)


def test_prompts_put_one_and_two_characters_into_settings_that_no_training_caption_has() -> None:
    preset = load_study("scheduler-steps")
    prompts = [str(prompt) for prompt in preset.evaluation.prompts or ()]
    settings = [re.sub(r"^.*\{(other_)?character\} ", "", prompt) for prompt in prompts]
    assert len(settings) == 16
    assert sum("{other_character}" in prompt for prompt in prompts) == 8
    for subject in preset.subjects:
        pictures = cast_pictures(subject.name)
        trained = [picture.caption for picture in pictures if not picture.is_held_out]
        assert [setting for setting in settings if any(one.endswith(f" {setting}") for one in trained)] == []
        known = {word for caption in trained for word in caption.split()}
        assert {word for setting in settings for word in setting.split()} <= known, (
            "each part of them is known"
        )


@pytest.mark.parametrize("name", SMALL)
def test_arms_differ_in_nothing_but_what_is_compared(name: str) -> None:
    preset = load_study(name)
    factors = {
        "adapters": {"adapter"},
        "lora-rank": {"r"},
        "how-many-images": {"num_training_images", "r"},
        "character-methods": {"with_prior_preservation"},
        "scheduler-steps": {"lr_scheduler", "max_train_steps"},
    }[name]
    for arm in preset.arms.values():
        assert {*arm.fixed} <= factors | {"r"}
        assert not {"lr_scheduler", "train_batch_size", "lr_warmup_steps"} & {*arm.fixed} - factors
    assert [arm.method for arm in preset.arms.values()].count(BASE) == 1


@pytest.mark.parametrize("name", SMALL)
def test_trials_are_equal_and_begin_with_the_default(name: str) -> None:
    preset = load_study(name)
    by_method: dict[str, int] = {}
    for arm, spec in preset.arms.items():
        if spec.method == BASE or not spec.searched:
            continue
        family = "lora" if spec.method == "dreambooth_lora" else spec.method
        own = family if preset.search.trials_per_method else arm
        by_method[own] = by_method.get(own, 0) + preset.trials_of(arm)
        assert preset.trials_of(arm) >= 2
        default = preset.default_params(arm)
        assert default == {field: preset.method_fields(arm)[field] for field in default}, arm
    assert len({*by_method.values()}) == 1


@pytest.mark.parametrize(("small", "full"), FULL.items())
def test_the_full_size_variant_asks_the_same(small: str, full: str) -> None:
    one, other = load_study(small), load_study(full)

    def claims(preset: StudySpec) -> dict[str, str]:
        return {
            name: re.sub(r"[\d,]+|\(.*\)", "", hypothesis.claim)
            for name, hypothesis in preset.hypotheses.items()
        }

    def without_lengths(names: object) -> list[str]:
        return [re.sub(r"-\d+$", "", str(name)) for name in names]  # type: ignore[attr-defined]

    if small == "lora-vs-dreambooth":  # files are told in absolute sizes there
        assert {*claims(one)} <= {*claims(other)}
    else:
        assert claims(one) == claims(other)
    compared = (lambda names: without_lengths(names)) if small == "scheduler-steps" else list
    assert compared(one.arms) == compared(other.arms)
    assert one.search.repeats == other.search.repeats or full == "stable-diffusion"


@pytest.mark.parametrize("name", [*FULL, *FULL.values()])
def test_the_header_says_command_time_memory_and_cost(name: str) -> None:
    text = preset_path(name).read_text(encoding="utf-8")
    header = text[: text.index("\nname:")]
    assert f"study launch {name}" in header
    assert re.search(r"\d+ (minutes|GPU hours)", header)
    assert re.search(r"\d+ GB", header)
    assert re.search(r"cents|\d+ dollars", header)


@pytest.mark.parametrize("name", [*FULL, *FULL.values()])
def test_every_claim_has_a_source(name: str) -> None:
    assert [key for key, hypothesis in load_study(name).hypotheses.items() if not hypothesis.source] == []


def test_every_claim_has_a_preset() -> None:
    """Of the published comparisons, by words of each claim."""
    claims = " | ".join(
        hypothesis.claim for name in preset_names() for hypothesis in load_study(name).hypotheses.values()
    )
    for words in (
        "three times less memory",
        "10,000 times fewer",
        "trains faster",
        "overfits less",
        "changes unrelated images less",
        "generates in fewer steps",
        "generates faster",
        "higher subject fidelity",
        "more consistent",
        "only 3 to 5 images",
        "forgets the class without prior preservation",
        "joins",
        "slightly lower quality",
        "Textual inversion is the lightest",
        "weakest at a precise character",
        "DreamBooth trains longest",
        "cosine schedule with more training steps is best",
        "240,000 parameters",
        "830 times",
        "better than the base model",
        "as fast as the base model",
        "comes to what LoRA comes to",
    ):
        assert words in claims, words


def test_the_predicted_parameters_of_rank_eight_are_those_that_train() -> None:
    preset = load_study("lora-rank")
    predicted = next(one for one in preset.statements if one.name == "parameters-as-predicted")
    config = method_config_class("lora").model_validate(
        preset.method_config("rank-8", preset.default_params("rank-8"))
    )
    backbone = load_backbone(ModelConfig(), torch.device("cpu"))
    groups = get_method("lora").attach(backbone, config, torch.Generator().manual_seed(0))
    found = sum(value.numel() for group in groups for value in group["params"])
    assert predicted.expect.equal_to == found


def test_the_predicted_parameters_of_stable_diffusion_are_those_of_its_layers() -> None:
    preset = load_study("lora-rank-full")
    predicted = next(one for one in preset.statements if one.name == "parameters-as-predicted")
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
    layers = [
        layer
        for name, layer in unet.named_modules()
        if re.search(r"(attn\d\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))$", name)
        and isinstance(layer, torch.nn.Linear)
    ]
    assert len(layers) == 16 * (8 + 2)
    assert predicted.expect.equal_to == 8 * sum(layer.in_features + layer.out_features for layer in layers)
