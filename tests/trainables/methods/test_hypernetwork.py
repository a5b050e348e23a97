"""The method hypernetwork: ten steps against plain torch, its fields, and what `check` and `attach` refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from pydantic import ValidationError
from transformers import CLIPTextModel, CLIPTokenizer

from tests.helpers.training_runs import MakeConfig, MakeTrainer
from trainables.config.fields import ModelConfig
from trainables.errors import UserError
from trainables.methods.fit import check_fit
from trainables.methods.hypernetwork import METHOD, HypernetworkConfig
from trainables.models.backbone import Backbone
from trainables.run.checks import check_run
from trainables.training.loop import Trainer, train_step

Parameters = dict[str, torch.Tensor]
STEPS, RATE, DECAY, CLIP, EPSILON, PRIOR_WEIGHT, STRENGTH = 12, 1e-2, 0.1, 0.02, 1e-4, 0.7, 0.8


# ------------------------------------------------------------------ ten steps, in plain torch


class Attention:
    """Attention with changed contexts, from the projections' weights alone."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters

    def changed(self, context: torch.Tensor, role: str) -> torch.Tensor:
        begin = f"unet.hypernetwork.banks.{context.shape[-1]}.{role}.linear"
        hidden = context @ self.parameters[f"{begin}.0.weight"].T + self.parameters[f"{begin}.0.bias"]
        hidden = hidden * (hidden > 0)
        added = hidden @ self.parameters[f"{begin}.2.weight"].T + self.parameters[f"{begin}.2.bias"]
        return context + STRENGTH * added

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, **_: Any) -> Any:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = hidden_states @ attn.to_q.weight.T
        key = self.changed(context, "k") @ attn.to_k.weight.T
        value = self.changed(context, "v") @ attn.to_v.weight.T
        query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
        weights = torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, -1)
        joined = (weights @ value).transpose(1, 2).flatten(2)
        return joined @ attn.to_out[0].weight.T + attn.to_out[0].bias


