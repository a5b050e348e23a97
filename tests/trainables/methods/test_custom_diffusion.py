"""Custom Diffusion: twelve steps against plain torch, what trains, who reads the files, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0, CustomDiffusionAttnProcessor
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from tests.helpers.tiny_families import make_tiny
from tests.helpers.training_runs import MakeConfig, MakeTrainer
from trainables.config.fields import ModelConfig
from trainables.errors import UserError
from trainables.methods.custom_diffusion import METHOD, WEIGHTS_FILE, CustomDiffusionConfig
from trainables.methods.fit import check_fit, families_of
from trainables.models.backbone import Backbone
from trainables.models.loading import load_backbone
from trainables.run.checks import check_run
from trainables.training.loop import Trainer, train_step
from trainables.training.trainer import count_step_flops
from trainables.util.flops import count_flops

NAME = METHOD.name


def settled(**fields: Any) -> CustomDiffusionConfig:
    return CustomDiffusionConfig(**fields).for_subject("a sks cat", "a cat")


def stock_of(models: Path) -> Any:
    pipe = StableDiffusionPipeline.from_pretrained(str(models / "model"), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# The mathematics


class TextAttention:
    """Cross-attention written out: softmax(QK' / sqrt(d)) V per head, with one query, key and value for each.

    Keys and values of the first token are constants of the weights.
    """

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        weights = []
        for matrix in (attn.to_k.weight, attn.to_v.weight):
            first = encoder_hidden_states[:, :1] @ matrix.detach().T
            weights.append(torch.cat([first, encoder_hidden_states[:, 1:] @ matrix.T], 1))
        query = hidden_states @ attn.to_q.weight.T
        q, k, v = (value.unflatten(2, (attn.heads, -1)).transpose(1, 2) for value in (query, *weights))
        found = ((q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5).softmax(-1) @ v
        output, _dropout = attn.to_out
        return found.transpose(1, 2).flatten(2) @ output.weight.T + output.bias


class Adam:
    """AdamW of one tensor, written out (Loshchilov & Hutter 2019, algorithm 2)."""

    def __init__(self, value: torch.Tensor, rate: float, decay: float) -> None:
        self.value, self.rate, self.decay, self.steps = value, rate, decay, 0
        self.first, self.second = torch.zeros_like(value), torch.zeros_like(value)

    def step(self, gradient: torch.Tensor, share: float) -> torch.Tensor:
        """Returns the new value; `share` is that of the rate by the schedule."""
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        mean, square = self.first / (1 - 0.9**self.steps), self.second / (1 - 0.999**self.steps)
        rate = self.rate * share
        self.value = self.value * (1 - rate * self.decay) - rate * mean / (square.sqrt() + 1e-8)
        return self.value


@pytest.mark.parametrize("freeze_model", ["crossattn_kv", "crossattn"])
def test_twelve_steps_are_those_of_plain_torch(
    freeze_model: str, make_trainer: MakeTrainer, models: Path
) -> None:
    """A stock UNet with attention to the text written out, class images, clipping, AdamW and a warm-up."""
    rate, of_words, largest, warm_up, prior, decay = 2e-3, 1e-2, 2e-2, 3, 0.5, 0.1
    trainer = make_trainer(
        NAME,
        freeze_model=freeze_model,
        learning_rate=rate,
        embedding_learning_rate=of_words,
        max_grad_norm=largest,
        lr_warmup_steps=warm_up,
        prior_loss_weight=prior,
        adam_weight_decay=decay,
        max_train_steps=20,
    )
    batches, draw = [], trainer.batches.draw

    def recorded() -> Any:
        batches.append(draw())
        return batches[-1]

    trainer.batches.draw = recorded  # type: ignore[method-assign]

    pipe = stock_of(models)
    tokenizer, encoder, unet = pipe.tokenizer, pipe.text_encoder.train(), pipe.unet.train()
    known = len(encoder.get_input_embeddings().weight)
    (cat,) = tokenizer("cat", add_special_tokens=False).input_ids
    tokenizer.add_tokens(["<new1>"])
    table = encoder.get_input_embeddings().weight.detach().clone()
    whole = nn.Embedding(known + 1, table.shape[1])
    encoder.set_input_embeddings(whole)
    unet.set_attn_processor(
        {name: TextAttention() if ".attn2." in name else AttnProcessor2_0() for name in unet.attn_processors}
    )
    ends = ("to_k.weight", "to_v.weight")
    if freeze_model == "crossattn":
        ends += ("to_q.weight", "to_out.0.weight", "to_out.0.bias")
    parameters = {
        name: value for name, value in unet.named_parameters() if ".attn2." in name and name.endswith(ends)
    }
    optimizers = {name: Adam(value.detach().clone(), rate, decay) for name, value in parameters.items()}
    word = Adam(table[cat : cat + 1].clone(), of_words, 0.0)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal = torch.cumprod(1 - betas, 0)
    said = set()
    for step in range(12):
        train_step(trainer)
        batch = batches[-1]
        texts = [trainer.texts.captions[number] for number in batch.captions.tolist()]
        said |= set(texts)
        whole.weight = nn.Parameter(torch.cat([table, word.value]))
        unet.zero_grad()
        ids = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
        a = signal[batch.timesteps].reshape(-1, 1, 1, 1)
        noisy = a.sqrt() * batch.latents + (1 - a).sqrt() * batch.noise
        output = unet(noisy, batch.timesteps, encoder_hidden_states=encoder(ids)[0]).sample
        errors = (output - batch.noise).pow(2).flatten(1).mean(1)
        (errors[:2].mean() + prior * errors[2:].mean()).backward()
        assert whole.weight.grad is not None
        gradients = {name: value.grad for name, value in parameters.items()}
        gradients["word"] = whole.weight.grad[known:]
        norm = sum(float(value.square().sum()) for value in gradients.values() if value is not None) ** 0.5
        scale, share = min(1.0, largest / (norm + 1e-6)), min(1.0, step / warm_up)
        word.step(gradients["word"] * scale, share)  # type: ignore[operator]
        for name, value in parameters.items():
            value.data = optimizers[name].step(gradients[name] * scale, share)  # type: ignore[operator]
        (rows,) = trainer.backbone.added_embeddings.values()
        torch.testing.assert_close(rows.detach(), word.value, rtol=1e-3, atol=2e-5)
        for name, value in parameters.items():
            ours = trainer.parameters[f"unet.{name}"].detach()
            torch.testing.assert_close(ours, value.detach(), rtol=1e-3, atol=2e-5)
    assert said == {"a <new1> cat", "a cat"}
    assert {f"unet.{name}" for name in parameters} < set(trainer.parameters)
    assert len(trainer.parameters) == len(parameters) + 1


def largest_gradient(trainer: Trainer) -> float:
    """Of all keys and values, for a prompt of which no token but the first says anything."""
    backbone = trainer.backbone
    (text,) = backbone.encode_prompts(["a <new1> cat"]).values()
    text[:, 1:] = 0
    times = torch.tensor([500])
    output = backbone.denoiser(torch.ones(1, 4, 4, 4), times, encoder_hidden_states=text).sample
    output.square().sum().backward()
    found = [value.grad for name, value in trainer.parameters.items() if name.startswith("unet.")]
    trainer.optimizer.optimizer.zero_grad(set_to_none=True)
    return max(float(value.abs().max()) for value in found if value is not None)


def test_the_first_token_teaches_nothing(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(NAME)
    assert largest_gradient(trainer) == 0
    for layer in trainer.backbone.denoiser.modules():
        layer._forward_hooks.clear()
    assert largest_gradient(trainer) > 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_flops_are_those_of_a_real_step(checkpointing: bool, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(NAME, train_batch_size=3, gradient_checkpointing=checkpointing)
    assert count_step_flops(trainer) == count_flops(lambda: train_step(trainer))


def test_numbers_that_train_are_those_of_the_paper(make_trainer: MakeTrainer) -> None:
    """Keys and values of every layer that attends to the text, and one row; the table decays in no step."""
    trainer = make_trainer(NAME, adam_weight_decay=0.5)
    names = [name for name in trainer.parameters if name.startswith("unet.")]
    layers = [name for name in trainer.backbone.denoiser.attn_processors if ".attn2." in name]
    assert len(names) == 2 * len(layers)
    assert all(name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in names)
    weights, words = trainer.optimizer.param_groups
    assert (weights["weight_decay"], words["weight_decay"]) == (0.5, 0.0)
    (table,) = trainer.backbone.added_tables.values()
    before = table.weight.detach().clone()
    train_step(trainer)
    assert torch.equal(table.weight, before)


# What is saved, and who reads it


def test_the_files_are_read_by_diffusers_loaders(
    make_trainer: MakeTrainer, models: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(NAME, learning_rate=1e-2, freeze_model="crossattn")
    for _ in range(2):
        train_step(trainer)
    METHOD.save(trainer.backbone, trainer.config, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["learned_embeds.safetensors", WEIGHTS_FILE]
    tensors = load_file(tmp_path / WEIGHTS_FILE)
    unet = trainer.backbone.denoiser
    empty = {name for name, value in tensors.items() if not len(value)}
    assert empty == {name for name in unet.attn_processors if ".attn1." in name}
    with safe_open(tmp_path / WEIGHTS_FILE, "pt") as file:
        assert file.metadata() == {"format": "pt"}

    pipe = stock_of(models)
    METHOD.load(pipe, tmp_path)
    processors = pipe.unet.attn_processors
    assert {type(value) for value in processors.values()} == {CustomDiffusionAttnProcessor}
    for name, processor in processors.items():
        if ".attn2." not in name:
            assert list(processor.parameters()) == []
            continue
        layer = unet.get_submodule(name.removesuffix(".processor"))
        assert torch.equal(processor.to_k_custom_diffusion.weight, layer.to_k.weight)
        assert torch.equal(processor.to_v_custom_diffusion.weight, layer.to_v.weight)
        assert torch.equal(processor.to_q_custom_diffusion.weight, layer.to_q.weight)
        assert torch.equal(processor.to_out_custom_diffusion[0].bias, layer.to_out[0].bias)
    (rows,) = trainer.backbone.added_embeddings.values()
    ids = pipe.tokenizer("<new1>", add_special_tokens=False).input_ids
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[ids], rows)
    again = tmp_path / "again"
    METHOD.save(trainer.backbone, trainer.config, again)
    assert (again / WEIGHTS_FILE).read_bytes() == (tmp_path / WEIGHTS_FILE).read_bytes()


def test_without_the_pipeline_diffusers_loads_nothing(
    make_trainer: MakeTrainer, models: Path, tmp_path: Path
) -> None:
    """What docs/methods.md says of 0.42; where this fails, the argument and the remark can go."""
    trainer = make_trainer(NAME)
    METHOD.save(trainer.backbone, trainer.config, tmp_path)
    pipe = stock_of(models)
    pipe.unet.load_attn_procs(str(tmp_path), weight_name=WEIGHTS_FILE)
    assert CustomDiffusionAttnProcessor not in {type(value) for value in pipe.unet.attn_processors.values()}


# What is refused


def test_it_runs_where_text_has_keys_and_values_of_its_own(tmp_path: Path) -> None:
    found = families_of(METHOD)
    carried = {title for title, against in found.items() if against is None}
    assert carried == {"Stable Diffusion 1.x, 2.x", "Stable Diffusion XL"}
    flux = make_tiny("flux", tmp_path / "flux")
    (said,) = check_fit(METHOD, settled(), ModelConfig(path=str(flux)))
    assert said.startswith("Custom Diffusion does not run on FLUX.1: its denoiser has no cross-attention")
    backbone: Backbone = load_backbone(ModelConfig(path=str(flux)))
    METHOD.prepare(backbone, settled())
    with pytest.raises(UserError, match=r"the transformer has no cross-attention.*take a method that trains"):
        METHOD.attach(backbone, settled(), torch.Generator().manual_seed(0))
    backbone.restore()
    assert backbone.is_base_model()


def test_a_word_that_the_model_knows_is_refused(make_config: MakeConfig) -> None:
    found = "\n".join(check_run(make_config(NAME, placeholder_token="teapot", initializer_token="zebra")))
    assert "'teapot' is a token of" in found
    assert "'zebra' is 5 tokens of" in found


def test_two_rates_are_refused_where_the_optimizer_knows_one() -> None:
    with pytest.raises(
        ValidationError, match=r"embedding_learning_rate \(0.5\) differs from learning_rate \(1\)"
    ):
        CustomDiffusionConfig(optimizer="prodigy", learning_rate=1.0, embedding_learning_rate=0.5)
    for own in (1.0, None):
        one = CustomDiffusionConfig(optimizer="prodigy", learning_rate=1.0, embedding_learning_rate=own)
        assert one.rate_of_embeddings == 1.0
    with pytest.raises(ValidationError, match="freeze_model"):
        CustomDiffusionConfig.model_validate({"freeze_model": "attn"})


def test_arms_that_come_to_the_same_are_known_as_one() -> None:
    one, other = settled(embedding_learning_rate=None), settled(embedding_learning_rate=2e-5)
    assert one.effective() == other.effective()
    assert one.effective() != settled(embedding_learning_rate=1e-5).effective()
    assert "train_text_encoder" not in one.effective()
    assert one.effective()["with_prior_preservation"]
    (told,) = one.without_effect(["train_text_encoder", "with_prior_preservation", "adam_weight_decay"])
    assert told.startswith("train_text_encoder has no effect: this method does not read it")
