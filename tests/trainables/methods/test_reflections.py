"""HRA's reflections in closed form against PEFT's, one after another."""

from __future__ import annotations

import pytest
import torch
from peft import HRAConfig, inject_adapter_in_model
from peft.tuners.hra.layer import HRALayer
from torch import nn

from trainables.methods.reflections import multiply_at_once, product_of_reflections


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


def test_a_forward_merging_and_taking_out_are_those_of_peft() -> None:
    model, layer = layers()
    layer.hra_u["default"].data = torch.randn(45, 6, dtype=torch.float64)
    pixels = torch.randn(3, 45, dtype=torch.float64)
    before = model(pixels)
    weight = layer.get_base_layer().weight.data.clone()
    multiply_at_once(model)
    assert torch.allclose(model(pixels), before, atol=1e-12)
    layer.merge()
    assert torch.allclose(model(pixels), before, atol=1e-12)
    layer.unmerge()
    assert torch.allclose(layer.get_base_layer().weight, weight, atol=1e-12)
