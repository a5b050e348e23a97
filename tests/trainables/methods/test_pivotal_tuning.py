"""Pivotal tuning: both stages against plain torch, the threshold and its checkpoints, the files, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from pydantic import ValidationError
from torch import nn
from torch.func import functional_call

from tests.helpers.training_runs import RESOLUTION, MakeConfig, MakeTrainer
from trainables.data.cache import Cache
from trainables.data.subjects import resolve_subject
from trainables.events import read_events
from trainables.methods.fit import families_of
from trainables.methods.pivotal_tuning import METHOD, PivotalTuningConfig
from trainables.models.loading import load_backbone
from trainables.run.checks import check_run
from trainables.run.execute import execute
from trainables.training import length
from trainables.training.loop import Trainer, batch_loss, train_step
from trainables.training.meter import Meter
from trainables.training.trainer import build_trainer, count_step_flops
from trainables.util.checkpoint import load_latest, save_checkpoint
from trainables.util.flops import count_flops

NAME = METHOD.name


def settled(**fields: Any) -> PivotalTuningConfig:
    return PivotalTuningConfig(**fields).for_subject("a sks cat", "a cat")


def split(trainer: Trainer) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Copies of the adapters' parameters, by name, and of the embeddings."""
    found = {name: value.detach().clone() for name, value in trainer.parameters.items()}
    (words,) = (name for name in found if name.startswith("text_encoder."))
    return found, found.pop(words)


# The mathematics


class Adam:
    """AdamW of one tensor, written out (Loshchilov & Hutter 2019, algorithm 2)."""

    def __init__(self, value: torch.Tensor, rate: float, decay: float) -> None:
        self.value, self.rate, self.decay, self.steps = value, rate, decay, 0
        self.first, self.second = torch.zeros_like(value), torch.zeros_like(value)

    def step(self, gradient: torch.Tensor) -> None:
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        mean, square = self.first / (1 - 0.9**self.steps), self.second / (1 - 0.999**self.steps)
        self.value = self.value * (1 - self.rate * self.decay) - self.rate * mean / (square.sqrt() + 1e-8)


def test_both_stages_are_those_of_plain_torch(make_trainer: MakeTrainer, models: Path) -> None:
    """Six steps of a row of a stock text encoder's table, then six of W + s BA, with Adam begun anew."""
    rate, of_words, largest, decay, alpha = 5e-3, 2e-2, 2e-2, 0.1, 4.0
    trainer = make_trainer(
        NAME,
        r=2,
        lora_alpha=alpha,
        num_vectors=2,
        learning_rate=rate,
        embedding_learning_rate=of_words,
        max_grad_norm=largest,
        adam_weight_decay=decay,
        max_train_steps=12,
    )
    batches, draw = [], trainer.batches.draw

    def recorded() -> Any:
        batches.append(draw())
        return batches[-1]

    trainer.batches.draw = recorded  # type: ignore[method-assign]

    pipe = StableDiffusionPipeline.from_pretrained(str(models / "model"), safety_checker=None)
    tokenizer, encoder, unet = pipe.tokenizer, pipe.text_encoder.eval(), pipe.unet.train()
    tokenizer.add_tokens(["<sks>", "<sks>_1"])
    table = encoder.get_input_embeddings().weight.detach().clone()
    known = len(table)
    whole = nn.Embedding(known + 2, table.shape[1])
    encoder.set_input_embeddings(whole)
    base = {name: value.detach() for name, value in unet.named_parameters()}
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal = torch.cumprod(1 - betas, 0)
    adapters, rows = split(trainer)
    word = Adam(rows, of_words, 0.0)
    factors = {name.removeprefix("unet."): Adam(value, rate, decay) for name, value in adapters.items()}
    layers = {name.split(".lora_")[0] for name in factors}
    assert len(factors) == 2 * len(layers) > 20

    for step in range(12):
        train_step(trainer)
        batch = batches[-1]
        words = nn.Parameter(word.value)
        values = {name: nn.Parameter(one.value) for name, one in factors.items()}
        whole.weight = nn.Parameter(torch.cat([table, word.value]), requires_grad=step < 6)
        weights = dict(base)
        for layer in layers:
            down, up = (values[f"{layer}.lora_{one}.default.weight"] for one in "AB")
            weights[f"{layer}.weight"] = base[f"{layer}.weight"] + alpha / 2 * up @ down
        ids = tokenizer(
            ["a <sks> <sks>_1 cat"] * 2, padding="max_length", max_length=77, return_tensors="pt"
        ).input_ids
        a = signal[batch.timesteps].reshape(-1, 1, 1, 1)
        noisy = a.sqrt() * batch.latents + (1 - a).sqrt() * batch.noise
        arguments = {"encoder_hidden_states": encoder(ids)[0]}
        output = functional_call(unet, weights, (noisy, batch.timesteps), arguments).sample
        (output - batch.noise).pow(2).mean().backward()
        if step < 6:
            assert whole.weight.grad is not None
            gradients = {"": whole.weight.grad[known:]}
        else:
            gradients = {name: value.grad for name, value in values.items() if value.grad is not None}
            assert len(gradients) == len(factors)
        norm = sum(float(value.square().sum()) for value in gradients.values()) ** 0.5
        for name, value in gradients.items():
            (factors[name] if name else word).step(value * min(1.0, largest / (norm + 1e-6)))
        del words
        ours, rows = split(trainer)
        torch.testing.assert_close(rows, word.value, rtol=1e-3, atol=2e-5)
        for name, one in factors.items():
            torch.testing.assert_close(ours[f"unet.{name}"], one.value, rtol=1e-3, atol=2e-5)
    assert trainer.texts.captions == ("a <sks> cat",)


