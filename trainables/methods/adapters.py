"""What the methods that train LoRA adapters share: their fields, and attaching, saving and loading by PEFT.

Adapters are injected with PEFT's own `LoraConfig` and written as diffusers writes them, for
``pipe.load_lora_weights``, and once more in kohya's layout; every loader of either file gives the trained scale.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from trainables.config.fields import TrainingConfig
from trainables.errors import UserError
from trainables.methods.kohya import write_kohya
from trainables.models.families import family_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from trainables.config.fields import ModelConfig
    from trainables.models.backbone import Backbone
    from trainables.models.families import Family, Part

ADAPTER = "default"
WEIGHTS_FILE = "pytorch_lora_weights.safetensors"
KOHYA_FILE = "lora_kohya.safetensors"
# Fields that name the modules which get adapters: of the denoiser, and of the text encoders.
_MODULES, _TEXT_MODULES = "target_modules", "text_encoder_target_modules"

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
        text_encoder_target_modules: The same for the text encoders, where `train_text_encoder` is set.
    """

    # The text encoder's rate and the prior's weight have an effect where an arm switches those on.
    EMBEDDED_DEFAULTS: ClassVar[dict[str, Any]] = {
        "learning_rate": 3e-3,
        "text_encoder_learning_rate": 1e-3,
        "prior_loss_weight": 0.3,
    }
    NEEDS: ClassVar[dict[str, dict[str, tuple[Any, ...]]]] = {
        **TrainingConfig.NEEDS,
        "text_encoder_target_modules": {"train_text_encoder": (True,)},
    }

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

    def preset(self, name: str) -> bool:
        """Whether a field of target modules holds one of the short names."""
        value = getattr(self, name)
        return isinstance(value, str) and value in TARGET_PRESETS

    def modules(self, name: str) -> str | tuple[str, ...]:
        """Returns a field of target modules with short names written out: a regular expression or names."""
        value: str | tuple[str, ...] = getattr(self, name)
        return TARGET_PRESETS.get(value, value) if isinstance(value, str) else value

    def effective(self, varied: Collection[str] = ()) -> dict[str, Any]:
        """See `TrainingConfig`; modules stand there by their names, and alpha as the scale that it gives."""
        content = super().effective(varied)
        for name in ("target_modules", "text_encoder_target_modules"):
            if name in content:
                modules = self.modules(name)
                content[name] = modules if isinstance(modules, str) else tuple(sorted(set(modules)))
        if not {"r", "lora_alpha", "use_rslora"} & set(varied):
            del content["lora_alpha"], content["use_rslora"]
            content["scaling"] = self.scaling
        return content

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
    copies: tuple[str, ...] = (KOHYA_FILE,)
    stock_loader: bool = True

    def check(self, config: Any, model: ModelConfig) -> list[str]:
        """Names target modules that the model does not have, or that take no adapters."""
        return check_targets(config, model)

    def trained_parts(self, family: Family, config: Any) -> tuple[str, ...]:
        """Those that get adapters."""
        return tuple(_trained_parts(family, config))

    def prepare(self, backbone: Backbone, config: Any) -> None:
        """Adds no words."""

    def attach(self, backbone: Backbone, config: Any, generator: torch.Generator) -> list[dict[str, Any]]:
        """Injects the adapters."""
        return attach_adapters(backbone, config, generator)

    def detach(self, backbone: Backbone) -> None:
        """Removes the adapters."""
        detach_adapters(backbone)

    def fused(self, backbone: Backbone) -> AbstractContextManager[bool]:
        """Merges the adapters into the weights that they stand beside."""
        return merged(backbone)

    def save(self, backbone: Backbone, config: Any, folder: Path) -> None:
        """Writes ``pytorch_lora_weights.safetensors`` (diffusers) and ``lora_kohya.safetensors`` (kohya's layout)."""
        save_adapters(backbone, config, folder)

    def load(self, pipeline: Any, folder: Path) -> Any:
        """Loads the adapters by ``load_lora_weights``."""
        return load_adapters(pipeline, folder)


def check_targets(config: AdapterConfig, model: ModelConfig) -> list[str]:
    """Returns what is wrong with the target modules of a configuration for a base model that is on this machine.

    The defaults fit every model of the supported layout, so that nothing is looked up for them.
    """
    from trainables.methods.targets import kinds_in
    from trainables.models.families import family_in
    from trainables.models.folders import local_folder

    defaults = {name: field.default for name, field in type(config).model_fields.items()}
    wanted = [
        name
        for name in (_MODULES, _TEXT_MODULES)
        if getattr(config, name) != defaults[name] and not (name == _MODULES and config.preset(name))
    ]
    folder = local_folder(model) if wanted else None
    if folder is None:
        return []
    family = family_in(folder)
    problems = []
    for part, name in _trained_parts(family, config).items():
        if name in wanted:
            with suppress(OSError, ValueError, TypeError):  # what is wrong with the folder is told elsewhere
                problems += _part_problems(
                    config, family.part(part), name, kinds_in(folder, family.part(part))
                )
    return problems


def _trained_parts(family: Family, config: AdapterConfig) -> dict[str, str]:
    """Parts that get adapters -> the field that names their modules."""
    parts = family.trainable(text_encoders=config.train_text_encoder)
    return {part.name: _MODULES if part is family.denoiser else _TEXT_MODULES for part in parts}


