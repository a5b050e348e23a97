"""Adapters that do not fit are refused with the reason, by `check` before anything starts and by `attach` unharmed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.helpers.tiny_families import change_json, make_tiny
from trainables.config.fields import ModelConfig
from trainables.errors import UserError
from trainables.methods.adapter_config import TARGET_PRESETS, AdapterConfig
from trainables.methods.adapter_kinds import KINDS
from trainables.methods.lora import LoraTrainingConfig
from trainables.methods.registry import get_method
from trainables.methods.targets import layers_in, targeted
from trainables.models.backbone import Backbone
from trainables.models.families import family_in

LORA = get_method("lora")
CONV = ["to_q", "conv1"]


def config_of(**fields: Any) -> AdapterConfig:
    return LoraTrainingConfig.model_validate({"oft_block_size": 8, **fields})


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"adapter": "oft", "target_modules": CONV}, "(Conv2d 3x3); name linear layers and 1x1 convolutions only"),
        ({"adapter": "oft", "target_modules": "attention_mlp_conv"}, "attention_mlp_conv: it matches "),
        ({"adapter": "oft", "target_modules": CONV}, "(adapter: oft)"),
        (
            {"train_text_encoder": True, "text_encoder_target_modules": "cross_attention"},
            "cross_attention: it matches no module of the text encoder",
        ),
        ({"init_lora_weights": "pissa", "target_modules": CONV}, "(init_lora_weights: pissa)"),
        ({"init_lora_weights": "olora", "target_modules": ["proj_in"]}, "(Conv2d 1x1); name linear layers only"),
        ({"init_lora_weights": "orthogonal", "target_modules": "attention_mlp_conv"}, "name linear layers only"),
        ({"adapter": "loha", "target_modules": ["to_qq"]}, "'to_qq' matches no module of the UNet"),
        ({"adapter": "lokr", "target_modules": ["norm1"]}, "name linear layers and convolutions only"),
        ({"r": 64}, "r: 64 is above the width of down_blocks.0.attentions.0.transformer_blocks.0"),
        ({"r": 64}, "take a rank of at most 16, or give such layers one of their own (rank_pattern)"),
        ({"adapter": "loha", "rank_pattern": {"to_q": 64}}, "r: 64 is above the width"),
        ({"adapter": "hra", "r": 64}, "take a rank of at most 16"),
        ({"r": 8, "target_modules": ["conv_out"]}, "(Conv2d 3x3, 144 inputs, 4 outputs)"),
        ({"r": 64, "train_text_encoder": True}, "in the text encoder"),
        ({"rank_pattern": {"to_qq": 4}}, "rank_pattern: 'to_qq' matches none of the 40 layers that get adapters"),
        ({"alpha_pattern": {"attn3.to_q": 4}}, "alpha_pattern: 'attn3.to_q' matches none"),
        ({"adapter": "oft", "oft_block_size": 24}, "oft_block_size: 24 does not divide the 16 inputs"),
        ({"adapter": "oft", "oft_block_size": 24}, "take one of 2, 4, 8, 16"),
        ({"adapter": "boft", "boft_block_size": 5}, "boft_block_size: 5 does not divide the"),
    ],
)  # fmt: skip
def test_it_is_refused_before_anything_starts(
    fields: dict[str, Any], told: str, models: Path, backbone: Backbone
) -> None:
    config, untouched = config_of(**fields), backbone.parameter_digest()
    problems = LORA.check(config, ModelConfig(path=str(models / "model")))
    assert told in "\n".join(problems)
    with pytest.raises(UserError) as error:
        LORA.attach(backbone, config, torch.Generator().manual_seed(0))
    assert list(error.value.problems) == problems
    assert backbone.parameter_digest() == untouched
    assert backbone.is_base_model()


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": "cross_attention"},
        {"target_modules": "attention_mlp_conv", "adapter": "boft"},
        {"adapter": "lokr", "r": 4096},  # a whole second factor
        {"adapter": "oft", "target_modules": ["to_q", "proj_in"]},
        {"init_lora_weights": "pissa"},
        {"adapter": "hra", "r": 64, "target_modules": ["conv1"]},
        {"r": 64, "rank_pattern": {".*": 4}},
        {"rank_pattern": {"q_proj": 2, "attn1.to_q": 3}, "train_text_encoder": True},
    ],
)
def test_what_fits_is_taken(fields: dict[str, Any], models: Path) -> None:
    assert LORA.check(config_of(**fields), ModelConfig(path=str(models / "model"))) == []


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_preset_of_layers_that_a_family_has_not_is_refused(name: str, tmp_path: Path) -> None:
    """`attn2` of Stable Diffusion 3.5-medium is a second attention of the image to itself."""
    folder = make_tiny(name, tmp_path / name)
    if name == "sd3":
        change_json(folder / "transformer" / "config.json", dual_attention_layers=[0])
        layers = layers_in(folder, family_in(folder).denoiser)
        assert targeted(TARGET_PRESETS["cross_attention"], layers, "convolutions")
    model = ModelConfig(path=str(folder))
    (problem,) = LORA.check(config_of(target_modules="cross_attention"), model)
    assert "target_modules: cross_attention means the attention from image to text" in problem
    assert "take attention or attention_mlp" in problem
    for sound in ("attention", ["add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]):
        assert LORA.check(config_of(target_modules=sound), model) == []


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_what_presets_reach_where_text_and_image_attend_jointly(name: str, tmp_path: Path) -> None:
    """As docs/methods.md says: the image's stream, and in blocks of one stream the projections."""
    folder = make_tiny(name, tmp_path / name)
    layers = layers_in(folder, family_in(folder).denoiser)
    image = {"attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.net.0.proj", "ff.net.2"}
    text = [
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
        "ff_context.net.0.proj",
        "ff_context.net.2",
    ]

    def reached(targets: Any, block: str) -> set[str]:
        found = targeted(targets, layers, "convolutions")
        return {path.split(".", 2)[2] for path in found if path.startswith(f"{block}.0.")}

    assert reached(TARGET_PRESETS["attention_mlp"], "transformer_blocks") == image
    assert {end.removeprefix("attn.") for end in reached(text, "transformer_blocks")} == set(text)
    if name == "flux":
        single = {"attn.to_q", "attn.to_k", "attn.to_v"}
        assert reached(TARGET_PRESETS["attention_mlp"], "single_transformer_blocks") == single
        assert reached(TARGET_PRESETS["attention_mlp_conv"], "single_transformer_blocks") == single | {
            "proj_out"
        }