def text_embeddings(model: Path, captions: tuple[str, ...]) -> torch.Tensor:
    tokenizer = CLIPTokenizer.from_pretrained(str(model / "tokenizer"))
    encoder = CLIPTextModel.from_pretrained(str(model / "text_encoder"))
    tokens = tokenizer(list(captions), padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        return encoder(tokens)[0].double()


def trained_in_plain_torch(
    model: Path, start: Parameters, batches: list[Any], texts: torch.Tensor
) -> list[Parameters]:
    """Returns the parameters after each step: epsilon loss with class images, clipping by norm, AdamW; in float64."""
    parameters = {name: value.double().requires_grad_(True) for name, value in start.items()}
    unet = UNet2DConditionModel.from_pretrained(str(model / "unet")).double().requires_grad_(False)
    unet.set_attn_processor(Attention(parameters))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    first, second = ({name: torch.zeros_like(value) for name, value in parameters.items()} for _ in range(2))
    after = []
    for step, batch in enumerate(batches, 1):
        alpha = alphas[batch.timesteps].reshape(-1, 1, 1, 1)
        noise = batch.noise.double()
        noisy = alpha.sqrt() * batch.latents.double() + (1 - alpha).sqrt() * noise
        guess = unet(noisy, batch.timesteps, encoder_hidden_states=texts[batch.captions]).sample
        errors = (guess - noise).square().mean((1, 2, 3))
        loss = errors[:2].mean() + PRIOR_WEIGHT * errors[2:].mean()
        gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
        norm = sum(float(value.square().sum()) for value in gradients.values()) ** 0.5
        with torch.no_grad():
            for name, parameter in parameters.items():
                gradient = gradients[name] * min(1.0, CLIP / (norm + 1e-6))
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.999 * second[name] + 0.001 * gradient**2
                rise = (first[name] / (1 - 0.9**step)) / ((second[name] / (1 - 0.999**step)).sqrt() + EPSILON)
                parameter.mul_(1 - RATE * DECAY).sub_(RATE * rise)
        after.append({name: value.detach().clone() for name, value in parameters.items()})
    return after


def test_twelve_steps_are_those_of_plain_torch(make_trainer: MakeTrainer, models: Path) -> None:
    trainer = make_trainer(
        "hypernetwork",
        attention_layers="all",
        activation_func="relu",
        strength=STRENGTH,
        with_prior_preservation=True,
        prior_loss_weight=PRIOR_WEIGHT,
        learning_rate=RATE,
        adam_weight_decay=DECAY,
        adam_epsilon=EPSILON,
        max_grad_norm=CLIP,
        max_train_steps=STEPS,
    )
    batches: list[Any] = []
    draw = trainer.batches.draw
    trainer.batches.draw = lambda: batches.append(draw()) or batches[-1]  # type: ignore[func-returns-value,method-assign]
    start = {name: value.detach().clone() for name, value in trainer.parameters.items()}
    ours, norms = [], []
    for _ in range(STEPS):
        norms.append(float(train_step(trainer)[1]))
        ours.append({name: value.detach().clone() for name, value in trainer.parameters.items()})
    assert max(norms) > CLIP  # clipping clips
    theirs = trained_in_plain_torch(
        models / "model", start, batches, text_embeddings(models / "model", trainer.texts.captions)
    )
    assert {name.split(".")[3] for name in start} == {"16", "32"}
    for mine, other in zip(ours, theirs, strict=True):
        for name, value in mine.items():
            torch.testing.assert_close(value.double(), other[name], rtol=1e-3, atol=2e-5)
    moved = [float((ours[-1][name] - start[name]).abs().max()) for name in start if name.endswith("weight")]
    assert min(moved) > 100 * 2e-5


# ------------------------------------------------------------------ the fields


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layer_structure": "1,2"}, "must begin and end with 1"),
        ({"layer_structure": [2, 1]}, "must begin and end with 1"),
        ({"layer_structure": "1,two,1"}, "no number"),
        ({"layer_structure": 3}, "takes text such as 1,2,1"),
        ({"activation_func": "gelu"}, "'mish'"),
        ({"activation_func": "Relu"}, "'relu'"),
        ({"dropout": 1.0}, "less than 1"),
        ({"dropout": -0.1}, "greater than or equal to 0"),
        ({"strength": 0}, "greater than 0"),
        ({"weight_initialization": "KaimingUniform"}, "'zero_last' or 'normal'"),
        ({"attention_layers": "self"}, "'all' or 'cross'"),
        ({"layer_structure": "1,1", "activation_func": "relu"}, "activation_func 'relu' has no effect"),
        ({"layer_structure": "1,1", "dropout": 0.1}, "dropout 0.1 has no effect"),
    ],
)
def test_what_is_none_is_refused_with_its_remedy(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        HypernetworkConfig.model_validate(fields)


@pytest.mark.parametrize("structure", ["1,2,1", "1, 2.0, 1", [1, 2, 1], (1.0, 2.0, 1.0)])
def test_a_structure_has_one_spelling(structure: object) -> None:
    config = HypernetworkConfig.model_validate({"layer_structure": structure})
    assert config.layer_structure == "1,2,1"
    assert config.plan.multipliers == (1.0, 2.0, 1.0)
    assert HypernetworkConfig.model_validate(config.model_dump(mode="json")) == config


def test_what_it_does_not_read_makes_no_other_configuration() -> None:
    plain = HypernetworkConfig()
    other = HypernetworkConfig(train_text_encoder=True, text_encoder_learning_rate=1e-3)
    assert plain.effective() == other.effective()
    (problem,) = other.without_effect(["train_text_encoder"])
    assert problem == "train_text_encoder has no effect: this method does not read it"


# ------------------------------------------------------------------ models that it fits


def denoiser_config(folder: Path, **content: Any) -> ModelConfig:
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text(json.dumps(content))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return ModelConfig(path=str(folder))


def test_a_model_without_cross_attention_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "joint").mkdir()
    (tmp_path / "joint" / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusion3Pipeline"})
    )
    (problem,) = check_fit(METHOD, HypernetworkConfig(), ModelConfig(path=str(tmp_path / "joint")))
    assert problem.startswith(
        "Hypernetwork does not run on Stable Diffusion 3: its denoiser has no cross-attention"
    )
    assert METHOD.check(HypernetworkConfig(), denoiser_config(tmp_path / "sd", cross_attention_dim=768)) == []
    assert METHOD.check(HypernetworkConfig(), ModelConfig(path="owner/not-here")) == []
    assert METHOD.check(HypernetworkConfig(), ModelConfig()) == []


