"""Putting adapters on a base model and taking them off again, for all methods that train adapters.

They are injected with PEFT's own configurations, each for its kind (``adapter_kinds.py``); how they are written and
loaded: ``adapter_files.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.errors import UserError
from trainables.methods.adapter_checks import adapted_parts, adapter_problems, check_adapters
from trainables.methods.adapter_config import TEXT_MODULES, AdapterConfig, matches_pattern
from trainables.methods.adapter_exports import adapter_obstacle, export_adapters
from trainables.methods.adapter_files import (
    ADAPTER,
    KOHYA_FILE,
    WEIGHTS_FILE,
    load_adapters,
    note_beginning,
    save_adapters,
    without_extension,
)
from trainables.methods.adapter_merging import adapters_with_strength
from trainables.methods.protocol import AN_ADAPTER
from trainables.methods.reflections import multiply_at_once
from trainables.methods.targets import Layer, layers_of, targeted

if TYPE_CHECKING:
    import torch
    from torch import nn

    from trainables.config.fields import ModelConfig, TrainingConfig
    from trainables.methods.exporting import Exported, Format, Request
    from trainables.methods.strengths import Dial
    from trainables.models.backbone import Backbone
    from trainables.models.families import Family

__all__ = ["KOHYA_FILE", "WEIGHTS_FILE", "AdapterConfig", "AdapterMethod", "load_adapters"]


@dataclass(frozen=True)
class AdapterMethod:
    """A method (see ``protocol.py``) that trains adapters; what differs stands in its configuration class."""

    name: str
    title: str
    config_class: type[TrainingConfig]
    trains: bool = True
    what_trains: str = AN_ADAPTER
    papers: tuple[str, ...] = ()
    artifact: str = "adapter"
    copies: tuple[str, ...] = (KOHYA_FILE,)
    stock_loader: bool = True
    variant_of: str | None = None

    def check(self, config: Any, model: ModelConfig) -> list[str]:
        """Names target modules that the model does not have, or that take no adapters of this kind and size."""
        return check_adapters(config, model)

    def changes_weights(self, config: Any) -> str | None:
        """Beginnings that move a part of each weight into the adapter do."""
        if not config.alters_base:
            return None
        return (
            f"init_lora_weights: {config.init_lora_weights} moves a part of each into the adapter; take gaussian, true "
            "or orthogonal"
        )

    def trained_parts(self, family: Family, config: Any) -> tuple[str, ...]:
        """Those that get adapters, twice where A and B have rates of their own."""
        groups = 1 if config.ratio_of_rates is None else 2
        return tuple(part for part in adapted_parts(family, config) for _ in range(groups))

    def prepare(self, backbone: Backbone, config: Any) -> None:
        """Adds no words."""

    def attach(self, backbone: Backbone, config: Any, generator: torch.Generator) -> list[dict[str, Any]]:
        """Injects the adapters."""
        return attach_adapters(backbone, config, generator)

    def detach(self, backbone: Backbone) -> None:
        """Removes the adapters."""
        detach_adapters(backbone)

    def fused(self, backbone: Backbone) -> AbstractContextManager[bool | None]:
        """Merges the adapters into the weights that they stand beside."""
        return merged(backbone)

    def save(self, backbone: Backbone, config: Any, folder: Path) -> None:
        """Writes the adapters for diffusers or PEFT, and those that kohya's layout can hold in that one too."""
        save_adapters(backbone, config, folder)

    def load(self, pipeline: Any, folder: Path) -> Any:
        """Loads the adapters by diffusers' loaders, or by PEFT where diffusers has none for their kind."""
        return load_adapters(pipeline, folder)

    def export_obstacle(self, family: Family, config: Any, form: Format) -> str | None:
        """Says what the kind of adapter cannot be written as."""
        return adapter_obstacle(family, config, form)

    def export(self, backbone: Backbone, config: Any, weights: Path, request: Request, out: Path) -> Exported:
        """Writes the adapters for another program."""
        return export_adapters(backbone, config, weights, request, out)

    def with_strength(self, backbone: Backbone, weights: Path) -> Dial:
        """Merges the adapters and returns what turns their strength."""
        return adapters_with_strength(backbone, weights)


def attach_adapters(
    backbone: Backbone, config: AdapterConfig, generator: torch.Generator
) -> list[dict[str, Any]]:
    """Injects float32 adapters into denoiser and, if asked for, text encoders; returns parameter groups.

    Raises:
        UserError: Target modules match nothing in the model, or what takes no adapters of this kind.
    """
    from trainables.randomness import global_seed

    parts = adapted_parts(backbone.family, config)
    layers = {part: layers_of(backbone.modules[part]) for part in parts}
    problems = adapter_problems(config, backbone.family, layers)
    if problems:
        raise UserError(*problems)
    backbone.freeze()
    groups = []
    with global_seed(generator), without_extension():
        for part, name in parts.items():
            module: Any = backbone.modules[part]
            if config.alters_base:
                backbone.will_change(part)
            module.add_adapter(peft_config(config, name, layers[part]), adapter_name=ADAPTER)
            if config.alters_base:
                note_beginning(module)
                backbone.keep_as_frozen(part, _base_weights(module))
            if config.kind.by_rows:
                _lay_out_by_rows(backbone, part)
            multiply_at_once(module)
            if part == backbone.family.denoiser.name:
                backbone.set_aside(partial(_without_adapters, module))
            rate = config.text_encoder_learning_rate if name == TEXT_MODULES else None
            groups += _groups(part, module, rate or config.learning_rate, config.ratio_of_rates)
    return groups


