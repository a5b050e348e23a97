"""Textual inversion: what trains, what it begins as, what prompts say, what is saved, and what is refused."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from benchmarks.support.tiny_models import make_tokenizer
from tests.helpers.training_runs import MakeConfig, MakeTrainer
from trainables.data.cache import Cache
from trainables.data.subjects import resolve_subject
from trainables.errors import UserError
from trainables.evaluation import evaluator
from trainables.methods.prompt_templates import TEMPLATES
from trainables.methods.textual_inversion import METHOD, WEIGHTS_FILE, TextualInversionConfig
from trainables.models.backbone import Backbone
from trainables.models.families import FAMILIES
from trainables.models.placeholders import expand, spread
from trainables.run.checks import check_run
from trainables.run.execute import execute
from trainables.training.loop import Trainer, train_step
from trainables.training.trainer import build_trainer, count_step_flops
from trainables.util.flops import count_flops

NAME = METHOD.name


def rows_of(trainer: Trainer) -> nn.Parameter:
    (rows,) = trainer.parameters.values()
    return rows


def settled(**fields: Any) -> TextualInversionConfig:
    return TextualInversionConfig(**fields).for_subject("a sks cat", "a cat")


# The mathematics


def test_twelve_steps_are_those_of_plain_torch(make_trainer: MakeTrainer, models: Path) -> None:
    """A whole table in a stock pipeline, of which two rows get a gradient; clipping, AdamW and warm-up written out."""
    rate, largest, warm_up = 2e-2, 1e-2, 3
    trainer = make_trainer(
        NAME,
        num_vectors=2,
        learning_rate=rate,
        max_grad_norm=largest,
        lr_warmup_steps=warm_up,
        max_train_steps=20,
    )
    rows = rows_of(trainer).detach().clone()
    batches, draw = [], trainer.batches.draw

    def recorded() -> Any:
        batches.append(draw())
        return batches[-1]

    trainer.batches.draw = recorded  # type: ignore[method-assign]

    pipe = StableDiffusionPipeline.from_pretrained(str(models / "model"), safety_checker=None)
    tokenizer, encoder, unet = pipe.tokenizer, pipe.text_encoder.train(), pipe.unet.eval()
    tokenizer.add_tokens(["<sks>", "<sks>_1"])
    table = encoder.get_input_embeddings().weight.detach().clone()
    known = len(table)
    whole = nn.Embedding(known + 2, table.shape[1])
    encoder.set_input_embeddings(whole)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal = torch.cumprod(1 - betas, 0)
    first, second = torch.zeros_like(rows), torch.zeros_like(rows)
    prompts = set()
    for step in range(12):
        train_step(trainer)
        batch = batches[-1]
        texts = [trainer.texts.captions[number] for number in batch.captions.tolist()]
        prompts |= set(texts)
        whole.weight = nn.Parameter(torch.cat([table, rows]))
        ids = tokenizer(
            [text.replace("<sks>", "<sks> <sks>_1") for text in texts],
            padding="max_length",
            max_length=77,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        a = signal[batch.timesteps].reshape(-1, 1, 1, 1)
        noisy = a.sqrt() * batch.latents + (1 - a).sqrt() * batch.noise
        output = unet(noisy, batch.timesteps, encoder_hidden_states=encoder(ids)[0]).sample
        (output - batch.noise).pow(2).mean().backward()
        assert whole.weight.grad is not None
        gradient = whole.weight.grad[known:].clone()
        gradient *= min(1.0, largest / (float(gradient.norm()) + 1e-6))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        mean, deviation = first / (1 - 0.9 ** (step + 1)), (second / (1 - 0.999 ** (step + 1))).sqrt()
        rows = rows - rate * min(1.0, step / warm_up) * mean / (deviation + 1e-8)
        torch.testing.assert_close(rows_of(trainer).detach(), rows, rtol=1e-3, atol=2e-5)
    assert len(prompts) > 5
    assert prompts <= {template.replace("{}", "<sks>") for template in TEMPLATES["object"]}


def test_the_table_has_no_gradient_no_moments_and_no_copy(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(NAME, num_vectors=3, adam_weight_decay=0.5)
    (table,) = trainer.backbone.added_tables.values()
    address, values = table.weight.data_ptr(), table.weight.detach().clone()
    for _ in range(2):
        train_step(trainer)
    optimizer = trainer.optimizer.optimizer
    (group,) = optimizer.param_groups
    assert group["weight_decay"] == 0
    assert [tuple(value.shape) for value in group["params"]] == [(3, values.shape[1])]
    moments = [value.numel() for state in optimizer.state.values() for value in state.values()]
    assert sum(moments) == 2 * 3 * values.shape[1] + 1  # and the number of steps
    assert table.weight.grad is None
    assert table.weight.data_ptr() == address
    assert torch.equal(table.weight, values)


def test_a_norm_that_is_kept_is_the_tables_median(make_trainer: MakeTrainer) -> None:
    def norms(keep: bool) -> torch.Tensor:
        trainer = make_trainer(NAME, num_vectors=2, preserve_norm=keep, learning_rate=1e-1)
        for _ in range(2):
            train_step(trainer)
        return rows_of(trainer).detach().norm(dim=1) / median

    (encoder,) = make_trainer(NAME).backbone.text_encoders
    median = encoder.get_input_embeddings().weight.detach().norm(dim=1).median()
    torch.testing.assert_close(norms(True), torch.ones(2), rtol=1e-5, atol=0)
    assert (norms(False) > 1.05).all()


def test_what_one_run_keeps_the_next_one_does_not(make_trainer: MakeTrainer) -> None:
    make_trainer(NAME, preserve_norm=True)
    trainer = make_trainer(NAME, learning_rate=1e-1)
    before = rows_of(trainer).detach().norm()
    train_step(trainer)
    assert not torch.isclose(rows_of(trainer).detach().norm(), before, rtol=1e-2)


def test_flops_are_those_of_a_real_step(make_trainer: MakeTrainer) -> None:
    """Each image has a prompt of its own, which is encoded with it."""
    trainer = make_trainer(NAME, train_batch_size=3)
    assert count_step_flops(trainer) == count_flops(lambda: train_step(trainer))


# What vectors begin as


@pytest.mark.parametrize(
    ("words", "count", "texts"),
    [
        (["cat"], 3, ("cat", "cat", "cat")),
        (["a", "b"], 4, ("a", "a", "b", "b")),
        (["a", "b"], 3, ("a", "a", "b")),
        (["a", "b"], 2, ("a", "b")),
        (["a", "b", "c"], 2, ("a", "b c")),
        (["a", "b", "c"], 1, ("a b c",)),
    ],
)
def test_words_are_spread_over_vectors(words: list[str], count: int, texts: tuple[str, ...]) -> None:
    assert spread(words, count) == texts


def test_vectors_begin_as_their_words_and_no_two_alike(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(NAME, num_vectors=3, initializer_token="dog bird")
    (table,) = trainer.backbone.added_tables.values()
    rows = rows_of(trainer).detach()
    ids = [trainer.backbone.tokenizers[0](word).input_ids[1] for word in ("dog", "bird")]
    dog, bird = table.weight.detach()[ids]
    assert torch.equal(rows[0], dog)
    assert torch.equal(rows[2], bird)
    ratio = float((rows[1] - dog).std() / table.weight.detach().std())
    assert 0.05 < ratio < 0.2
    other = rows_of(make_trainer(NAME, num_vectors=3, initializer_token="dog bird", seed=1)).detach()
    assert torch.equal(other[0], dog)
    assert not torch.equal(other[1], rows[1])


def test_the_class_noun_is_what_it_begins_as_and_no_global_number_is_drawn(backbone: Backbone) -> None:
    state = torch.get_rng_state()
    config = settled(num_vectors=2)
    METHOD.prepare(backbone, config)
    METHOD.attach(backbone, config, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)
    (table,) = backbone.added_tables.values()
    cat = table.weight[backbone.tokenizers[0]("cat").input_ids[1]]
    assert torch.equal(table.added[0], cat)
    assert not torch.equal(table.added[1], cat)


# What prompts say


@pytest.mark.parametrize(
    ("instance", "plain", "fields", "spoken"),
    [
        ("a sks cat", "a cat", {}, "a <sks>"),
        ("a sks cat", "a cat", {"keep_class_noun": True}, "a <sks> cat"),
        ("a sks berry bowl", "a berry bowl", {}, "a <sks>"),
        ("a sks berry bowl", "a berry bowl", {"keep_class_noun": True}, "a <sks> berry bowl"),
        ("sks", "a cat", {}, "<sks>"),
        ("a  sks\tcat", "a cat", {}, "a  <sks>"),
        ("a sks cartoon", "a cartoon", {"learnable_property": "style"}, "a cartoon in the style of <sks>"),
        (
            "a picture like sks",
            "a picture",
            {"learnable_property": "style"},
            "a picture in the style of <sks>",
        ),
        ("a drawing by <sks>", "a drawing", {}, "a drawing by <sks>"),
        ("a sks cat", "a cat", {"placeholder_token": "<mine>"}, "a <mine>"),
    ],
)
def test_the_placeholder_takes_the_place_of_the_rare_word(
    instance: str, plain: str, fields: dict[str, Any], spoken: str
) -> None:
    config = TextualInversionConfig(**fields).for_subject(instance, plain)
    assert config.reword(instance) == spoken
    assert config.reword(f"{instance} on a beach") == f"{spoken} on a beach"


def test_what_a_step_trains_with() -> None:
    assert settled(learnable_property=None).training_prompts("a sks cat") == ("a <sks>",)
    assert settled(captions="files").training_prompts("a sks cat in the snow") == ("a <sks> in the snow",)
    objects = settled(keep_class_noun=True).training_prompts("a sks cat")
    assert len(set(objects)) == 27
    assert objects[0] == "a photo of a <sks> cat"
    styles = settled(learnable_property="style").training_prompts("a sks cat")
    assert len(set(styles)) == 17
    assert styles[0] == "a painting in the style of <sks>"


@pytest.mark.parametrize(
    ("prompt", "words", "whole"),
    [
        ("a <sks> here", ["<sks>"], "a <sks> here"),
        ("a <sks> here", ["<sks>", "<sks>_1", "<sks>_2"], "a <sks> <sks>_1 <sks>_2 here"),
        ("<a>, <b>", ["<a>", "<a>_1", "<b>"], "<a> <a>_1, <b>"),
        ("a cat", ["<sks>", "<sks>_1"], "a cat"),
    ],
)
def test_a_placeholder_stands_for_all_its_tokens(prompt: str, words: list[str], whole: str) -> None:
    assert expand(prompt, words) == whole


def test_tokens_are_those_of_the_stock_pipeline(backbone: Backbone) -> None:
    METHOD.prepare(backbone, settled(num_vectors=3))
    prompt = "a <sks> in the snow"
    tokenizer = backbone.tokenizers[0]
    stock = tokenizer(backbone.pipeline().maybe_convert_prompt(prompt, tokenizer)).input_ids
    assert backbone.tokenize([prompt])["input_ids"][0, : len(stock)].tolist() == stock
    assert [token for token in stock if token >= len(tokenizer) - 3] == list(
        range(len(tokenizer) - 3, len(tokenizer))
    )


def test_a_run_is_judged_on_prompts_with_the_placeholder(
    make_config: MakeConfig, resident: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    original = evaluator.generate

    def generate(backbone: Backbone, prompts: Any, **arguments: Any) -> Any:
        if backbone.added_tables:  # else it is the base model
            drawn.extend(prompts)
        return original(backbone, prompts, **arguments)

    monkeypatch.setattr(evaluator, "generate", generate)
    config = make_config(NAME, num_vectors=2, at=(0.5,))
    events = list(execute(config, resident))
    assert events[-1].data["state"] == "COMPLETE", events[-1].data
    taught = [prompt for prompt in drawn if "<sks>" in prompt]
    assert len(taught) == 4  # two prompts, twice
    assert not [prompt for prompt in drawn if "sks cat" in prompt]
    cost = next(event.data for event in reversed(events) if event.kind == "cost")
    assert cost["trainable_parameters"] == 2 * 16
    assert 0 < cost["artifact_bytes"] < 1000
    assert cost["train_flops"] > 0
    assert resident.backbone(config.model, torch.device("cpu")).is_base_model()


# Where text encoders pool


def test_the_pooled_embedding_is_that_of_the_end_token(backbone: Backbone) -> None:
    """Files of the hub say 2, with which transformers takes the highest token: the placeholder."""
    (encoder,), (tokenizer,) = backbone.text_encoders, backbone.tokenizers
    encoder.eos_token_id = encoder.config.eos_token_id = 2
    METHOD.prepare(backbone, settled())
    ids = backbone.tokenize(["a <sks> in the snow"])["input_ids"]
    output = encoder(ids)
    end = ids[0].tolist().index(tokenizer.eos_token_id)
    assert torch.equal(output.pooler_output[0], output.last_hidden_state[0, end])
    encoder.eos_token_id = 2
    highest = encoder(ids).pooler_output[0]
    assert torch.equal(highest, output.last_hidden_state[0, int(ids[0].argmax())])
    assert not torch.allclose(highest, output.pooler_output[0])
    backbone.restore()
    assert encoder.eos_token_id == encoder.config.eos_token_id == 2


# What is saved, and who reads it


@pytest.mark.parametrize("vectors", [1, 3])
def test_the_file_is_read_by_the_stock_loader(
    vectors: int, make_trainer: MakeTrainer, models: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(NAME, num_vectors=vectors, learning_rate=1e-1)
    train_step(trainer)
    METHOD.save(trainer.backbone, trainer.config, tmp_path)
    rows = rows_of(trainer).detach()
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS_FILE]
    tensors = load_file(tmp_path / WEIGHTS_FILE)
    assert list(tensors) == ["<sks>"]
    assert torch.equal(tensors["<sks>"], rows)
    with safe_open(tmp_path / WEIGHTS_FILE, "pt") as file:
        assert file.metadata() == {"placeholder_token": "<sks>"}
    stock = StableDiffusionPipeline.from_pretrained(str(models / "model"), safety_checker=None)
    stock.load_textual_inversion(str(tmp_path))
    ids = stock.tokenizer(stock.maybe_convert_prompt("<sks>", stock.tokenizer)).input_ids[1:-1]
    assert len(ids) == vectors
    assert torch.equal(stock.text_encoder.get_input_embeddings().weight[ids], rows)


def clip_config(width: int) -> dict[str, Any]:
    tokenizer = make_tokenizer()
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 12,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": 2,  # as in the files of the hub
    }


def test_two_text_encoders_have_vectors_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout of SDXL: `clip_l` and `clip_g` in one file, loaded one by one, pooled at the end token."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    one = FAMILIES["StableDiffusionPipeline"]
    (part,) = one.text_encoders
    parts = (replace(part, embeddings="clip_l"), replace(part, name="text_encoder_2", embeddings="clip_g"))
    family = replace(
        one,
        pipeline_class="StableDiffusionXLPipeline",
        text_encoders=parts,
        tokenizers=("tokenizer", "tokenizer_2"),
    )
    monkeypatch.setitem(FAMILIES, family.pipeline_class, family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoders = (
            CLIPTextModel(CLIPTextConfig(**clip_config(16))).eval(),
            CLIPTextModelWithProjection(CLIPTextConfig(**clip_config(24))).eval(),
        )
    modules = dict(zip(("text_encoder", "text_encoder_2"), encoders, strict=True))
    tokenizers = {name: make_tokenizer() for name in family.tokenizers}
    stock = StableDiffusionXLPipeline(
        vae=None, unet=None, scheduler=None, **copy.deepcopy(modules), **copy.deepcopy(tokenizers)
    )
    backbone = Backbone(
        family, tmp_path, dict(modules), tokenizers, torch.device("cpu"), torch.ones(1), "epsilon", 16
    )
    config = settled(num_vectors=2, preserve_norm=True)
    METHOD.prepare(backbone, config)
    groups = METHOD.attach(backbone, config, torch.Generator().manual_seed(0))
    assert [group["name"] for group in groups] == list(METHOD.trained_parts(family, config))
    assert [tuple(group["params"][0].shape) for group in groups] == [(2, 16), (2, 24)]
    with torch.no_grad():
        for group in groups:
            group["params"][0].add_(torch.randn(group["params"][0].shape, generator=torch.Generator()))
    backbone.finish_step()
    for name, table in backbone.added_tables.items():
        median = modules[name].get_input_embeddings().weight.detach().norm(dim=1).median()
        torch.testing.assert_close(table.added.norm(dim=1), median.expand(2), rtol=1e-5, atol=0)

    tokens = backbone.tokenize(["a <sks>"])
    first = encoders[0](tokens["input_ids"], output_hidden_states=True).hidden_states[-2]
    both = encoders[1](tokens["input_ids_2"], output_hidden_states=True)
    (first.sum() + both.text_embeds.sum()).backward()
    assert all(group["params"][0].grad.abs().sum() > 0 for group in groups)

    METHOD.save(backbone, config, tmp_path / "weights")
    tensors = load_file(tmp_path / "weights" / WEIGHTS_FILE)
    assert {key: tuple(value.shape) for key, value in tensors.items()} == {
        "clip_l": (2, 16),
        "clip_g": (2, 24),
    }
    state = torch.get_rng_state()
    loaded = METHOD.load(stock, tmp_path / "weights")
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        states, _, pooled, _ = loaded.encode_prompt(
            "a <sks>", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    torch.testing.assert_close(states, torch.cat([first, both.hidden_states[-2]], dim=-1))
    torch.testing.assert_close(pooled, both.text_embeds)
    backbone.restore()
    assert backbone.added_tables == {}
    assert encoders[1].text_model.eos_token_id == 2


# What is refused


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"placeholder_token": "sks"}, "'sks' is a token of .* already"),
        ({"placeholder_token": "teapot"}, "'teapot' is a token of .* already"),
        ({"initializer_token": "zebra"}, "'zebra' is 5 tokens of"),
        ({"initializer_token": "cat zebra", "num_vectors": 2}, "'zebra' is 5 tokens of"),
        (
            {"placeholder_token": "<MyCat>", "num_vectors": 2},
            "has capital letters, .* of its 2 vectors .* take '<mycat>'",
        ),
        ({"num_vectors": 80}, "80 vectors are as many tokens, and .* reads 77, .* take 75 at most"),
        ({"num_vectors": 70}, "the training prompt 'a .*' has .* learnable_property: null"),
        ({"num_vectors": 75, "learnable_property": None}, "instance_prompt has 78 tokens and .* reads 77"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    fields: dict[str, Any], said: str, make_config: MakeConfig, backbone: Backbone
) -> None:
    config = make_config(NAME, **fields)
    assert re.search(said, "\n".join(check_run(config)))
    if "learnable_property" in fields:
        return  # told before training begins, with the other prompts
    before = backbone.parameter_digest()
    subject = resolve_subject(config.subject, 16)
    with pytest.raises(UserError, match=said):
        build_trainer(config, backbone, subject, Cache(config.cache_dir))
    assert backbone.parameter_digest() == before
    assert backbone.is_base_model()


def test_one_vector_may_have_capital_letters(make_config: MakeConfig) -> None:
    assert not check_run(make_config(NAME, placeholder_token="<MyCat>"))


def test_all_that_does_not_fit_is_said_at_once(make_config: MakeConfig) -> None:
    found = check_run(
        make_config(NAME, placeholder_token="teapot", initializer_token="zebra", num_vectors=80)
    )
    for said in ("'teapot'", "'zebra'", "80 vectors"):
        assert [problem for problem in found if said in problem]


@pytest.mark.parametrize(
    ("instance", "plain"), [("a cat", "a cat"), ("a sks cat by mrk", "a cat"), ("a", "a cat")]
)
def test_prompts_that_do_not_tell_the_subjects_words_are_refused(instance: str, plain: str) -> None:
    with pytest.raises(UserError, match=r"must stand in one place.*write <sks> in the instance prompt"):
        TextualInversionConfig().for_subject(instance, plain)


def test_captions_without_the_subject_are_refused_by_name(make_config: MakeConfig, photos: Path) -> None:
    file = sorted(photos.glob("*.txt"))[0]
    text = file.read_text()
    others = {path: path.read_text() for path in photos.glob("*.txt")}
    try:
        for path in others:
            path.write_text("a dog")
        found = check_run(make_config(NAME, captions="files"))
    finally:
        for path, content in others.items():
            path.write_text(content)
    assert file.read_text() == text
    named = [problem for problem in found if "'a dog' does not hold 'sks cat'" in problem]
    assert len(named) == 3  # those that are trained on
    assert all(".txt" in problem for problem in named)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"placeholder_token": "my cat"}, "one word"),
        ({"placeholder_token": " "}, "one word"),
        ({"placeholder_token": "<sks>_1"}, "must not end with"),
        ({"initializer_token": " "}, "has no word"),
        ({"num_vectors": 0}, "num_vectors"),
        ({"learnable_property": "face"}, "learnable_property"),
    ],
)
def test_nonsense_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TextualInversionConfig(**fields)


def test_what_it_does_not_read_is_told_and_off() -> None:
    """Class images hold no placeholder: their loss would not depend on what trains."""
    config = TextualInversionConfig(
        with_prior_preservation=True, train_text_encoder=True, adam_weight_decay=0.1
    )
    assert not config.with_prior_preservation
    assert not config.train_text_encoder
    assert config.adam_weight_decay == 0
    told = config.without_effect(["with_prior_preservation", "adam_weight_decay", "learning_rate"])
    assert len(told) == 2
    assert all("does not read it" in message for message in told)
    assert "with_prior_preservation" not in config.effective()
