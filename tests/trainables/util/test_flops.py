"""Counted operations."""

from __future__ import annotations

import torch

from trainables.util.flops import count_flops


def test_flops_of_a_linear_layer_and_its_backward_pass() -> None:
    layer = torch.nn.Linear(7, 5, bias=False)
    inputs = torch.ones(3, 7, requires_grad=True)
    product = 2 * 3 * 7 * 5
    assert count_flops(lambda: layer(inputs)) == product
    assert count_flops(lambda: layer(inputs).sum().backward()) == 3 * product
    layer.requires_grad_(False)
    assert count_flops(lambda: layer(inputs).sum().backward()) == 2 * product


def test_flops_of_attention_are_counted_on_every_machine() -> None:
    """The CPU's fused kernel is unknown to torch's counter."""
    q = torch.ones(2, 3, 5, 7)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert count_flops(lambda: attention(q, q, q)) == 2 * (2 * 2 * 3 * 5 * 5 * 7)