def detach_adapters(backbone: Backbone) -> None:
    """Puts the original modules back in place of those that PEFT wrapped, also if it stopped half-way."""
    from diffusers.utils.peft_utils import recurse_remove_peft_layers

    from trainables.models.structure import forget_adapters

    for part in backbone.family.trainable(text_encoders=True):
        module = backbone.modules[part.name]
        if adapter_layers(module):
            recurse_remove_peft_layers(module)
        # Not by what PEFT says of itself: it marks a module before it has wrapped it, or after.
        forget_adapters(module)


@contextmanager
def merged(backbone: Backbone) -> Iterator[bool | None]:
    """Merges adapters by PEFT while the context lasts; True, or None beside quantised weights, where nothing is done.

    Taking them out by arithmetic would leave rounding errors, so that what is merged is a copy of the layers' weights.
    Codes cannot hold the sum, but for rounding that no one who merges gets: they merge into the model's own weights.
    """
    from trainables.models.quantization import QuantizedLinear

    layers = [
        layer
        for module in backbone.modules.values()
        if getattr(module, "peft_config", None)
        for layer in adapter_layers(module)
    ]
    if any(isinstance(layer.get_base_layer(), QuantizedLinear) for layer in layers):
        yield None
        return
    kept = [
        (parameter, parameter.data) for layer in layers for parameter in layer.get_base_layer().parameters()
    ]
    try:
        for parameter, data in kept:
            parameter.data = data.clone()
        for layer in layers:
            layer.merge()
        yield True
    finally:
        for layer in layers:
            layer.merged_adapters.clear()
        for parameter, data in kept:
            parameter.data = data


@contextmanager
def _without_adapters(module: nn.Module) -> Iterator[None]:
    """Lets a module compute with its base layers alone while the context lasts.

    PEFT's `enable_adapters` would make the adapters' parameters untrainable and then, those of every kind, trainable.
    """
    layers = adapter_layers(module)
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def peft_config(config: AdapterConfig, name: str, layers: Mapping[str, Layer]) -> Any:
    """Returns PEFT's configuration of the adapters of a part.

    Args:
        name: The field with the part's target modules.
        layers: Its modules; patterns that match none of those with adapters are for other parts.
    """
    import peft

    targets = config.modules(name)
    adapted = targeted(targets, layers, config.kind.fits)
    arguments = config.kind.arguments(config)
    for field in {"rank_pattern", "alpha_pattern"} & set(arguments):
        arguments[field] = {
            key: value
            for key, value in arguments[field].items()
            if any(matches_pattern(key, module) for module in adapted)
        }
    return getattr(peft, config.kind.config_class)(
        target_modules=targets if isinstance(targets, str) else list(targets), **arguments
    )


def adapter_layers(module: nn.Module) -> list[Any]:
    """Returns PEFT's layers inside a module."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [child for child in module.modules() if isinstance(child, BaseTunerLayer)]


def _base_weights(module: nn.Module) -> list[nn.Parameter]:
    """Weights beside which a module's adapters stand."""
    return [layer.get_base_layer().weight for layer in adapter_layers(module)]


def _lay_out_by_rows(backbone: Backbone, part: str) -> None:
    """Gives convolutions with adapters the memory layout in which PEFT can view their weights as rows."""
    import torch

    weights = [weight for weight in _base_weights(backbone.modules[part]) if weight.dim() == 4]
    if not weights:
        return
    backbone.will_change(part)
    for weight in weights:
        weight.data = weight.data.contiguous()
    backbone.keep_as_frozen(part, weights)

    def undo() -> None:
        for weight in weights:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    backbone.on_restore(undo)


def _groups(part: str, module: nn.Module, rate: float, ratio: float | None) -> list[dict[str, Any]]:
    """Parameter groups of a part; with LoRA+ one of A, and one of B and what else is a vector, as in PEFT."""
    import torch

    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    for _, parameter in trained:
        # PEFT gives adapters the base layer's type; Adam's updates vanish in bfloat16.
        parameter.data = parameter.data.to(torch.float32)
    if ratio is None:
        return [{"name": part, "params": [parameter for _, parameter in trained], "lr": rate}]
    fast = {name for name, parameter in trained if ".lora_B." in name or parameter.dim() == 1}
    return [
        {"name": part, "params": [value for name, value in trained if name not in fast], "lr": rate},
        {"name": part, "params": [value for name, value in trained if name in fast], "lr": rate * ratio},
    ]
