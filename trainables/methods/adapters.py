"""What the methods that train LoRA adapters share: their fields, and attaching, saving and loading by PEFT.

Adapters are injected with PEFT's own `LoraConfig` and written as diffusers writes them, with the adapter's
configuration (alpha among it) as metadata, so that ``pipe.load_lora_weights`` restores the same scale.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from trainables.config import TrainingConfig

if TYPE_CHECKING:
    import torch
    from torch import nn

    from trainables.families import Backbone

ADAPTER = "default"

#: Short names for common choices of target modules; anything else is a list of suffixes or a regular
# expression.
TARGET_PRESETS = {
    "attention": ("to_k", "to_q", "to_v", "to_out.0"),
    "attention_mlp": ("to_k", "to_q", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
}


class AdapterConfig(TrainingConfig):
    """Fields of PEFT's LoraConfig, under its names.

    Attributes:
        r: Rank.
        lora_alpha: None takes `r`, so that the scale is 1 as in diffusers' scripts. The scale that multiplies
            the adapter is lora_alpha / r, or lora_alpha / sqrt(r) with `use_rslora`; see `scaling`.
        lora_dropout: Probability with which inputs of the adapters are zeroed in training.
        target_modules: "attention", "attention_mlp", a list of module name suffixes, or a regular expression.
        init_lora_weights: True: A Kaiming uniform; "gaussian": A normal with deviation 1/r; B zero in both.
            "orthogonal" as in PEFT. Initialisations that alter the base weights are left out: their adapters
            do not load in stock tools.
        text_encoder_target_modules: The same for the text encoder, where `train_text_encoder` is set.
    """

    EMBEDDED_DEFAULTS: ClassVar[dict[str, Any]] = {"learning_rate": 3e-3}

    learning_rate: float = Field(default=1e-4, gt=0, le=10)
    r: int = Field(default=16, ge=1, le=4096)
    lora_alpha: float | None = Field(default=None, gt=0)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "attention_mlp"
    init_lora_weights: bool | Literal["gaussian", "orthogonal"] = "gaussian"
    use_rslora: bool = False
    text_encoder_target_modules: str | tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj")

    @field_validator("init_lora_weights")
    @classmethod
    def _starts_as_the_base_model(cls, value: bool | str) -> bool | str:
        if value is False:
            raise ValueError(
                "init_lora_weights: False starts with random weights added to the base model; "
                "take true, gaussian or orthogonal"
            )
        return value

    @field_validator("target_modules", "text_encoder_target_modules")
    @classmethod
    def _names_something(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value or (isinstance(value, tuple) and not all(value)):
            raise ValueError("target modules must name at least one module, e.g. [to_q, to_v]")
        if isinstance(value, str) and value not in TARGET_PRESETS:
            try:
                re.compile(value)
            except re.error as error:
                presets = ", ".join(TARGET_PRESETS)
                raise ValueError(
                    f"target modules {value!r} are neither one of {presets}, nor a list, nor a regular "
                    f"expression ({error})"
                ) from None
        return value

    @model_validator(mode="after")
    def _orthogonal_needs_an_even_rank(self) -> Self:
        if self.init_lora_weights == "orthogonal" and self.r % 2:
            raise ValueError(f"init_lora_weights: orthogonal needs an even r, got {self.r}")
        return self

    @property
    def scaling(self) -> float:
        """What the product of the two adapter matrices is multiplied with."""
        alpha = self.r if self.lora_alpha is None else self.lora_alpha
        return alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


@dataclass(frozen=True)
class AdapterMethod:
    """A method (see ``protocol.py``) that trains adapters; what differs stands in its configuration class."""

    name: str
    title: str
    config_class: type[TrainingConfig]
    trains: bool = True
    artifact: str = "adapter"

    def attach(self, backbone: Backbone, config: Any, generator: torch.Generator) -> list[dict[str, Any]]:
        """Injects the adapters."""
        return attach_adapters(backbone, config, generator)

    def detach(self, backbone: Backbone) -> None:
        """Removes the adapters."""
        detach_adapters(backbone)

    def save(self, backbone: Backbone, config: Any, folder: Path) -> None:
        """Writes ``pytorch_lora_weights.safetensors``."""
        save_adapters(backbone, folder)

    def load(self, pipeline: Any, folder: Path) -> Any:
        """Loads the adapters by ``load_lora_weights``."""
        return load_adapters(pipeline, folder)


def attach_adapters(
    backbone: Backbone, config: AdapterConfig, generator: torch.Generator
) -> list[dict[str, Any]]:
    """Injects float32 adapters into UNet and, if asked for, text encoder; returns parameter groups."""
    from trainables.randomness import global_seed

    backbone.freeze()
    groups = []
    with global_seed(generator):
        backbone.unet.add_adapter(_lora_config(config, config.target_modules), adapter_name=ADAPTER)
        groups.append(_group("unet", backbone.unet, config.learning_rate))
        if config.train_text_encoder:
            text_config = _lora_config(config, config.text_encoder_target_modules)
            backbone.text_encoder.add_adapter(text_config, adapter_name=ADAPTER)
            rate = config.text_encoder_learning_rate or config.learning_rate
            groups.append(_group("text_encoder", backbone.text_encoder, rate))
    return groups


def detach_adapters(backbone: Backbone) -> None:
    """Puts the original modules back in place of those that PEFT wrapped, also if it stopped half-way."""
    from diffusers.utils.peft_utils import recurse_remove_peft_layers
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in (backbone.unet, backbone.text_encoder):
        if any(isinstance(child, BaseTunerLayer) for child in module.modules()):
            recurse_remove_peft_layers(module)
        # Not by what PEFT says of itself: it marks a module before it has wrapped it, or after.
        for mark in ("peft_config", "_hf_peft_config_loaded"):
            vars(module).pop(mark, None)


def save_adapters(backbone: Backbone, folder: Path) -> None:
    """Writes ``pytorch_lora_weights.safetensors`` with the adapters' configuration as metadata."""
    from diffusers import StableDiffusionPipeline
    from peft.utils import get_peft_model_state_dict

    arguments: dict[str, Any] = {}
    for name, module in (("unet", backbone.unet), ("text_encoder", backbone.text_encoder)):
        if getattr(module, "peft_config", None):
            state = get_peft_model_state_dict(module)
            arguments[f"{name}_lora_layers"] = {
                key: value.detach().to("cpu").contiguous() for key, value in state.items()
            }
            arguments[f"{name}_lora_adapter_metadata"] = _metadata(module)
    StableDiffusionPipeline.save_lora_weights(str(folder), safe_serialization=True, **arguments)
    for path in folder.glob("*.safetensors"):
        _sort_header(path)