def _part_problems(config: AdapterConfig, part: Part, name: str, kinds: Mapping[str, str]) -> list[str]:
    from trainables.methods.targets import target_problems

    # PEFT's orthogonal start is made for linear layers alone.
    linear_only = config.init_lora_weights == "orthogonal"
    words = TARGET_PRESETS if name == _MODULES else ()
    found = target_problems(config.modules(name), kinds, part.title, linear_only=linear_only, words=words)
    because = " (init_lora_weights: orthogonal)" if linear_only else ""
    return [f"{name}: {problem}{because}" for problem in found]


def attach_adapters(
    backbone: Backbone, config: AdapterConfig, generator: torch.Generator
) -> list[dict[str, Any]]:
    """Injects float32 adapters into denoiser and, if asked for, text encoders; returns parameter groups.

    Raises:
        UserError: Target modules match nothing in the model, or what takes no adapters.
    """
    from trainables.methods.targets import kinds_of
    from trainables.randomness import global_seed

    family = backbone.family
    trained = _trained_parts(family, config)
    problems = [
        problem
        for part, name in trained.items()
        for problem in _part_problems(config, family.part(part), name, kinds_of(backbone.modules[part]))
    ]
    if problems:
        raise UserError(*problems)
    backbone.freeze()
    groups = []
    with global_seed(generator):
        for part, name in trained.items():
            module: Any = backbone.modules[part]
            module.add_adapter(_lora_config(config, name), adapter_name=ADAPTER)
            rate = config.text_encoder_learning_rate if name == _TEXT_MODULES else None
            groups.append(_group(part, module, rate or config.learning_rate))
    return groups


def detach_adapters(backbone: Backbone) -> None:
    """Puts the original modules back in place of those that PEFT wrapped, also if it stopped half-way."""
    from diffusers.utils.peft_utils import recurse_remove_peft_layers
    from peft.tuners.tuners_utils import BaseTunerLayer

    for part in backbone.family.trainable(text_encoders=True):
        module = backbone.modules[part.name]
        if any(isinstance(child, BaseTunerLayer) for child in module.modules()):
            recurse_remove_peft_layers(module)
        # Not by what PEFT says of itself: it marks a module before it has wrapped it, or after.
        for mark in ("peft_config", "_hf_peft_config_loaded"):
            vars(module).pop(mark, None)


@contextmanager
def merged(backbone: Backbone) -> Iterator[bool]:
    """Merges adapters by PEFT while the context lasts; True.

    Taking them out by arithmetic would leave rounding errors, so that the base weights come from their copy.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    parts = [part for part, module in backbone.modules.items() if getattr(module, "peft_config", None)]
    layers = [
        layer
        for part in parts
        for layer in backbone.modules[part].modules()
        if isinstance(layer, BaseTunerLayer)
    ]
    for part in parts:
        backbone.will_change(part)
    try:
        for layer in layers:
            layer.merge()
        yield True
    finally:
        for layer in layers:
            layer.merged_adapters.clear()
        backbone.restore_frozen()


def save_adapters(backbone: Backbone, config: AdapterConfig, folder: Path) -> None:
    """Writes the adapters for diffusers, with the scale multiplied into B, and for loaders of kohya's layout.

    Some loaders of diffusers' layout read the scale from the file's metadata, others take 1: with a scale of 1 all of
    them give the same weights.
    """
    from peft.utils import get_peft_model_state_dict

    family = backbone.family
    states: dict[str, dict[str, torch.Tensor]] = {}
    scaled: dict[str, dict[str, torch.Tensor]] = {}
    metadata: dict[str, dict[str, Any]] = {}
    for part in family.trainable(text_encoders=True):
        module = backbone.modules[part.name]
        if getattr(module, "peft_config", None):
            state = get_peft_model_state_dict(module)
            states[part.name] = {key: value.detach().to("cpu").contiguous() for key, value in state.items()}
            scaled[part.name] = {
                key: value * config.scaling if ".lora_B." in key and config.scaling != 1 else value
                for key, value in states[part.name].items()
            }
            metadata[part.name] = _metadata(module)
    family.save_lora(folder, WEIGHTS_FILE, scaled, metadata)
    if family.denoiser.kohya:
        model = family.kohya_metadata(backbone.denoiser.config)
        layers = {family.part(name): state for name, state in states.items()}
        write_kohya(folder / KOHYA_FILE, layers, config.scaling * config.r, config.r, model)
    for path in folder.glob("*.safetensors"):
        _sort_header(path)


def load_adapters(pipeline: Any, folder: Path) -> Any:
    """Loads what `save_adapters` wrote by the stock loader."""
    family_of(pipeline).load_lora(pipeline, folder, WEIGHTS_FILE)
    return pipeline


def _lora_config(config: AdapterConfig, name: str) -> Any:
    from peft import LoraConfig

    targets = config.modules(name)
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
    """Returns the configuration of a saved adapter, the same in every process and on every machine."""
    content = module.peft_config[ADAPTER].to_dict()
    content |= {"lora_alpha": content["r"], "use_rslora": False}  # the scale is in the weights
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