def test_layers_without_a_unit_are_refused_before_and_on_attaching(
    make_config: MakeConfig, make_trainer: MakeTrainer, backbone: Backbone
) -> None:
    fields = {"layer_structure": "1,0.05,1"}
    problems = [text for text in check_run(make_config("hypernetwork", **fields)) if "hypernetwork" in text]
    assert len(problems) == 1
    assert "layer_structure 1,0.05,1 has a layer without a unit for contexts of width 16" in problems[0]
    with pytest.raises(UserError, match="width 16"):
        make_trainer("hypernetwork", **fields)
    backbone.restore()
    assert backbone.is_base_model()


def test_a_denoiser_without_cross_attention_is_refused_on_attaching(backbone: Backbone) -> None:
    for layer in backbone.denoiser.modules():
        if hasattr(layer, "is_cross_attention"):
            layer.is_cross_attention = False
    with pytest.raises(UserError, match="the UNet has no cross-attention"):
        METHOD.attach(backbone, HypernetworkConfig(), torch.Generator())
    assert not hasattr(backbone.denoiser, "hypernetwork")


# ------------------------------------------------------------------ training


def test_contexts_of_cross_attention_alone_or_of_all(make_trainer: MakeTrainer) -> None:
    """One MLP 1,2,1 has 4 d^2 + 3 d numbers; there are two for each width."""

    def numbers(layers: str) -> int:
        trainer: Trainer = make_trainer("hypernetwork", attention_layers=layers)
        return sum(value.numel() for value in trainer.parameters.values())

    assert numbers("cross") == 8 * 16**2 + 6 * 16
    assert numbers("all") == 8 * (16**2 + 32**2) + 6 * (16 + 32)


def test_dropout_changes_what_is_learned_and_is_drawn_from_the_seed(make_trainer: MakeTrainer) -> None:
    def learned(**fields: Any) -> list[torch.Tensor]:
        trainer = make_trainer("hypernetwork", learning_rate=1e-2, **fields)
        torch.manual_seed(torch.seed())  # nothing hangs on what the process drew before
        for _ in range(3):
            train_step(trainer)
        return [value.detach().clone() for value in trainer.parameters.values()]

    dropped, again, kept = learned(dropout=0.5), learned(dropout=0.5), learned()
    assert all(torch.equal(one, other) for one, other in zip(dropped, again, strict=True))
    assert any(not torch.equal(one, other) for one, other in zip(dropped, kept, strict=True))


def test_strength_multiplies_what_the_networks_add(make_trainer: MakeTrainer) -> None:
    weights = []
    for strength in (1.0, 0.5):
        trainer = make_trainer("hypernetwork", weight_initialization="normal", strength=strength)
        network = trainer.backbone.denoiser.hypernetwork
        context = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
        weights.append(network.changed(context, "k") - context)
    torch.testing.assert_close(weights[1], weights[0] / 2, rtol=1e-4, atol=1e-7)
    assert float(weights[0].detach().abs().max()) > 0


def test_it_learns_beside_class_images_in_bfloat16_with_checkpointing(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        "hypernetwork",
        with_prior_preservation=True,
        mixed_precision="bf16",
        gradient_checkpointing=True,
        learning_rate=1e-2,
        attention_layers="all",
    )
    assert trainer.batches.images == 4
    for _ in range(3):
        loss, norm = train_step(trainer)
        assert torch.isfinite(loss)
        assert float(norm) > 0