def load_adapters(pipeline: Any, folder: Path) -> Any:
    """Loads what `save_adapters` wrote by the stock loader."""
    pipeline.load_lora_weights(str(folder), use_safetensors=True)
    return pipeline


def _lora_config(config: AdapterConfig, targets: str | tuple[str, ...]) -> Any:
    from peft import LoraConfig

    if isinstance(targets, str):
        targets = TARGET_PRESETS.get(targets, targets)
    alpha = config.r if config.lora_alpha is None else config.lora_alpha
    return LoraConfig(
        r=config.r,
        lora_alpha=int(alpha) if float(alpha).is_integer() else alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        init_lora_weights=config.init_lora_weights,
        use_rslora=config.use_rslora,
    )


def _group(name: str, module: nn.Module, rate: float) -> dict[str, Any]:
    import torch

    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        # PEFT gives adapters the base layer's type; Adam's updates vanish in bfloat16.
        parameter.data = parameter.data.to(torch.float32)
    return {"name": name, "params": parameters, "lr": rate}


def _metadata(module: Any) -> dict[str, Any]:
    """Returns an adapter's configuration, the same in every process and on every machine."""
    content = module.peft_config[ADAPTER].to_dict()
    content["base_model_name_or_path"] = None  # a path of this machine
    return {key: sorted(value) if isinstance(value, set) else value for key, value in content.items()}


def _sort_header(path: Path) -> None:
    """Puts a safetensors file's metadata in order, which the library writes in a random one.

    Equal weights then are equal files. The format is 8 bytes with the length of a JSON header, the header,
    and the tensors.
    """
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    entries = sorted(header.items(), key=lambda entry: entry[0] != "__metadata__")  # tensors keep their order
    text = json.dumps(dict(entries), separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
