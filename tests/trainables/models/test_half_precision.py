"""float16 and a T5 whose feed-forward layers go beyond it: what it reads stays what it reads in float32."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from tests.helpers.exported_weights import load
from tests.helpers.tiny_families import make_tiny
from trainables.methods.registry import get_method, method_config_class
from trainables.models.backbone import Backbone
from trainables.models.sampling import at_rest

PROMPT = "a sks cat"
LARGEST = torch.finfo(torch.float16).max
T5 = {"sd3": "text_encoder_3", "flux": "text_encoder_2"}


@pytest.fixture(params=T5)
def backbone(request: pytest.FixtureRequest, tmp_path: Path) -> Backbone:
    """A model whose T5 has activations as large as those of the published ones, and the same states as before."""
    found = load(make_tiny(request.param, tmp_path / request.param))
    for name, parameter in found.modules[T5[request.param]].named_parameters():
        if name.endswith((".wo.weight", ".o.weight")):
            parameter.data *= 1e6
    found.note_loaded()
    return found


def t5(backbone: Backbone) -> torch.nn.Module:
    return next(backbone.modules[part.name] for part in backbone.family.text_encoders if part.overflows)


def largest_activation(backbone: Backbone) -> float:
    """Of the feed-forward layers."""
    seen: list[float] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output: seen.append(float(output.abs().max())))
        for name, module in t5(backbone).named_modules()
        if name.endswith(".wo")
    ]
    backbone.encode_prompts([PROMPT])
    for hook in hooks:
        hook.remove()
    return max(seen)


def test_it_keeps_float32_and_reads_as_in_float32(backbone: Backbone) -> None:
    assert largest_activation(backbone) > LARGEST
    expected = backbone.encode_prompts([PROMPT])["encoder_hidden_states"]
    untouched = backbone.parameter_digest()

    backbone.lower_precision(torch.float16)
    types = {
        part: {value.dtype for value in module.parameters()} for part, module in backbone.modules.items()
    }
    overflowing = {part.name for part in backbone.family.text_encoders if part.overflows}
    assert len(overflowing) == 1
    assert types == {part: {torch.float32 if part in overflowing else torch.float16} for part in types}
    with at_rest(backbone):
        found = backbone.encode_prompts([PROMPT])["encoder_hidden_states"]
    assert found.dtype == torch.float32  # beside a CLIP in float16 too
    tokens = backbone.tokenize([PROMPT])[f"input_ids_{len(backbone.text_encoders)}"]
    ours, theirs = (value[:, -tokens.shape[1] :] for value in (found, expected))
    assert torch.equal(ours, theirs)

    half = copy.deepcopy(
        t5(backbone)
    ).half()  # what it would read else: transformers clamps what it cannot hold
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        wrong = half(tokens)[0]
    assert not torch.allclose(wrong.float(), theirs, atol=0.1)
    backbone.restore()
    assert backbone.parameter_digest() == untouched


def test_in_bfloat16_it_is_converted_like_every_part(backbone: Backbone) -> None:
    """bfloat16 has the range of float32."""
    backbone.lower_precision(torch.bfloat16)
    assert {value.dtype for value in t5(backbone).parameters()} == {torch.bfloat16}
    with at_rest(backbone):
        assert backbone.encode_prompts([PROMPT])["encoder_hidden_states"].isfinite().all()
    backbone.restore()
    assert backbone.is_base_model()


def test_embeddings_get_their_gradient_through_it(tmp_path: Path) -> None:
    """Textual inversion on FLUX.1, whose words the T5 reads in every step: the gradient is that of float32."""
    backbone, method = load(make_tiny("flux", tmp_path / "flux")), get_method("textual_inversion")
    config = method_config_class("textual_inversion").model_validate({}).for_subject(PROMPT, "a cat")
    method.prepare(backbone, config)
    method.attach(backbone, config, torch.Generator().manual_seed(0))
    found = []
    for half in (False, True):
        if half:
            backbone.lower_precision(torch.float16)
        for value in backbone.added_embeddings.values():
            value.grad = None
        with torch.autocast("cpu", torch.float16, enabled=half):
            states = backbone.encode(backbone.tokenize([config.reword(PROMPT)]))["encoder_hidden_states"]
        assert states.dtype == torch.float32
        states[:, :8].square().sum().backward()
        found.append(backbone.added_embeddings["text_encoder_2"].grad)
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].abs().max() > 0
    assert torch.equal(found[1], found[0])
