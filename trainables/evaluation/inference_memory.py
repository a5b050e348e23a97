"""What the weights of a run's result take in memory when they are drawn with: beside the base model's, and merged.

Counted and not measured: bytes of the tensors that the denoiser and the text encoders hold. So the figure is exact, the
same on every device, and has nothing in it of activations, libraries, or the autoencoder, which is that of every run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from trainables.methods.adapters import adapter_layers
from trainables.methods.protocol import Method
from trainables.models.backbone import Backbone


@dataclass(frozen=True)
class InferenceMemory:
    """Bytes of all parameters and buffers of the denoiser and the text encoders, each tensor counted once.

    Attributes:
        beside: With what was trained (adapters, embeddings, networks) beside the base model's weights.
        fused: With adapters merged into them; the same figure where there is nothing to merge, and None where weights
            are quantised, so that nothing can be merged into them.
    """

    beside: int
    fused: int | None


def measure_inference_memory(backbone: Backbone, method: Method) -> InferenceMemory:
    """Counts the bytes of the model as it is now, and with adapters merged; it is left as it was, bit by bit."""
    parts = [backbone.denoiser, *backbone.text_encoders]
    beside = _bytes(parts)
    with method.fused(backbone) as merged:
        if merged is None:
            return InferenceMemory(beside, None)
        # While merged, PEFT keeps the adapters, which a pipeline with merged weights is rid of.
        rest = _of_adapters(parts) if merged else ()
        return InferenceMemory(beside, _bytes(parts, without=rest))


def _of_adapters(parts: Iterable[nn.Module]) -> set[int]:
    """Identities of tensors that PEFT's layers have beside those of the layers in whose place they stand."""
    layers = [layer for part in parts for layer in adapter_layers(part)]
    own = {id(value) for layer in layers for value in _tensors(layer)}
    return own - {id(value) for layer in layers for value in _tensors(layer.get_base_layer())}


def _bytes(parts: Iterable[nn.Module], without: Iterable[int] = ()) -> int:
    left_out = set(without)
    held = {id(value): value for part in parts for value in _tensors(part)}
    return sum(value.nbytes for key, value in held.items() if key not in left_out)


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
