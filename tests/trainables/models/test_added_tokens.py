"""What methods add to a base model, words and modules of their own, and how the model is given back without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from trainables.config.fields import ModelConfig
from trainables.data.cache import Cache
from trainables.errors import UserError
from trainables.models.backbone import Backbone
from trainables.models.loading import load_backbone
from trainables.models.sampling import generate
from trainables.run.resident import Resident
from trainables.training.encoding import embed_texts

PROMPT = "a <mine> cat"


class Shift(nn.Module):
    """A module of a method's own: adds a value to each channel of what the denoiser predicts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(channels))

    def hook(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        shifted = output[0] + self.values[:, None, None]
        return (shifted, *output[1:]) if isinstance(output, tuple) else type(output)(sample=shifted)


class WordAndShift:
    """A method that adds a word, a module and a hook, and has no stock loader; `Backbone.restore` undoes all of it."""

    stock_loader = False

    def prepare(self, backbone: Backbone) -> None:
        backbone.add_tokens({"<mine>": "teapot"})

    def attach(self, backbone: Backbone) -> list[nn.Parameter]:
        backbone.freeze()
        shift = Shift(backbone.denoiser.config.out_channels)
        backbone.denoiser.add_module("shift", shift)
        backbone.on_restore(lambda: delattr(backbone.denoiser, "shift"))
        backbone.on_restore(backbone.denoiser.register_forward_hook(shift.hook).remove)
        return [shift.values, *(rows.requires_grad_(True) for rows in backbone.added_embeddings.values())]

    def save(self, backbone: Backbone, file: Path) -> None:
        (rows,) = backbone.added_embeddings.values()
        save_file({"shift": backbone.denoiser.shift.values.detach(), "rows": rows.detach()}, file)

    def load(self, pipeline: Any, file: Path) -> Any:
        tensors = load_file(file)
        pipeline.load_textual_inversion({"<mine>": tensors["rows"][0]}, token="<mine>")
        shift = Shift(len(tensors["shift"]))
        shift.values.data = tensors["shift"]
        pipeline.unet.register_forward_hook(shift.hook)
        return pipeline


def state(backbone: Backbone) -> dict[str, Any]:
    """Everything of a model that a method could change: weights, modules, hooks, tokenizers, configurations."""
    modules = [
        (part, name, id(module), len(module._forward_hooks), len(module._forward_pre_hooks))
        for part, root in backbone.modules.items()
        for name, module in root.named_modules()
    ]
    return {
        # First, since a tokenizer writes down how it was called last.
        "tokens": backbone.tokenize([PROMPT])["input_ids"].tolist(),
        "weights": backbone.parameter_digest(),
        "modules": modules,
        "tokenizers": [tokenizer.backend_tokenizer.to_str() for tokenizer in backbone.tokenizers],
        "ids": [id(tokenizer) for tokenizer in backbone.tokenizers],
        "configurations": [str(part.config) for part in backbone.modules.values()],
        "digest": backbone.digest(prompts=[PROMPT]),
        "pixels": [
            image.tobytes() for image in generate(backbone, [PROMPT], seeds=[1], num_inference_steps=2)
        ],
    }


def step(backbone: Backbone, parameters: list[nn.Parameter]) -> None:
    """Moves what trains."""
    optimizer = torch.optim.AdamW(parameters, lr=0.3)
    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    conditioning = backbone.encode(backbone.tokenize([PROMPT]))
    backbone.denoise(noise, torch.tensor(500), conditioning).square().sum().backward()
    optimizer.step()


def test_words_modules_and_hooks_are_undone_bit_by_bit(backbone: Backbone) -> None:
    before, method = state(backbone), WordAndShift()
    for _ in range(2):
        method.prepare(backbone)
        parameters = method.attach(backbone)
        step(backbone, parameters)
        backbone.lower_precision(torch.bfloat16)
        changed = state(backbone)
        assert not [name for name in before if changed[name] == before[name] and name != "configurations"]
        assert not backbone.is_base_model()
        backbone.restore()
        assert state(backbone) == before
        assert backbone.is_base_model()


def test_only_what_was_added_trains(backbone: Backbone) -> None:
    method = WordAndShift()
    method.prepare(backbone)
    parameters = method.attach(backbone)
    first = [value.detach().clone() for value in parameters]
    base = [value for value in backbone.text_encoders[0].parameters() if value is not parameters[1]]
    kept = [value.detach().clone() for value in base]
    step(backbone, parameters)
    assert all(not torch.equal(value, old) for value, old in zip(parameters, first, strict=True))
    assert all(torch.equal(value, old) for value, old in zip(base, kept, strict=True))


def test_a_word_begins_as_the_text_that_it_is_given(backbone: Backbone) -> None:
    plain = backbone.encode_prompts(["a teapot cat", "a cat"])["encoder_hidden_states"]
    backbone.add_tokens({"<mine>": "teapot", "<other>": "cat dog"})
    again = backbone.encode_prompts([PROMPT, "a cat"])["encoder_hidden_states"]
    assert torch.equal(again, plain)
    (rows,) = backbone.added_embeddings.values()
    weight = backbone.text_encoders[0].get_input_embeddings().weight
    known = backbone.tokenizers[0]("cat dog", add_special_tokens=False).input_ids
    assert torch.equal(rows[1], weight[known].mean(0))


@pytest.mark.parametrize(("words", "said"), [({"a": "cat"}, "already"), ({"<mine>": " "}, "no token")])
def test_words_that_cannot_be_added_change_nothing(
    words: dict[str, str], said: str, backbone: Backbone
) -> None:
    before = state(backbone)
    with pytest.raises(UserError, match=said):
        backbone.add_tokens({"<fine>": "cat"} | words)
    assert state(backbone) == before
    assert backbone.is_base_model()


def test_all_words_are_added_at_once(backbone: Backbone) -> None:
    backbone.add_tokens({"<mine>": "teapot"})
    with pytest.raises(ValueError, match="at once"):
        backbone.add_tokens({"<more>": "cat"})


def test_captions_with_a_word_are_no_entry_of_the_cache_that_others_read(
    backbone: Backbone, tmp_path: Path
) -> None:
    cache = Cache(str(tmp_path))
    plain = embed_texts(backbone, cache, [PROMPT], as_tokens=False).rows["encoder_hidden_states"]
    digest = backbone.digest()
    backbone.add_tokens({"<mine>": "teapot"})
    mine = embed_texts(backbone, cache, [PROMPT], as_tokens=False).rows["encoder_hidden_states"]
    assert not torch.equal(mine, plain)
    assert backbone.digest(prompts=["a cat"]) == backbone.digest() == digest
    assert backbone.digest(prompts=[PROMPT]) != digest
    backbone.restore()
    again = embed_texts(backbone, cache, [PROMPT], as_tokens=False).rows["encoder_hidden_states"]
    assert torch.equal(again, plain)


def test_a_loader_of_the_methods_own_gives_the_same_images(
    backbone: Backbone, models: Path, tmp_path: Path
) -> None:
    method = WordAndShift()
    method.prepare(backbone)
    step(backbone, method.attach(backbone))
    method.save(backbone, tmp_path / "weights.safetensors")

    def draw(pipeline: Any) -> torch.Tensor:
        noise = torch.Generator().manual_seed(1)
        images = pipeline(PROMPT, num_inference_steps=2, generator=noise, output_type="pt").images
        return torch.as_tensor(images)

    other = load_backbone(ModelConfig(path=str(models / "model")))
    base = draw(other.pipeline())
    loaded = draw(method.load(other.pipeline(), tmp_path / "weights.safetensors"))
    assert (loaded - base).abs().max() > 0.01
    torch.testing.assert_close(loaded, draw(backbone.pipeline()), rtol=0, atol=1e-4)


def unannounced_token(backbone: Backbone) -> None:
    backbone.tokenizers[0].add_tokens(["<mine>"])


def unannounced_hook(backbone: Backbone) -> None:
    backbone.denoiser.register_forward_hook(lambda *_: None)


def unannounced_embeddings(backbone: Backbone) -> None:
    encoder = backbone.text_encoders[0]
    encoder.resize_token_embeddings(encoder.get_input_embeddings().num_embeddings + 1)


@pytest.mark.parametrize("change", [unannounced_token, unannounced_hook, unannounced_embeddings])
def test_a_model_with_something_that_nobody_announced_is_loaded_anew(change: Any, models: Path) -> None:
    resident, model = Resident(), ModelConfig(path=str(models / "model"))
    first = resident.backbone(model, torch.device("cpu"))
    change(first)
    resident.take_back(first, lambda: None, sound=True)
    again = resident.backbone(model, torch.device("cpu"))
    assert again is not first
    resident.take_back(again, lambda: None, sound=True)
    assert resident.backbone(model, torch.device("cpu")) is again


def test_a_tokenizer_may_know_tokens_that_the_model_does_not(backbone: Backbone) -> None:
    """Some tokenizers of the hub have more tokens than their text encoder has embeddings."""
    backbone.tokenizers[0].add_tokens(["<gap>", "<other>"])
    plain = backbone.encode_prompts(["a teapot cat"])["encoder_hidden_states"]
    with pytest.raises(IndexError):
        backbone.encode_prompts(["a <gap> cat"])
    with pytest.raises(UserError, match=r"'<gap>' is token \d+ of the tokenizer, .* has \d+ embeddings"):
        backbone.add_tokens({"<mine>": "<gap>"})
    backbone.add_tokens({"<mine>": "teapot"})
    assert torch.equal(backbone.encode_prompts([PROMPT])["encoder_hidden_states"], plain)
    with pytest.raises(IndexError):
        backbone.encode_prompts(["a <gap> cat"])