def test_nothing_is_looked_up_for_what_fits_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study file is checked without torch, where its arms take what every model has."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a model is looked at")

    monkeypatch.setattr("trainables.models.folders.local_folder", refuse)
    for kind in KINDS:
        assert LORA.check(LoraTrainingConfig.model_validate({"adapter": kind, "r": 32}), ModelConfig()) == []
    with pytest.raises(AssertionError, match="a model"):
        LORA.check(config_of(r=64), ModelConfig())


def test_presets_mean_what_they_say(models: Path) -> None:
    family = family_in(models / "model")
    layers = layers_in(models / "model", family.denoiser)
    found = {name: targeted(value, layers, "convolutions") for name, value in TARGET_PRESETS.items()}
    cross, attention, mlp, full = (set(found[name]) for name in TARGET_PRESETS)
    assert cross < attention < mlp < full
    assert cross == {name for name in attention if ".attn2." in name}
    assert {name.split(".")[-1] for name in attention} == {"to_q", "to_k", "to_v", "0"}
    assert all(".ff.net." in name for name in mlp - attention)
    blocks = {name for name in layers if layers[name].width and name.split(".")[0].endswith("_blocks")}
    assert blocks - full == set()  # every layer of the UNet's blocks


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"init_lora_weights": False}, "take true, gaussian, orthogonal, pissa or olora"),
        ({"init_lora_weights": "orthogonal", "r": 3}, "needs an even r, got 3"),
        ({"init_lora_weights": "orthogonal", "r": 2, "rank_pattern": {"to_q": 5}}, "needs an even r, got 5"),
        ({"adapter": "hra", "r": 3}, "needs an even r, got 3"),
        ({"adapter": "dora", "init_lora_weights": "pissa"}, "pissa does not go with adapter: dora"),
        ({"loraplus_lr_ratio": 16, "optimizer": "prodigy"}, "estimates one for all; take optimizer: adamw"),
        ({"loraplus_lr_ratio": 0.5}, "greater than or equal to 1"),
        ({"decompose_factor": 0}, "must be -1 (near the square root) or at least 2, got 0"),
        ({"rank_pattern": {"to_(q": 4}}, "'to_(q' is neither the end of a module's name nor"),
        ({"rank_pattern": {"to_q": 0}}, "greater than or equal to 1"),
        ({"rank_pattern": 4}, "maps ends of modules' names to numbers, such as {to_q: 4}; got 4"),
        ({"adapter": "lora+"}, "Input should be 'lora', 'rslora', 'dora'"),
    ],
)
def test_what_contradicts_itself_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as error:
        config_of(**fields)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"adapter": "rslora", "r": 16, "lora_alpha": 8}, {"r": 16, "lora_alpha": 32}),
        ({"adapter": "rslora"}, {"use_rslora": True}),
        ({"adapter": "oft", "r": 4, "lora_alpha": 3}, {"adapter": "oft"}),
        ({"adapter": "ia3", "oft_block_size": 2}, {"adapter": "ia3"}),
        ({"decompose_factor": 4}, {}),
        ({"adapter": "loha", "init_lora_weights": "pissa"}, {"adapter": "loha"}),
    ],
)
def test_configurations_that_come_to_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = (LoraTrainingConfig.model_validate(each).effective() for each in (one, other))
    assert first == second


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"adapter": "dora"}, {}),
        ({"adapter": "loha"}, {"adapter": "lokr"}),
        ({"rank_pattern": {"to_q": 4}}, {"rank_pattern": {"to_q": 4}, "lora_alpha": 16}),
        ({"adapter": "oft", "use_cayley_neumann": False}, {"adapter": "oft"}),
        ({"loraplus_lr_ratio": 4}, {}),
    ],
)
def test_configurations_that_differ(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = (LoraTrainingConfig.model_validate(each).effective() for each in (one, other))
    assert first != second
    assert LoraTrainingConfig(adapter="rslora").effective(["r"])["use_rslora"]


def test_fields_of_other_kinds_are_told() -> None:
    config = config_of(adapter="oft", r=4)
    (problem,) = config.without_effect(["r", "oft_block_size"])
    assert problem == "r has no effect without adapter: lora or rslora or dora or loha or lokr or hra"


def test_patterns_are_written_and_read_again_in_their_order() -> None:
    config = config_of(rank_pattern={"attn1.to_q": 4, "to_q": 2})
    again = LoraTrainingConfig.model_validate(json.loads(config.model_dump_json()))
    assert again == config
    assert [again.rank_of(name) for name in ("a.attn1.to_q", "a.attn2.to_q", "a.to_k")] == [4, 2, 16]
