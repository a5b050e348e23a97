"""The projections of a denoiser's cross-attention: which there are, and how those of the text are trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

KEY, VALUE, QUERY, OUTPUT = "to_k", "to_v", "to_q", "to_out.0"


def attention_layers(denoiser: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yields the attention layers that make keys and values of a context of their own, by name.

    Not those in which text and image attend to each other jointly.
    """
    from diffusers.models.attention_processor import Attention

    for name, module in denoiser.named_modules():
        if isinstance(module, Attention) and module.added_kv_proj_dim is None and module.to_k is not None:
            yield name, module


def cross_attention_layers(denoiser: nn.Module) -> dict[str, Any]:
    """Returns the layers that attend to the text, by name; none where text and image attend to each other."""
    return {name: layer for name, layer in attention_layers(denoiser) if layer.is_cross_attention}


def hold_first_token(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
    """A forward hook of a projection: what it makes of the first token gives no gradient.

    Args:
        module: The projection, of the text's states [b, tokens, width].
        inputs: Its arguments.
        output: What it gives, [b, tokens, features].

    Returns:
        The same values; None, which leaves `output`, where no gradient is computed.
    """
    if not torch.is_grad_enabled():
        return None
    return torch.cat([output[:, :1].detach(), output[:, 1:]], 1)
