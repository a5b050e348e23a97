"""Tags in random order, and the empty prompt in a caption's place."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.helpers.captioned_images import TRIGGER, data_set
from tests.helpers.tiny_families import make_tiny
from tests.helpers.training_runs import MakeConfig
from trainables.config.fields import ModelConfig, TrainingConfig
from trainables.data.cache import Cache
from trainables.data.subjects import Subject
from trainables.methods.registry import method_config_class
from trainables.models.backbone import Backbone
from trainables.models.loading import load_backbone
from trainables.run_config import config_digest
from trainables.training import encoding
from trainables.training.captions import CAPTION_ORDERS, caption_orders, training_captions
from trainables.training.encoding import embed_texts
from trainables.training.loop import Trainer, batch_loss
from trainables.training.trainer import build_trainer

FILES: dict[str, Any] = {"captions": "files"}


def build(make_config: MakeConfig, backbone: Backbone, subject: Subject, **fields: Any) -> Trainer:
    config = make_config("text_to_image", model=str(backbone.folder), r=2, **fields)
    return build_trainer(config, backbone, subject, Cache(config.cache_dir))


def test_orders_of_few_tags_are_all_that_there_are() -> None:
    for count in (1, 2, 3):
        tags = [f"tag {number}" for number in range(count)]
        expected = {", ".join(each) for each in itertools.permutations(tags)}
        found = caption_orders(", ".join(tags))
        assert len(found) == len(expected)
        assert set(found) == expected


def test_of_more_tags_there_are_a_few_different_orders() -> None:
    tags = [f"tag {number}" for number in range(6)]
    found = caption_orders(", ".join(tags))
    assert len(set(found)) == len(found) == CAPTION_ORDERS
    assert all(sorted(text.split(", ")) == tags for text in found)
    assert found == caption_orders(", ".join(tags)), "they follow from the caption, not from a run"
    assert found != caption_orders(", ".join([*tags[:5], "tag 7"]))


def test_the_trigger_and_the_tags_that_are_kept_stay_in_front() -> None:
    found = caption_orders("ink, old style, momo, b, c,d , ,e", trigger="ink, old style, ", keep_tokens=1)
    assert len(found) == CAPTION_ORDERS
    for text in found:
        assert text.startswith("ink, old style, momo, ")
        assert sorted(text.removeprefix("ink, old style, momo, ").split(", ")) == ["b", "c", "d", "e"]
    assert caption_orders("a, b", keep_tokens=5) == ("a, b",)
    assert caption_orders("a cat in the snow", keep_tokens=0) == ("a cat in the snow",)


def test_every_order_of_a_caption_is_drawn_as_often() -> None:
    subject = data_set({(16, 16): 4}, captions=["a", "a, b", "a, b, c", "a, b, c, d, e"])
    training = TrainingConfig(shuffle_captions=True, **FILES)
    prompts = training_captions(subject, training)
    assert {len(several) for several in prompts} == {24}
    for several, orders in zip(prompts, (1, 2, 6, 8), strict=True):
        assert set(Counter(several).values()) == {24 // orders}
        assert all(text.startswith(f"{TRIGGER}, ") for text in several)
    plain = training_captions(subject, TrainingConfig(**FILES))
    assert plain == [(caption,) for caption in subject.captions]


def test_a_caption_is_dropped_with_its_chance_and_from_a_stream_of_its_own(
    make_config: MakeConfig, backbone: Backbone
) -> None:
    subject = data_set({(16, 16): 5})
    whole = build(make_config, backbone, subject)
    plain = [whole.batches.draw() for _ in range(400)]
    backbone_with = load_backbone(ModelConfig(path=str(backbone.folder)))
    trainer = build(make_config, backbone_with, subject, caption_dropout=0.25)
    empty = trainer.texts.captions.index("")
    assert "" not in whole.texts.captions
    dropped = 0
    for before in plain:
        batch = trainer.batches.draw()
        assert before.dropped is None
        assert batch.dropped is not None
        assert torch.equal(batch.captions == empty, batch.dropped)
        kept = ~batch.dropped
        assert [trainer.texts.captions[row] for row in batch.captions[kept]] == [
            whole.texts.captions[row] for row in before.captions[kept]
        ]
        assert torch.equal(batch.latents, before.latents)
        assert torch.equal(batch.noise, before.noise)
        assert torch.equal(batch.timesteps, before.timesteps)
        part = batch.part(1, 2)
        assert part.dropped is not None
        assert torch.equal(part.dropped, batch.dropped[1::2])
        dropped += int(batch.dropped.sum())
    # Three standard deviations of 800 draws.
    assert abs(dropped / 800 - 0.25) < 3 * (0.25 * 0.75 / 800) ** 0.5


def test_captions_of_the_class_are_never_dropped(make_config: MakeConfig, backbone: Backbone) -> None:
    config = make_config("lora", r=2, caption_dropout=1.0, with_prior_preservation=True, **FILES)
    subject = data_set({(16, 16): 3}, trigger="")
    subject = Subject(**{**vars(subject), "class_prompt": "a cat", "is_data_set": False})
    trainer = build_trainer(config, backbone, subject, Cache(config.cache_dir))
    batch = trainer.batches.draw()
    assert batch.dropped is not None
    assert batch.dropped.tolist() == [True, True, False, False]
    assert [trainer.texts.captions[row] for row in batch.captions] == ["", "", "a cat", "a cat"]


@pytest.mark.parametrize(("name", "text_encoder"), [("sd1", False), ("sdxl", False), ("sdxl", True)])
def test_what_is_learnt_without_a_caption_is_where_guidance_starts(
    name: str, text_encoder: bool, make_config: MakeConfig, tmp_path: Path
) -> None:
    """The empty prompt; zeros for Stable Diffusion XL, whose pipeline has them in its place."""
    backbone = load_backbone(ModelConfig(path=str(make_tiny(name, tmp_path / name))))
    trainer = build(
        make_config,
        backbone,
        data_set({(16, 16): 2}),
        caption_dropout=1.0,
        train_text_encoder=text_encoder,
    )
    seen: list[torch.Tensor] = []

    def note(module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
        seen.append(keywords["encoder_hidden_states"])
        seen.extend(keywords.get("added_cond_kwargs", {}).get("text_embeds", torch.empty(0))[None])

    trainer.backbone.denoiser.register_forward_pre_hook(note, with_kwargs=True)
    batch_loss(trainer, trainer.batches.draw()).backward()
    if name == "sdxl":
        assert len(seen) == 2
        assert all(not states.any() for states in seen)
    else:
        expected = backbone.encode_prompts([""])["encoder_hidden_states"]
        torch.testing.assert_close(seen[0], expected.expand(2, -1, -1), rtol=1e-4, atol=1e-5)


def test_texts_are_read_once_and_kept_some_at_a_time(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_TEXTS_AT_ONCE", 2)
    cache, captions = Cache(tmp_path), ["a cat", "a dog", "a red cat", "a cat"]
    plain = embed_texts(backbone, cache, captions, as_tokens=False)
    assert plain.captions == ("a cat", "a dog", "a red cat")
    expected = backbone.encode_prompts(plain.captions)["encoder_hidden_states"]
    torch.testing.assert_close(plain.rows["encoder_hidden_states"], expected, rtol=1e-4, atol=1e-5)
    read: list[Any] = []
    encode = backbone.encode_prompts
    monkeypatch.setattr(backbone, "encode_prompts", lambda texts: read.append(list(texts)) or encode(texts))
    with_empty = embed_texts(backbone, cache, [*captions, ""], as_tokens=False)
    assert read == [[""]], "the captions are in the cache"
    assert with_empty.captions == (*plain.captions, "")
    assert torch.equal(with_empty.rows["encoder_hidden_states"][:3], plain.rows["encoder_hidden_states"])


def test_texts_are_read_once_each_by_itself(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, captions = Cache(tmp_path), ["a cat", "a dog", "a red cat", "a cat"]
    plain = embed_texts(backbone, cache, captions, as_tokens=False, each_alone=True)
    assert plain.captions == ("a cat", "a dog", "a red cat")
    expected = backbone.encode_prompts(plain.captions)["encoder_hidden_states"]
    torch.testing.assert_close(plain.rows["encoder_hidden_states"], expected, rtol=1e-4, atol=1e-5)
    read: list[Any] = []
    encode = backbone.encode_prompts
    monkeypatch.setattr(backbone, "encode_prompts", lambda texts: read.append(list(texts)) or encode(texts))
    with_empty = embed_texts(backbone, cache, ["", *captions], as_tokens=False, each_alone=True)
    assert read == [[""]], "the captions are in the cache"
    assert with_empty.captions == (*plain.captions, "")
    assert torch.equal(with_empty.rows["encoder_hidden_states"][:3], plain.rows["encoder_hidden_states"])
    read.clear()
    others = embed_texts(backbone, cache, ["a bird", "a dog"], as_tokens=False, each_alone=True)
    assert read == [["a bird"]], "one data set's captions are another's too"
    anew = embed_texts(
        backbone, Cache(tmp_path / "other"), ["a dog", "a bird"], as_tokens=False, each_alone=True
    )
    for number, text in enumerate(anew.captions):
        row = others.rows["encoder_hidden_states"][others.captions.index(text)]
        assert torch.equal(anew.rows["encoder_hidden_states"][number], row), "whatever else was missing"


def test_fields_without_effect_are_told() -> None:
    config = TrainingConfig(caption_dropout=0.1, shuffle_captions=True, aspect_ratio_buckets=True)
    names = ("caption_dropout", "shuffle_captions", "aspect_ratio_buckets")
    assert config.without_effect(names) == [f"{name} has no effect without captions: files" for name in names]
    (problem,) = TrainingConfig(keep_tokens=1, **FILES).without_effect(["keep_tokens"])
    assert problem == "keep_tokens has no effect without shuffle_captions: true"
    with pytest.raises(ValidationError, match="caption_dropout"):
        TrainingConfig(caption_dropout=1.1)
    with pytest.raises(ValidationError, match="set one of them to false"):
        TrainingConfig(aspect_ratio_buckets=True, with_prior_preservation=True, **FILES)
    assert TrainingConfig(aspect_ratio_buckets=True, masked_loss=True, **FILES).masked_loss


@pytest.mark.parametrize("captions", ["files", "instance_prompt"])
def test_digests_are_those_of_versions_without_the_fields(captions: str, make_config: MakeConfig) -> None:
    config = make_config("lora", captions=captions)
    document = config.model_dump(mode="json")
    new = ("caption_dropout", "shuffle_captions", "keep_tokens", "aspect_ratio_buckets")
    for name in new:
        document["training"].pop(name)
    assert config_digest(document) == config.digest()
    assert not set(new) & set(config.training.effective())
    if captions == "files":
        for name, value in zip(new, (0.1, True, 2, True), strict=True):
            changed = {"shuffle_captions": True, name: value}
            other = make_config("lora", captions=captions, **changed)
            assert other.digest() != config.digest()
            assert other.training.effective()[name] == value


def test_every_method_that_reads_captions_takes_the_fields() -> None:
    for method in ("lora", "dreambooth", "hypernetwork", "textual_inversion", "text_to_image"):
        fields = {"caption_dropout": 0.1, "shuffle_captions": True, "keep_tokens": 1, **FILES}
        config = method_config_class(method).model_validate(fields)
        assert config.without_effect(fields) == []
