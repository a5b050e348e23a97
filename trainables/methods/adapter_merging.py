"""Merging loaded adapters into the weights beside which they stand, for good or at any strength."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.methods.adapter_files import adapted_layers, load_adapters
from trainables.methods.strengths import Dial, between

if TYPE_CHECKING:
    from trainables.models.backbone import Backbone
    from trainables.models.families import Part


def adapted_parts_of(backbone: Backbone) -> dict[Part, Any]:
    """Returns part -> module of those with adapters."""
    return {
        part: backbone.modules[part.name]
        for part in backbone.family.trainable(text_encoders=True)
        if adapted_layers(backbone.modules[part.name])
    }


def merge_adapters(backbone: Backbone) -> None:
    """Merges the adapters that were loaded into the weights, by PEFT, and takes them off the modules."""
    from diffusers.utils.peft_utils import recurse_remove_peft_layers

    from trainables.models.structure import forget_adapters

    for module in adapted_parts_of(backbone).values():
        for layer in adapted_layers(module).values():
            layer.merge()
        recurse_remove_peft_layers(module)
        forget_adapters(module)


def adapters_with_strength(backbone: Backbone, weights: Path) -> Dial:
    """Loads adapters, merges them, and returns what turns their strength (see ``strengths.py``).

    Layers whose weights are quantised get the weights that their codes stand for.
    """
    from trainables.models.quantization import QuantizedLinear

    load_adapters(backbone.pipeline(), weights).to(backbone.device)
    for module in adapted_parts_of(backbone).values():
        for layer in adapted_layers(module).values():
            if isinstance(layer.base_layer, QuantizedLinear):
                layer.base_layer = layer.base_layer.whole()
    before = [
        (parameter, parameter.detach().clone())
        for module in adapted_parts_of(backbone).values()
        for layer in adapted_layers(module).values()
        for parameter in layer.get_base_layer().parameters()
    ]
    merge_adapters(backbone)
    return between((parameter, base, parameter.detach()) for parameter, base in before)
