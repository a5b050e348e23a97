"""HRA's reflections in closed form against PEFT's, one after another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import HRAConfig, PeftModel, inject_adapter_in_model
from peft.tuners.hra.layer import HRALayer
from torch import nn

from tests.helpers.training_runs import MakeTrainer
from trainables.config.fields import ModelConfig
from trainables.methods.reflections import multiply_at_once, product_of_reflections
from trainables.methods.registry import get_method
from trainables.models.loading import load_backbone
from trainables.training.loop import train_step


def layers(convolution: bool = False, rank: int = 6) -> tuple[nn.Module, HRALayer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(5, 7, 3, padding=1) if convolution else nn.Linear(45, 7)).double()
    inject_adapter_in_model(HRAConfig(r=rank, target_modules=["0"], init_weights=True), model)
    layer = model[0]
    assert isinstance(layer, HRALayer)
    layer.hra_u["default"].data = layer.hra_u["default"].data.double()
    return model, layer


@pytest.mark.parametrize("convolution", [False, True])
@pytest.mark.parametrize(
    ("rank", "paired"), [(1, False), (2, False), (6, False), (40, False), (2, True), (6, True), (40, True)]
)
def test_they_are_those_of_peft(convolution: bool, rank: int, paired: bool) -> None:
    _, layer = layers(convolution, rank if paired else max(rank, 2))
    vectors = layer.hra_u["default"]
    if not paired:  # they begin in pairs
        vectors.data = 3 * torch.randn(45, rank, dtype=torch.float64)
        layer.hra_r["default"] = rank
    weights = torch.randn(45, 45, dtype=torch.float64)
    for reverse in (False, True):
        theirs = layer.get_delta_weight("default", reverse)
        [their_gradient] = torch.autograd.grad((theirs * weights).sum(), vectors)
        multiply_at_once(layer)
        ours = layer.get_delta_weight("default", reverse)
        [our_gradient] = torch.autograd.grad((ours * weights).sum(), vectors)
        del layer.get_delta_weight
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-13)
        assert torch.allclose(our_gradient, their_gradient, rtol=1e-10, atol=1e-12)


def test_pairs_of_them_are_nothing() -> None:
    vectors = torch.randn(32, 4).repeat_interleave(2, dim=1)
    assert torch.allclose(product_of_reflections(vectors), torch.eye(32), atol=1e-6)


def test_the_product_is_orthogonal_under_autocast_too() -> None:
    vectors = torch.randn(64, 8)
    with torch.autocast("cpu", torch.bfloat16):
        product = product_of_reflections(vectors)
    assert product.dtype == torch.float32
    assert torch.allclose(product @ product.T, torch.eye(64), atol=1e-5)


@pytest.mark.parametrize("convolution", [False, True])
def test_a_forward_merging_and_taking_out_are_those_of_peft(convolution: bool) -> None:
    model, layer = layers(convolution)
    layer.hra_u["default"].data = torch.randn(45, 6, dtype=torch.float64)
    shape = (3, 5, 8, 8) if convolution else (3, 4, 45)
    inputs = torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def results() -> tuple[torch.Tensor, ...]:
        outputs = model(inputs)
        return outputs, *torch.autograd.grad(outputs.square().sum(), (inputs, layer.hra_u["default"]))

    theirs = results()
    weight = layer.get_base_layer().weight.data.clone()
    multiply_at_once(model)
    for ours, their in zip(results(), theirs, strict=True):
        assert torch.allclose(ours, their, rtol=1e-10, atol=1e-11)
    layer.merge()
    assert torch.allclose(model(inputs), theirs[0], atol=1e-12)
    layer.unmerge()
    assert torch.allclose(layer.get_base_layer().weight, weight, atol=1e-12)
    layer.enable_adapters(False)
    assert torch.equal(model(inputs), layer.get_base_layer()(inputs))


@pytest.mark.parametrize("autocast", [False, True])
def test_outputs_have_the_type_of_inputs(autocast: bool) -> None:
    model, layer = layers()
    model.float()
    layer.get_base_layer().to(torch.bfloat16)
    exact = model(torch.ones(2, 45))
    multiply_at_once(model)
    inputs = torch.ones(2, 45, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs = model(inputs)
    assert outputs.dtype == torch.bfloat16
    assert torch.allclose(outputs.float(), exact.float(), rtol=0.05, atol=0.05)


def test_vectors_that_are_made_orthogonal_first_are_left_to_peft() -> None:
    model = nn.Sequential(nn.Linear(45, 7)).double()
    inject_adapter_in_model(HRAConfig(r=6, apply_GS=True, target_modules=["0"]), model)
    vectors = torch.randn(45, 6)
    model[0].hra_u["default"].data = vectors
    inputs = torch.randn(3, 45)
    model.float()
    theirs = model(inputs)
    multiply_at_once(model)
    assert torch.equal(model(inputs), theirs)
    model[0].hra_apply_GS["default"] = False
    assert not torch.allclose(model(inputs), theirs)


def test_peft_alone_draws_what_was_trained(make_trainer: MakeTrainer, models: Path, tmp_path: Path) -> None:
    trainer = make_trainer("lora", adapter="hra", train_text_encoder=True, learning_rate=1e-2)
    for _ in range(3):
        train_step(trainer)
    unet = trainer.backbone.modules["unet"]
    inputs = (
        torch.randn(1, unet.config.in_channels, 8, 8),
        torch.tensor([7]),
        torch.randn(1, 5, unet.config.cross_attention_dim),
    )
    with torch.no_grad():
        ours = unet(*inputs).sample
    get_method("lora").save(trainer.backbone, trainer.config, tmp_path)
    again = load_backbone(ModelConfig(path=str(models / "model"))).modules["unet"]
    with torch.no_grad():
        base = again(*inputs).sample
        theirs = PeftModel.from_pretrained(again, str(tmp_path / "unet"))(*inputs).sample
    assert float((ours - base).abs().max()) > 1e-3
    torch.testing.assert_close(theirs, ours, rtol=0, atol=2e-5)