@pytest.mark.parametrize("keep", [False, True])
def test_what_is_frozen_stays_to_the_bit(keep: bool, make_trainer: MakeTrainer) -> None:
    """Norms that are kept are of the first stage alone: every rescaling would move a bit."""
    trainer = make_trainer(
        NAME, max_train_steps=6, max_train_steps_ti=4, preserve_norm=keep, learning_rate=1e-2
    )
    seen = [split(trainer)]
    for _ in range(6):
        train_step(trainer)
        seen.append(split(trainer))
    for number in range(6):
        (adapters, rows), (later, words) = seen[number], seen[number + 1]
        assert torch.equal(rows, words) == (number >= 4)
        same = [torch.equal(value, later[name]) for name, value in adapters.items()]
        assert all(same) == (number < 4)
    (table,) = trainer.backbone.added_tables.values()
    norms = table.added.detach().norm(dim=1) / table.median_norm
    assert torch.allclose(norms, torch.ones(2), rtol=1e-5) == keep


@pytest.mark.parametrize("fields", [{}, {"gradient_checkpointing": True}, {"with_prior_preservation": True}])
def test_flops_are_the_mean_of_both_stages(fields: dict[str, Any], make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(NAME, max_train_steps=3, max_train_steps_ti=1, train_batch_size=3, **fields)
    said = count_step_flops(trainer)
    assert all(value.requires_grad for value in trainer.parameters.values())
    both = count_flops(lambda: batch_loss(trainer, trainer.batches.draw()).backward())
    counted = [count_flops(lambda: train_step(trainer)) for _ in range(3)]
    assert said == sum(counted) // 3
    assert counted[1] == counted[2] != counted[0]
    assert max(counted) < both or fields.get(
        "gradient_checkpointing"
    )  # nothing is computed to be thrown away


# The threshold


def rebuilt(make_config: MakeConfig, **fields: Any) -> Trainer:
    config = make_config(NAME, **fields)
    subject = resolve_subject(config.subject, RESOLUTION)
    return build_trainer(config, load_backbone(config.model), subject, Cache(config.cache_dir))


def test_the_threshold_is_kept_in_the_checkpoint(
    make_trainer: MakeTrainer, make_config: MakeConfig, tmp_path: Path
) -> None:
    """A run that is resumed before, at or after it ends with the same bits; what the checkpoint says counts."""
    fields = {"max_train_steps": 6, "max_train_steps_ti": 3, "lr_scheduler": "cosine", "learning_rate": 1e-2}
    trainer, meter = make_trainer(NAME, **fields), Meter(torch.device("cpu"), 1)
    kept = []
    for _ in range(6):
        train_step(trainer)
        kept.append(save_checkpoint(tmp_path / str(trainer.step), trainer.checkpoint(meter)))
    ended = split(trainer)
    state = json.loads((kept[0] / "state.json").read_text())["state"]
    assert state["windows"] == [[3, 6], [0, 3]]
    for step in (2, 3, 4):
        checkpoint = load_latest(tmp_path / str(step))
        assert checkpoint is not None
        # Of a run whose own fields would put the threshold elsewhere.
        again = rebuilt(make_config, **fields | {"max_train_steps_ti": 1})
        again.restore(checkpoint, meter)
        assert again.windows == [(3, 6), (0, 3)]
        while again.step < 6:
            train_step(again)
        adapters, rows = split(again)
        assert torch.equal(rows, ended[1])
        assert all(torch.equal(value, ended[0][name]) for name, value in adapters.items())


def test_a_run_shows_the_rate_of_what_trains_and_what_it_cost(make_config: MakeConfig, resident: Any) -> None:
    config = make_config(NAME, learning_rate=1e-3, embedding_learning_rate=2e-2, max_train_steps=4, r=2)
    last = list(execute(config, resident))[-1]
    assert last.data["state"] == "COMPLETE", last.data
    events = read_events(Path(config.output_dir))
    rates = {event.step: event.data["learning_rate"] for event in events if event.kind == "progress"}
    assert rates[1] == pytest.approx(2e-2)
    assert rates[3] == rates[4] == pytest.approx(1e-3)
    cost = [event.data for event in events if event.kind == "cost"][-1]
    assert cost["train_steps"] == 4
    assert cost["train_flops"] > 0
    adapters = json.loads((Path(config.output_dir) / "result.json").read_text())["cost"]
    assert adapters["trainable_parameters"] > 2 * 16
    assert sorted(path.name for path in (Path(config.output_dir) / "weights").iterdir()) == [
        "learned_embeds.safetensors",
        "lora_kohya.safetensors",
        "pytorch_lora_weights.safetensors",
    ]
    assert resident.backbone(config.model, torch.device("cpu")).is_base_model()


def test_the_threshold_is_a_share_of_what_a_budget_allows(
    make_trainer: MakeTrainer, make_config: MakeConfig, resident: Any
) -> None:
    per_step = count_step_flops(make_trainer(NAME, max_train_steps=10))
    fields = {"max_train_steps": 100, "train_text_encoder_ti_frac": 0.3, "checkpointing_steps": 1}
    config = make_config(NAME, max_train_flops=10.5 * per_step, **fields)
    run = execute(config, resident)
    steps = next(event.data["steps"] for event in run if event.kind == "phase" and "steps" in event.data)
    event = next(event for event in run if event.kind == "checkpoint")
    checkpoint = load_latest((Path(config.output_dir) / event.data["path"]).parent)
    run.close()
    assert checkpoint is not None
    pivot = round(0.3 * steps)
    assert checkpoint.state["windows"] == [[pivot, steps], [0, pivot]]
    assert 9 <= steps <= 11


def test_seconds_of_a_step_are_the_mean_of_both_stages_and_leave_no_trace(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(timed: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        trainer = make_trainer(NAME, max_train_steps=4, max_train_steps_ti=1, learning_rate=1e-2)
        if timed:
            assert length._seconds_per_step(trainer) > 0
            assert trainer.step == 0
        for _ in range(4):
            train_step(trainer)
        return split(trainer)

    (adapters, rows), (others, words) = trained(timed=True), trained(timed=False)
    assert torch.equal(rows, words)
    assert all(torch.equal(value, others[name]) for name, value in adapters.items())
    monkeypatch.setattr(length, "_timed_step", lambda _, number: 1.0 if number < 1 else 3.0)
    trainer = make_trainer(NAME, max_train_steps=4, max_train_steps_ti=1)
    assert length._seconds_per_step(trainer) == (1 * 1.0 + 3 * 3.0) / 4


# What is refused, and what comes to the same


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_train_steps_ti": 200, "max_train_steps": 200}, "must be below max_train_steps (200)"),
        (
            {"max_train_steps_ti": 5, "max_train_flops": 1e12},
            "state train_text_encoder_ti_frac, a share of it",
        ),
        (
            {"max_train_steps_ti": 5, "max_train_seconds": 9.0},
            "state train_text_encoder_ti_frac, a share of it",
        ),
        ({"optimizer": "prodigy"}, "embeddings train first and adapters afterwards; take optimizer: adamw"),
        ({"max_train_steps": 100, "lr_warmup_steps": 50}, "the shorter one has 50"),
        ({"max_train_steps": 100, "max_train_steps_ti": 90, "lr_warmup_steps": 10}, "the shorter one has 10"),
        ({"train_text_encoder_ti_frac": 1.0}, "less than 1"),
        ({"train_text_encoder_ti_frac": 0.0}, "greater than 0"),
        ({"adapter": "lokr"}, "adapter"),
        ({"max_train_steps": 1}, "max_train_steps"),
    ],
)
def test_impossible_stages_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        PivotalTuningConfig.model_validate(fields)
    assert said in str(error.value)


def test_fields_that_come_to_the_same_are_known_as_one() -> None:
    steps, share = settled(max_train_steps=100, max_train_steps_ti=50), settled(max_train_steps=100)
    assert steps.effective() == share.effective()
    assert share.effective()["max_train_steps_ti"] == 50
    other = settled(max_train_steps=100, train_text_encoder_ti_frac=0.4)
    assert other.effective() != share.effective()
    assert settled(max_train_flops=1e12).effective()["train_text_encoder_ti_frac"] == 0.5
    searched = settled(max_train_steps=100).effective(["train_text_encoder_ti_frac"])
    assert not {"train_text_encoder_ti_frac"} & set(searched)
    (told,) = steps.without_effect(["train_text_encoder_ti_frac", "r", "with_prior_preservation"])
    assert told == "train_text_encoder_ti_frac has no effect without max_train_steps_ti: null"
    assert settled(r=4).effective()["scaling"] == 1.0


def test_it_runs_where_the_stock_pipeline_loads_embeddings() -> None:
    carried = {title for title, against in families_of(METHOD).items() if against is None}
    assert carried == {"Stable Diffusion 1.x, 2.x", "Stable Diffusion XL", "FLUX.1"}


def test_words_and_layers_that_the_model_lacks_are_told_at_once(make_config: MakeConfig) -> None:
    found = "\n".join(check_run(make_config(NAME, placeholder_token="teapot", target_modules=["to_qq"])))
    assert "'teapot' is a token of" in found
    assert "'to_qq' matches no module of the UNet" in found
